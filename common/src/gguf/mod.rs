//! GGUF files, version 3, as llama.cpp, Ollama and others read them: metadata, then the tensors' names, shapes
//! and types, then their bytes at multiples of an alignment.
//!
//! | file | what it is |
//! |---|---|
//! | `metadata` | the keys and values in front of the tensors |
//! | `tensor_type` | the types of tensors, and the bytes of a row of each |
//! | `blocks` | numbers to blocks and back: what each type stores |
//! | `writer` | a file, tensor by tensor, with only a few rows in memory |
//! | `reader` | the header of a file, and the bytes of its tensors |
//!
//! This module knows the format and nothing of models.

mod blocks;
mod metadata;
mod reader;
mod tensor_type;
mod writer;

pub use blocks::{decode_rows, encode_rows};
pub use metadata::{Metadata, Value};
pub use reader::GgufFile;
pub use tensor_type::{TensorInfo, TensorType};
pub use writer::GgufWriter;

/// The first four bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";
/// The version of the format.
const VERSION: u32 = 3;
/// The bytes of every tensor begin at a multiple of this number, from where the first begins.
const ALIGNMENT: u64 = 32;
