//! Loading: a directory's tensors become the decoder's frozen weights, mapped and not copied.

use std::path::{Path, PathBuf};

use super::block::Block;
use super::head::Head;
use super::{Adapters, Config, Model};
use crate::adapter::{self, Adapter, AdapterConfig};
use crate::checkpoint::Checkpoint;
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
    let config = Config::read(directory)?;
    let checkpoint = Checkpoint::open(directory)?;
    let source = Source { checkpoint: &checkpoint, config: &config, quantization, device };
    let table = [config.vocabulary, config.width];
    let embeddings = source.weight("model.embed_tokens", table)?;
    let head = Projection {
        name: "lm_head".into(),
        weight: match config.tied_head {
            true => embeddings.clone(),
            false => source.weight("lm_head", table)?,
        },
        bias: None,
        adapter: None,
    };
    let head = Head {
        norm: source.norm("model.norm.weight", config.width)?,
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
        let config = self.config;
        let (c, f, heads) = (config.width, config.feed_forward, config.heads);
        let (q, kv) = (heads.queries * heads.size, heads.keys * heads.size);
        let path = |module: &str| format!("model.layers.{layer}.{module}");
        let norm = |module: &str, len| self.norm(&path(&format!("{module}.weight")), len);
        let stack = |modules: &[(&str, usize)], k: usize, bias: bool| {
            let projections = modules.iter().map(|&(module, n)| self.projection(path(module), [n, k], bias));
            Linear::new(projections.collect::<Result<_>>()?)?.to_device(self.device)
        };
        let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        Ok(Block {
            input_norm: norm("input_layernorm", c)?,
            qkv: stack(&qkv, c, config.qkv_bias)?,
            head_norms: match config.head_norm {
                true => Some(self.head_norms(&path("self_attn"))?),
                false => None,
            },
            output: stack(&[("self_attn.o_proj", c)], q, config.output_bias)?,
            post_norm: norm("post_attention_layernorm", c)?,
            gate_up: stack(&[("mlp.gate_proj", f), ("mlp.up_proj", f)], c, config.mlp_bias)?,
            down: stack(&[("mlp.down_proj", c)], f, config.mlp_bias)?,
        })
    }

    /// The weight of a norm, where it is used.
    fn norm(&self, name: &str, len: usize) -> Result<Vector> {
        Vector::from_vec(self.vector(name, len)?, self.device)
    }

    /// The norm of every query head, then of every key head, [H + K, D].
    fn head_norms(&self, attention: &str) -> Result<Vector> {
        let heads = self.config.heads;
        let query = self.vector(&format!("{attention}.q_norm.weight"), heads.size)?;
        let key = self.vector(&format!("{attention}.k_norm.weight"), heads.size)?;
        Vector::from_vec([query.repeat(heads.queries), key.repeat(heads.keys)].concat(), self.device)
    }

    fn projection(&self, name: String, shape: [usize; 2], bias: bool) -> Result<Projection> {
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), shape[0])?),
            false => None,
        };
        let weight = match self.quantization {
            Some(scheme) => self.weight(&name, shape)?.quantized(scheme)?,
            None => self.weight(&name, shape)?,
        };
        Ok(Projection { weight, bias, adapter: None, name })
    }

    fn weight(&self, module: &str, shape: [usize; 2]) -> Result<Weight> {
        Weight::load(self.checkpoint, &format!("{module}.weight"), shape)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.checkpoint.tensor(name)?;
        if tensor.shape != [len] {
            return Err(error!("tensor {name}: shape [{len}] expected, found {:?}", tensor.shape));
        }
        tensor.to_f32()
    }
}
