//! The types that tensors get under each `--quantize`, as llama-quantize chooses them (`llama-quant.cpp`) where it has
//! no importance matrix; 16-bit types as the converter chooses them.

use clap::ValueEnum;
use common::gguf::TensorType;

/// The type of a file: that of most of its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Quantization {
    /// 4.8 bits a weight: the usual choice
    #[value(name = "q4_k_m")]
    Q4KM,
    /// 5.7 bits a weight
    #[value(name = "q5_k_m")]
    Q5KM,
    /// 6.6 bits a weight
    #[value(name = "q6_k")]
    Q6K,
    /// 8.5 bits a weight: as good as 16
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.6 bits a weight, of older and simpler blocks
    #[value(name = "q4_0")]
    Q4_0,
    /// 16 bits, with more digits and a smaller range than bf16
    #[value(name = "f16")]
    F16,
    /// 16 bits, as most models are published
    #[value(name = "bf16")]
    Bf16,
}

/// The facts about a model on which the types of its tensors depend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The number of layers.
    pub layers: usize,
    /// The number of experts of a layer, 0 without any.
    pub experts: usize,
    /// Whether the head shares the embedding table, which then is as exact as a head.
    pub tied_head: bool,
    /// Whether llama.cpp counts the model among those of 70 B parameters, whose values are few and stored with a bit
    /// more.
    pub is_70b: bool,
}

impl Quantization {
    /// The number that stands for the choice in `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q5KM => 17,
            Self::Q6K => 18,
            Self::Bf16 => 32,
        }
    }

    /// The type of most matrices.
    fn usual(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
            Self::Q4_0 => TensorType::Q4_0,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4KM => TensorType::Q4K,
            Self::Q5KM => TensorType::Q5K,
            Self::Q6K => TensorType::Q6K,
        }
    }

    /// The type of the tensor `name` of the shape `dimensions`, in the layer `layer` where it is in one. Vectors, the
    /// weights of norms and those that choose experts are never quantized.
    pub(super) fn tensor_type(
        self,
        name: &str,
        dimensions: &[usize],
        layer: Option<usize>,
        shape: Shape,
    ) -> TensorType {
        let [.., columns] = *dimensions else { return TensorType::F32 };
        let is_exact = name.ends_with("_norm.weight") || name.contains(".ffn_gate_inp");
        if dimensions.len() < 2 || !name.ends_with(".weight") || is_exact {
            return TensorType::F32;
        }
        let usual = self.usual();
        if !usual.is_quantized() {
            return usual;
        }
        let is_head = name == "output.weight" || shape.tied_head && name == "token_embd.weight";
        let is_values = ["attn_v.weight", "attn_qkv.weight"].iter().any(|part| name.ends_with(part));
        // Mixtral's, beside whose experts the rest is small.
        let has_8_experts = shape.experts == 8;
        let is_mixed = matches!(self, Self::Q4KM | Self::Q5KM);
        let has_more_bits = is_mixed && layer.is_some_and(|layer| has_more_bits(layer, shape.layers));
        let chosen = match usual {
            _ if is_head && !columns.is_multiple_of(usual.block_elements()) => TensorType::Q8_0,
            TensorType::Q8_0 => usual,
            _ if is_head => TensorType::Q6K,
            _ if has_8_experts && (is_values || name.ends_with("attn_k.weight")) => TensorType::Q8_0,
            TensorType::Q4K if has_8_experts && name.ends_with("attn_output.weight") => TensorType::Q5K,
            _ if (is_values || name.contains(".ffn_down")) && has_more_bits => TensorType::Q6K,
            TensorType::Q4K if is_values && shape.is_70b => TensorType::Q5K,
            _ => usual,
        };
        fitting(chosen, columns)
    }
}

/// The layers whose most sensitive matrices get more bits: the first and last eighth, and every third between.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A type whose blocks divide rows of `columns`.
fn fitting(kind: TensorType, columns: usize) -> TensorType {
    let fits = |kind: TensorType| columns.is_multiple_of(kind.block_elements());
    if fits(kind) {
        return kind;
    }
    let smaller = match kind {
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K => TensorType::Q5_1,
        TensorType::Q6K => TensorType::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { TensorType::F16 }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The types that llama-quantize chose, for models of several shapes.
    #[test]
    fn types_are_those_of_llama_quantize() {
        let golden = include_str!("../../../tests/golden/gguf/types.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        for (case, model) in golden.as_object().unwrap() {
            let shapes = model["shapes"].as_object().unwrap();
            let layers = model["config"]["num_hidden_layers"].as_u64().unwrap() as usize;
            let experts =
                ["num_experts", "num_local_experts"].iter().find_map(|key| model["config"][key].as_u64());
            let shape = Shape {
                layers,
                experts: experts.unwrap_or(0) as usize,
                tied_head: !shapes.contains_key("output.weight"),
                is_70b: layers == 80,
            };
            for (quantization, types) in model["types"].as_object().unwrap() {
                let chosen = Quantization::from_str(quantization, false).unwrap();
                for (name, expected) in types.as_object().unwrap() {
                    let dimensions: Vec<usize> = serde_json::from_value(shapes[name].clone()).unwrap();
                    let layer = name.split('.').nth(1).and_then(|part| part.parse().ok());
                    let found = chosen.tensor_type(name, &dimensions, layer, shape);
                    assert_eq!(&found.to_string(), expected, "{case}, {quantization}: {name} {dimensions:?}");
                }
            }
        }
    }
}
