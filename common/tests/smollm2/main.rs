//! A real model, SmolLM2-135M-Instruct, against transformers, PEFT and bitsandbytes in f32.
//!
//! | file | what is proved |
//! |---|---|
//! | `answers` | logits and greedy tokens (`scripts/golden/smollm2.py`) |
//! | `training` | gradients and ten optimizer steps (`scripts/golden/training.py`) |
//!
//! Every test prints the largest difference it met, and how much of its budget that is.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test file as a whole

mod answers;
mod training;

use std::path::{Path, PathBuf};

use common::checkpoint::{Checkpoint, SINGLE, Tensor, write_file};
use common::device::Device;
use common::model::Model;
use common::nf4::{Quantized, Scheme};
use tests::tolerance::Budget;

const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The frozen weights that the goldens were made with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    /// As the checkpoint has them, bf16.
    Dense,
    /// NF4 with double quantization.
    Nf4,
    /// NF4 without.
    Nf4Plain,
}

impl Base {
    /// As the goldens name it.
    fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Nf4 => "nf4",
            Self::Nf4Plain => "nf4_plain",
        }
    }

    /// The model on this base, or `None` where there is none to test with.
    fn load(self) -> Option<Model> {
        let directory = tests::needs::model()?;
        if self == Self::Dense {
            return Some(Model::load(&directory, &Device::Cpu).unwrap());
        }
        let quantized = tempfile::tempdir().unwrap();
        quantize(&directory, quantized.path(), self == Self::Nf4);
        // The files stay mapped when the directory goes.
        Some(Model::load(quantized.path(), &Device::Cpu).unwrap())
    }
}

/// Writes the model with its linear layers in NF4. They are widened to f32 first, as the goldens'
/// were, so that dequantized values are not rounded to bf16.
fn quantize(from: &Path, to: &Path, double_quant: bool) {
    let scheme = Scheme { double_quant, ..Scheme::default() };
    let checkpoint = Checkpoint::open(from).unwrap();
    let tensors = checkpoint.tensors().flat_map(|tensor| {
        let module = tensor.name.strip_suffix(".weight");
        let linear = module.is_some_and(|module| PROJECTIONS.iter().any(|name| module.ends_with(name)));
        if !linear {
            return vec![tensor];
        }
        let tensor = Tensor::from_f32(tensor.name.clone(), tensor.shape.clone(), &tensor.to_f32().unwrap());
        Quantized::quantize(&tensor, scheme).unwrap().to_tensors(&tensor.name).unwrap()
    });
    write_file(&to.join(SINGLE), &tensors.collect::<Vec<_>>()).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(file)
}
