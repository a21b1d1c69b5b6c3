//! What a GGUF file holds of a model with its adapters, or of an adapter, for llama.cpp, Ollama and LM Studio.
//!
//! The file has what llama.cpp's converter would make of the merged directory, and llama-quantize of that, without
//! either on the disk: each tensor is folded in f32, a few rows at a time, and goes to the file in its final type.
//!
//! | file | what it is |
//! |---|---|
//! | `architectures` | the families that llama.cpp knows, and what it wants to know of each |
//! | `differences` | models that llama.cpp would compute in another way |
//! | `rope` | rotary embeddings |
//! | `tensors` | names and sources of the tensors |
//! | `quantization` | which type each tensor gets |
//! | `write` | tensors to the file |
//! | `general` | what describes the file |
//! | `vocabulary` | the tokenizer |
//! | `model` | a model with its adapters |
//! | `adapter` | an adapter alone |

mod adapter;
mod architectures;
mod differences;
mod general;
mod model;
mod quantization;
mod rope;
mod tensors;
mod vocabulary;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use adapter::AdapterTensors;
pub(crate) use architectures::Architecture;
pub(crate) use model::ModelTensors;
pub(crate) use quantization::Quantization;
