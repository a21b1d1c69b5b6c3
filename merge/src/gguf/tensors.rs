//! The tensors of a GGUF file: their names, and what each is made of.

use common::gguf::{TensorInfo, TensorType};
use common::model::{Config, EMBEDDING, HEAD};
use common::{Result, bail};
use serde_json::Value;

use super::architectures::Architecture;
use super::quantization::{Quantization, Shape};
use super::rope;
use crate::plan::{MergePlan, OutputTensor};

/// The names of the matrices of a layer, in a checkpoint and in GGUF.
const MODULES: [(&str, &str); 11] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// A tensor of a GGUF file.
pub(super) struct GgufTensor<'a> {
    /// The name, shape and type.
    pub info: TensorInfo,
    /// What the values are.
    pub source: Source<'a>,
}

/// What the values of a tensor are.
pub(super) enum Source<'a> {
    /// The weights with all updates, `offset` added to each.
    Folded {
        /// The weights and updates.
        tensor: &'a OutputTensor<'a>,
        /// The size of the heads whose rows are put in another order (see [`neighbours`]).
        heads_of: Option<usize>,
        /// What is added to every value.
        offset: f32,
    },
    /// These numbers.
    Values(Vec<f32>),
}

/// The tensors of a model with its updates, in the order of the checkpoint.
pub(super) fn tensors<'a>(
    plan: &'a MergePlan<'a>,
    architecture: &Architecture,
    json: &Value,
    config: &Config,
    quantization: Quantization,
) -> Result<Vec<GgufTensor<'a>>> {
    let head_is_table = config.tied_head && !plan.untied;
    let heads = config.layers.first().map(|layer| layer.attention.spec.heads);
    let has_many_layers = config.layers.len() == 80;
    let shape = Shape {
        layers: config.layers.len(),
        tied_head: head_is_table || !plan.tensors().any(|tensor| tensor.spec.name == HEAD),
        is_70b: has_many_layers
            && match architecture.name {
                "qwen2" => true,
                "llama" => heads.is_some_and(|heads| heads.queries != heads.keys),
                _ => false,
            },
    };
    let mut tensors = Vec::new();
    for (name, values) in rope::factors(architecture.name, json, config) {
        let info = TensorInfo { name, shape: vec![values.len()], kind: TensorType::F32 };
        tensors.push(GgufTensor { info, source: Source::Values(values) });
    }
    for tensor in plan.tensors() {
        let source = &tensor.spec.name;
        if source.ends_with(".rotary_emb.inv_freq") || source == HEAD && head_is_table {
            continue;
        }
        let Some(Named { name, layer }) = Named::of(source, architecture) else {
            bail!(Unsupported, "tensor {source} has no name in GGUF files of {}", architecture.name);
        };
        let dimensions = &tensor.spec.shape;
        let kind = quantization.tensor_type(&name, dimensions, layer, shape);
        let size = heads.map_or(0, |heads| heads.size);
        let heads_of = architecture.reorders(source).then_some(size);
        if heads_of.is_some_and(|size| size == 0 || !dimensions[0].is_multiple_of(size)) {
            bail!(Mismatch, "tensor {source} {dimensions:?} is not of heads of {size} rows");
        }
        let offset = if source.ends_with("norm.weight") { architecture.norm_offset } else { 0.0 };
        tensors.push(GgufTensor {
            info: TensorInfo { name, shape: dimensions.clone(), kind },
            source: Source::Folded { tensor, heads_of, offset },
        });
    }
    Ok(tensors)
}

/// A tensor's name in GGUF, and the layer that it is in.
pub(super) struct Named {
    /// The name in GGUF.
    pub name: String,
    layer: Option<usize>,
}

impl Named {
    /// The name in GGUF of the tensor `name` of a checkpoint; `None` where it has none.
    pub(super) fn of(name: &str, architecture: &Architecture) -> Option<Self> {
        let outside = |name: &str| Some(Self { name: name.into(), layer: None });
        match name {
            EMBEDDING => return outside("token_embd.weight"),
            HEAD => return outside("output.weight"),
            "model.norm.weight" => return outside("output_norm.weight"),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let known = architecture.norms.iter().chain(&MODULES).find(|(known, _)| *known == module);
        let (_, found) = known.filter(|_| ["weight", "bias"].contains(&part))?;
        let layer: usize = layer.parse().ok()?;
        Some(Self { name: format!("blk.{layer}.{found}.{part}"), layer: Some(layer) })
    }
}

impl Architecture {
    /// Whether the rows of the tensor `name` of a checkpoint are put in another order.
    pub(super) fn reorders(&self, name: &str) -> bool {
        let (module, _) = name.rsplit_once('.').unwrap_or_default();
        self.pairs_are_neighbours && (module.ends_with(".q_proj") || module.ends_with(".k_proj"))
    }
}

/// Puts the rows of heads of `size` rows, `width` values each, in the order of models whose neighbouring elements
/// rotate together: a checkpoint of transformers has the first elements of all pairs, then the second ones.
pub(super) fn neighbours(values: &mut [f32], size: usize, width: usize) {
    let mut head = vec![0.0; size * width];
    for rows in values.chunks_exact_mut(size * width) {
        head.copy_from_slice(rows);
        for (row, out) in rows.chunks_exact_mut(width).enumerate() {
            let source = row % 2 * (size / 2) + row / 2;
            out.copy_from_slice(&head[source * width..(source + 1) * width]);
        }
    }
}
