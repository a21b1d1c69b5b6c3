//! Writes a checkpoint of random weights in the shape that a config.json describes, so that anyone can
//! measure a model without its weights.
//!
//! ```text
//! cargo run --release -p common --example random-checkpoint -- CONFIG.json OUT [nf4|bf16]
//! ```
//!
//! Files that stand beside the config.json (tokenizer and chat template) are copied. Weights are
//! uniform with the standard deviation 0.02 that models begin their training with; norms are 1. Weights of one
//! shape are the same in all layers and experts, and files are written on all threads, so that 72 billion of them are made
//! in seconds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::checkpoint::{Dtype, Tensor, sharded_name, write_file};
use common::model::{Config, LayerConfig, Module, NormWeight, Role, StackConfig};
use common::nf4::{Quantized, Scheme};
use common::{Context, Error, Result, cli, error};
use half::bf16;
use rayon::prelude::*;
use serde_json::{Value, json};

/// √3 · 0.02: the bound of a uniform distribution with standard deviation 0.02.
const BOUND: f32 = 0.034_641;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::warn(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (config, output, kind) = match arguments.as_slice() {
        [config, output] => (config, output, "nf4"),
        [config, output, kind] if kind == "nf4" || kind == "bf16" => (config, output, kind.as_str()),
        _ => return Err(Error::usage("expected CONFIG.json OUT [nf4|bf16]")),
    };
    let (source, output) = (PathBuf::from(config), PathBuf::from(output));
    let mut json: Value =
        serde_json::from_str(&fs_err::read_to_string(&source)?).context(source.display())?;
    let config = Config::parse(&json)?;
    fs_err::create_dir_all(&output)?;
    copy_companions(&source, &output)?;

    let mut weight_map = serde_json::Map::new();
    let count = config.layers.len() + 1;
    let (mut made, mut files) = (Made::default(), Vec::new());
    for file in 0..count {
        let name = sharded_name(file + 1, count);
        let mut tensors = Vec::new();
        let planned = match file {
            0 => outer(&config),
            file => of_layer(&config.layers[file - 1]),
        };
        for (name, shape, values) in planned {
            match values == Values::UniformLinear && kind == "nf4" {
                true => tensors.extend(made.quantized(shape)?.to_tensors(&name)?),
                false => tensors.push(Tensor { name, ..made.dense(shape, values).clone() }),
            }
        }
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        files.push((output.join(name), tensors));
    }
    files.par_iter().try_for_each(|(path, tensors)| write_file(path, tensors))?;
    let index = json!({"metadata": {}, "weight_map": weight_map});
    cli::write_file(&output.join("model.safetensors.index.json"), &index.to_string())?;
    if kind == "nf4" {
        json["quantization_config"] = json!({
            "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true,
            "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
        });
    }
    cli::write_file(&output.join("config.json"), &serde_json::to_string_pretty(&json)?)?;
    cli::print_path(&output)
}

/// Name, shape, and values.
type Planned = (String, Vec<usize>, Values);

/// What was made, by shape and values.
#[derive(Default)]
struct Made {
    dense: Vec<(Vec<usize>, Values, Tensor)>,
    quantized: Vec<(Vec<usize>, Quantized)>,
}

impl Made {
    fn dense(&mut self, shape: Vec<usize>, values: Values) -> &Tensor {
        let place = self.dense.iter().position(|made| made.0 == shape && made.1 == values);
        let place = place.unwrap_or_else(|| {
            let tensor = random(&shape, values, self.dense.len() as u64 + 1);
            self.dense.push((shape, values, tensor));
            self.dense.len() - 1
        });
        &self.dense[place].2
    }

    fn quantized(&mut self, shape: Vec<usize>) -> Result<&Quantized> {
        let place = match self.quantized.iter().position(|made| made.0 == shape) {
            Some(place) => place,
            None => {
                let dense = self.dense(shape.clone(), Values::UniformLinear);
                let quantized = Quantized::quantize(dense, Scheme::default())?;
                self.quantized.push((shape, quantized));
                self.quantized.len() - 1
            }
        };
        Ok(&self.quantized[place].1)
    }
}

/// The values of a tensor.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// All the same: those that make a norm change nothing.
    Constant(f32),
    /// Uniform numbers.
    Uniform,
    /// Uniform numbers, quantized where that is asked for.
    UniformLinear,
}

/// Embedding, last norm and head.
fn outer(config: &Config) -> Vec<Planned> {
    let head = (!config.tied_head).then(|| config.head());
    let mut tensors = of_module(&config.embedding());
    tensors.push(of_norm(&config.last_norm()));
    tensors.extend(head.iter().flat_map(of_module));
    tensors
}

fn of_layer(layer: &LayerConfig) -> Vec<Planned> {
    let modules = layer.stacks().flat_map(StackConfig::modules).chain(layer.router());
    modules.flat_map(of_module).chain(layer.norms().map(of_norm)).collect()
}

fn of_module(module: &Module) -> Vec<Planned> {
    let values = if module.role == Role::Projection { Values::UniformLinear } else { Values::Uniform };
    let weight = (module.weight(), module.shape.to_vec(), values);
    let bias = module.bias().map(|name| (name, vec![module.shape[0]], Values::Uniform));
    [weight].into_iter().chain(bias).collect()
}

fn of_norm(norm: &NormWeight) -> Planned {
    (norm.name.clone(), vec![norm.len], Values::Constant(1.0 - norm.offset))
}

/// A bf16 tensor.
fn random(shape: &[usize], values: Values, seed: u64) -> Tensor {
    const PIECE: usize = 1 << 16;
    let count: usize = shape.iter().product();
    let mut bytes = vec![0u8; 2 * count];
    bytes.par_chunks_mut(2 * PIECE).enumerate().for_each(|(piece, bytes)| {
        // A linear congruential generator per piece; its high bits are random enough for weights.
        let mut state = (seed << 32 | piece as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for value in bytes.chunks_exact_mut(2) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            let number = match values {
                Values::Constant(value) => value,
                Values::Uniform | Values::UniformLinear => unit * BOUND,
            };
            value.copy_from_slice(&bf16::from_f32(number).to_le_bytes());
        }
    });
    Tensor { name: String::new(), dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.into() }
}

/// Copies tokenizer and chat template.
fn copy_companions(config: &Path, output: &Path) -> Result<()> {
    let directory = config.parent().ok_or_else(|| error!(Bug, "{} is in no directory", config.display()))?;
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    ] {
        let from = directory.join(name);
        if from.exists() {
            fs_err::copy(from, output.join(name))?;
        }
    }
    Ok(())
}
