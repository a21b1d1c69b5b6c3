//! Charts as PNG files: dark on light, with labelled axes, readable without a display or a font on
//! the machine.
//!
//! | file | what it is |
//! |---|---|
//! | [`bar`] | a bar for each of many things, in groups |
//! | [`mod@line`] | values over steps |
//! | `canvas` | the font, the colours, and a file that appears whole |

pub mod bar;
mod canvas;
pub mod line;

pub use bar::{Bar, BarChart, BarGroup};
pub use line::{Line, LineChart};
