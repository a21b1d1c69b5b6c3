//! The tensors of a GGUF file: their names, and what each is made of.

use std::collections::BTreeMap;

use common::gguf::{TensorInfo, TensorType};
use common::llama_cpp::{Family, Named};
use common::model::Config;
use common::weight_names::{HEAD, canonical_name, reads_images};
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
        /// The weights and updates: one, or a matrix of each expert.
        parts: Vec<&'a OutputTensor<'a>>,
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
    let experts = config.experts().next().map_or(0, |modules| modules.experts.len());
    let shape = Shape {
        layers: config.layers.len(),
        experts,
        tied_head: head_is_table || !plan.tensors().any(|tensor| canonical_name(&tensor.spec.name) == HEAD),
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
    let mut names = Vec::new();
    let mut by_name: BTreeMap<String, BTreeMap<Option<usize>, &OutputTensor<'_>>> = BTreeMap::new();
    for tensor in plan.tensors() {
        let source = canonical_name(&tensor.spec.name);
        if source.ends_with(".rotary_emb.inv_freq")
            || source == HEAD && head_is_table
            || reads_images(&source)
        {
            continue;
        }
        let Some(Named { name, layer, expert }) = family.named(&source) else {
            bail!(Unsupported, "tensor {source} has no name in GGUF files of {}", family.name);
        };
        let parts = by_name.entry(name.clone()).or_default();
        if parts.is_empty() {
            names.push((name, layer));
        }
        parts.insert(expert, tensor);
    }
    let size = heads.map_or(0, |heads| heads.size);
    for (name, layer) in names {
        let parts = by_name.remove(&name).unwrap_or_default();
        let dimensions = dimensions(&name, &parts, experts)?;
        let parts: Vec<&OutputTensor<'_>> = parts.into_values().collect();
        let source = canonical_name(&parts[0].spec.name);
        let kind = quantization.tensor_type(&name, &dimensions, layer, shape);
        let heads_of = family.reorders(&source).then_some(size);
        if heads_of.is_some_and(|size| size == 0 || !dimensions[0].is_multiple_of(size)) {
            bail!(Mismatch, "tensor {source} {dimensions:?} is not of heads of {size} rows");
        }
        let offset = family.offset(&source);
        tensors.push(GgufTensor {
            info: TensorInfo { name, shape: dimensions, kind },
            source: Source::Folded { parts, heads_of, offset },
        });
    }
    Ok(tensors)
}

/// The shape of a tensor of these parts: that of the only one, or all `experts` experts' matrices, which must be alike.
fn dimensions(
    name: &str,
    parts: &BTreeMap<Option<usize>, &OutputTensor<'_>>,
    experts: usize,
) -> Result<Vec<usize>> {
    let shapes = || parts.values().map(|part| &part.spec.shape);
    let shape = shapes().next().cloned().unwrap_or_default();
    if parts.contains_key(&None) {
        return Ok(shape);
    }
    if !parts.keys().copied().eq((0..experts).map(Some)) || shape.len() != 2 {
        bail!(Malformed, "{name} needs a matrix of each of {experts} experts, found {}", parts.len());
    }
    if let Some(other) = shapes().find(|other| **other != shape) {
        bail!(Malformed, "{name}: matrices of experts are alike, found {shape:?} and {other:?}");
    }
    Ok([vec![experts], shape].concat())
}
