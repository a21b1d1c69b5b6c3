//! What the tools share.
//!
//! | module | what it is |
//! |---|---|
//! | [`adapter`] | LoRA adapters as PEFT writes them |
//! | [`chart`] | charts as PNG files |
//! | [`checkpoint`] | safetensors directories: memory-mapped reading, atomic writing |
//! | [`cli`] | the command-line contract: paths in and out, progress, exit codes |
//! | [`data`] | instruction data: files, formats, conversations |
//! | [`device`] | where tensors live and products run |
//! | [`disk`] | directories, free space, and bringing bytes to the disk |
//! | [`mod@error`] | the one error type: what went wrong, and the `hint:` that mends it |
//! | [`files`] | reads files of other programs: regular ones of a bounded size, and memory maps |
//! | [`gguf`] | GGUF files: blocks of 4 to 8 bits, streaming writer, reader |
//! | [`generate`] | answers token by token: sessions, sampling, stops |
//! | [`host_memory`] | the memory of the machine and of this process |
//! | [`hub_cache`] | the hub's own cache, and the models in it |
//! | [`json`] | JSON as Python reads it, numbers of any size included |
//! | [`kernels`] | the operations of the model, forward beside backward |
//! | [`llama_cpp`] | models as llama.cpp names and stores them: GGUF files read as directories are |
//! | [`model`] | the decoder: forward, hand-written backward, adapters |
//! | [`models`] | the options that say how models are loaded; adapters of one base together |
//! | [`nf4`] | 4-bit weights as bitsandbytes defines them |
//! | [`panics`] | panics of libraries, as errors |
//! | `shared_memory` | memory that processes of a machine share |
//! | [`text`] | tokenizer, chat templates, label masks |
//! | [`weight_names`] | the names of a text model's weights, and the others under which they are found |
//! | [`world`] | runs of several processes, one on each GPU |

pub mod adapter;
pub mod chart;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod disk;
pub mod error;
pub mod files;
pub mod generate;
pub mod gguf;
pub mod host_memory;
pub mod hub_cache;
pub mod json;
pub mod kernels;
pub mod llama_cpp;
pub mod model;
pub mod models;
pub mod nf4;
pub mod panics;
mod shared_memory;
pub mod text;
pub mod weight_names;
pub mod world;

pub use error::{Context, Error, Result};

/// Bytes as lower-case hexadecimal digits, two each, as digests are written.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
