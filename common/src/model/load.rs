//! Loading: a directory's tensors become the decoder's frozen weights, mapped and not copied.

use std::path::{Path, PathBuf};

use super::block::Block;
use super::head::Head;
use super::modules::{Module, NormWeight};
use super::{Adapters, Config, Model, Weights};
use crate::adapter::{self, Adapter, AdapterConfig};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::device::{Device, Vector};
use crate::kernels::embedding::Embedding;
use crate::kernels::linear::{Linear, Projection, Weight};
use crate::nf4::Scheme;
use crate::{Context, Result, error};

/// Whether a directory holds a PEFT adapter and not a model.
pub fn is_adapter(directory: &Path) -> bool {
    directory.join("adapter_config.json").exists()
}

/// The base that an adapter directory names.
pub fn base_of_adapter(directory: &Path) -> Result<PathBuf> {
    adapter::find_base(directory, &AdapterConfig::read(directory)?)
}

pub(super) fn load(directory: &Path, base: Option<&Path>, device: &Device) -> Result<Model> {
    if !is_adapter(directory) {
        return load_base(directory, None, device);
    }
    let base = match base {
        Some(base) => base.to_path_buf(),
        None => base_of_adapter(directory)?,
    };
    let mut model = load_base(&base, None, device)?;
    let adapter = Adapter::load(directory)?;
    model.set_adapter(&adapter).with_context(|| directory.display().to_string())?;
    Ok(model)
}

pub(super) fn load_base(directory: &Path, quantization: Option<Scheme>, device: &Device) -> Result<Model> {
    let Weights { config, checkpoint } = Weights::open(directory)?;
    let source = Source { checkpoint: &checkpoint, config: &config, quantization, device };
    let embeddings = source.weight(&config.embedding())?;
    let head = Projection {
        name: "lm_head".into(),
        weight: match config.tied_head {
            true => embeddings.clone(),
            false => source.weight(&config.head())?,
        },
        bias: None,
        adapter: None,
    };
    let head = Head {
        norm: source.norm(&config.last_norm())?,
        projection: Linear::new(vec![head])?.to_device(device)?,
        epsilon: config.epsilon,
    };
    let embedding = match config.tied_head {
        true => Embedding::tied(embeddings, &head.projection),
        false => Embedding::new(embeddings),
    };
    let blocks = (0..config.layers).map(|layer| source.block(layer)).collect::<Result<_>>()?;
    Ok(Model { device: device.clone(), embedding, blocks, head, adapters: Adapters::none(), config })
}

struct Source<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    /// Of linear layers that are not quantized in the checkpoint.
    quantization: Option<Scheme>,
    device: &'a Device,
}

impl Source<'_> {
    fn block(&self, layer: usize) -> Result<Block> {
        let modules = self.config.block(layer);
        Ok(Block {
            input_norm: self.norm(&modules.input_norm)?,
            qkv: self.stack(&modules.qkv)?,
            head_norms: modules.head_norms.map(|norms| self.head_norms(&norms)).transpose()?,
            output: self.stack(&modules.output)?,
            post_norm: self.norm(&modules.post_norm)?,
            gate_up: self.stack(&modules.gate_up)?,
            down: self.stack(&modules.down)?,
        })
    }

    /// The weight of a norm, where it is used.
    fn norm(&self, norm: &NormWeight) -> Result<Vector> {
        Vector::from_vec(self.vector(&norm.name, norm.len)?, self.device)
    }

    /// The norm of every query head, then of every key head, [H + K, D].
    fn head_norms(&self, [query, key]: &[NormWeight; 2]) -> Result<Vector> {
        let heads = self.config.heads;
        let query = self.vector(&query.name, query.len)?;
        let key = self.vector(&key.name, key.len)?;
        Vector::from_vec([query.repeat(heads.queries), key.repeat(heads.keys)].concat(), self.device)
    }

    /// Linear layers of one input, where they are multiplied.
    fn stack(&self, modules: &[Module]) -> Result<Linear> {
        let projections = modules.iter().map(|module| self.projection(module));
        Linear::new(projections.collect::<Result<_>>()?)?.to_device(self.device)
    }

    fn projection(&self, module: &Module) -> Result<Projection> {
        let bias = match module.has_bias {
            true => Some(self.vector(&format!("{}.bias", module.name), module.shape[0])?),
            false => None,
        };
        let weight = match self.quantization {
            Some(scheme) => self.weight(module)?.quantized(scheme)?,
            None => self.weight(module)?,
        };
        Ok(Projection { weight, bias, adapter: None, name: module.name.clone() })
    }

    fn weight(&self, module: &Module) -> Result<Weight> {
        Weight::load(self.checkpoint, &format!("{}.weight", module.name), module.shape)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        vector_of(self.checkpoint, name, len)?.to_f32()
    }
}

/// A tensor of `len` numbers.
pub(super) fn vector_of(checkpoint: &Checkpoint, name: &str, len: usize) -> Result<Tensor> {
    let tensor = checkpoint.tensor(name)?;
    match tensor.shape == [len] {
        true => Ok(tensor),
        false => Err(error!(Malformed, "tensor {name}: shape [{len}] expected, found {:?}", tensor.shape)),
    }
}
