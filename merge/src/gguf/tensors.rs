//! The tensors of a GGUF file: their names, and what each is made of.

use common::gguf::{TensorInfo, TensorType};
use common::llama_cpp::{Family, Named};
use common::model::Config;
use common::weight_names::HEAD;
use common::{Result, bail};
use serde_json::Value;

use super::quantization::{Quantization, Shape};
use super::rope;
use crate::plan::{MergePlan, OutputTensor};

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
        /// The size of the heads whose rows are put in another order (see [`common::llama_cpp::neighbours`]).
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
    family: &Family,
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
            && match family.name {
                "qwen2" => true,
                "llama" => heads.is_some_and(|heads| heads.queries != heads.keys),
                _ => false,
            },
    };
    let mut tensors = Vec::new();
    for (name, values) in rope::factors(family.name, json, config) {
        let info = TensorInfo { name, shape: vec![values.len()], kind: TensorType::F32 };
        tensors.push(GgufTensor { info, source: Source::Values(values) });
    }
    for tensor in plan.tensors() {
        let source = &tensor.spec.name;
        if source.ends_with(".rotary_emb.inv_freq") || source == HEAD && head_is_table {
            continue;
        }
        let Some(Named { name, layer }) = family.named(source) else {
            bail!(Unsupported, "tensor {source} has no name in GGUF files of {}", family.name);
        };
        let dimensions = &tensor.spec.shape;
        let kind = quantization.tensor_type(&name, dimensions, layer, shape);
        let size = heads.map_or(0, |heads| heads.size);
        let heads_of = family.reorders(source).then_some(size);
        if heads_of.is_some_and(|size| size == 0 || !dimensions[0].is_multiple_of(size)) {
            bail!(Mismatch, "tensor {source} {dimensions:?} is not of heads of {size} rows");
        }
        let offset = family.offset(source);
        tensors.push(GgufTensor {
            info: TensorInfo { name, shape: dimensions.clone(), kind },
            source: Source::Folded { tensor, heads_of, offset },
        });
    }
    Ok(tensors)
}
