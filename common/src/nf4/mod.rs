//! 4-bit weights as bitsandbytes defines them: NF4 and FP4, with or without double quantization.
//!
//! | file | what it is |
//! |---|---|
//! | `codebook` | the sixteen values of each type, and the thresholds between them |
//! | `block` | numbers to codes |
//! | `dequantize` | codes to numbers, the inner loop of training on a CPU |
//! | `double` | the absmax of blocks as 8-bit codes |
//! | `dynamic` | the 8-bit data types of such codes |
//! | `state` | the JSON that bitsandbytes keeps beside a weight |
//! | `quantized` | a quantized weight in memory |
//! | `file` | a quantized weight in a checkpoint |
//! | `simd` | which instructions to use |

mod block;
mod codebook;
mod dequantize;
mod double;
mod dynamic;
mod file;
mod quantized;
mod simd;
mod state;

pub use codebook::{FP4, NF4, QuantType};
pub use double::NESTED_BLOCK_SIZE;
pub use dynamic::DynamicMap;
pub use file::part_of;
pub use quantized::{Absmax, Quantized, QuantizedSpec, Scheme};
pub use state::BLOCK_SIZES;
