//! Charts as PNG files: dark on light, with labelled axes, readable without a display or a font on
//! the machine.
//!
//! | file | what it is |
//! |---|---|
//! | [`line`] | values over steps |
//! | `canvas` | the font, the colours, and a file that appears whole |

mod canvas;
pub mod line;

pub use line::{Line, LineChart};
