//! Loading: a directory's tensors become the decoder's frozen weights, mapped and not copied.

use std::path::{Path, PathBuf};

use super::block::Block;
use super::head::Head;
use super::modules::{Module, NormWeight};
use super::{Adapters, Model, Weights};
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
    let weights = WeightReader { checkpoint: &checkpoint, quantization, device };
    let table = weights.weight(&config.embedding())?;
    let head = Projection {
        name: "lm_head".into(),
        weight: match config.tied_head {
            true => table.clone(),
            false => weights.weight(&config.head())?,
        },
        bias: None,
        adapter: None,
    };
    let head = Head {
        norm: weights.scaled_norm(&config.last_norm(), config.logit_scale)?,
        softcap: config.logit_softcap,
        projection: Linear::new(vec![head])?.to_device(device)?,
        epsilon: config.epsilon,
    };
    let embedding = match config.tied_head {
        true => Embedding::tied(table, config.embedding_scale, &head.projection),
        false => Embedding::new(table, config.embedding_scale),
    };
    let blocks = config.layers.iter().map(|layer| Block::load(layer, &weights)).collect::<Result<_>>()?;
    Ok(Model { device: device.clone(), embedding, blocks, head, adapters: Adapters::none(), config })
}

/// Reads the weights of a checkpoint to where they are used.
pub(super) struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    /// How linear layers of blocks that are not in 4 bits in the checkpoint are quantized.
    quantization: Option<Scheme>,
    device: &'a Device,
}

impl WeightReader<'_> {
    /// The weight of a norm whose results are all multiplied with `scale`.
    fn scaled_norm(&self, norm: &NormWeight, scale: f32) -> Result<Vector> {
        let mut weight = self.vector(&norm.name, norm.len)?;
        weight.iter_mut().for_each(|weight| *weight = (*weight + norm.offset) * scale);
        Vector::from_vec(weight, self.device)
    }

    /// The weight of a norm.
    pub(super) fn norm(&self, norm: &NormWeight) -> Result<Vector> {
        self.repeated_norms(&[(norm, 1)])
    }

    /// Weights of norms one after the other, each as often as it says.
    pub(super) fn repeated_norms(&self, norms: &[(&NormWeight, usize)]) -> Result<Vector> {
        let mut values = Vec::new();
        for (norm, times) in norms {
            let mut weight = self.vector(&norm.name, norm.len)?;
            weight.iter_mut().for_each(|weight| *weight += norm.offset);
            values.extend(weight.repeat(*times));
        }
        Vector::from_vec(values, self.device)
    }

    /// Linear layers of one input, stacked.
    pub(super) fn stack(&self, modules: &[Module]) -> Result<Linear> {
        let projections = modules.iter().map(|module| self.projection(module));
        Linear::new(projections.collect::<Result<_>>()?)?.to_device(self.device)
    }

    fn projection(&self, module: &Module) -> Result<Projection> {
        let bias = module.bias().map(|name| self.vector(&name, module.shape[0])).transpose()?;
        let weight = match self.quantization {
            Some(scheme) => self.weight(module)?.quantized(scheme)?,
            None => self.weight(module)?,
        };
        Ok(Projection { weight, bias, adapter: None, name: module.name.clone() })
    }

    fn weight(&self, module: &Module) -> Result<Weight> {
        Weight::load(self.checkpoint, &module.weight(), module.shape)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        vector_of(self.checkpoint, name, len)?.to_f32()
    }
}

/// The tensor `name`, which must have the shape [len].
pub(super) fn vector_of(checkpoint: &Checkpoint, name: &str, len: usize) -> Result<Tensor> {
    let tensor = checkpoint.tensor(name)?;
    match tensor.shape == [len] {
        true => Ok(tensor),
        false => Err(error!(Malformed, "tensor {name}: shape [{len}] expected, found {:?}", tensor.shape)),
    }
}
