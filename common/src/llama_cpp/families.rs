//! The families that llama.cpp knows, with the names of their tensors in checkpoints of transformers and in GGUF.

use crate::weight_names::{EMBEDDING, HEAD};

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

/// The names of the tensors outside of layers.
const OUTSIDE: [(&str, &str); 3] =
    [(EMBEDDING, "token_embd.weight"), (HEAD, "output.weight"), ("model.norm.weight", "output_norm.weight")];

/// The norms of Llama and of most others.
const NORMS: &[(&str, &str)] = &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
/// The norms of Gemma 2 and 3, and of OLMo 2, which has two of them.
const NORMS_AFTER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
/// The norms of GLM-4-0414.
const NORMS_OF_GLM: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_self_attn_layernorm", "post_attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("post_mlp_layernorm", "post_ffw_norm"),
];

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// llama.cpp's name, `general.architecture` in GGUF.
    pub name: &'static str,
    /// The names of the norms around the branches of a layer, in a checkpoint and in GGUF.
    norms: &'static [(&'static str, &'static str)],
    /// Whether rows of queries and keys are in another order: pairs that rotate together are neighbours.
    pairs_are_neighbours: bool,
    /// What GGUF adds to the weights of norms.
    norm_offset: f32,
}

/// Qwen2 and Qwen2.5.
pub static QWEN2: Family = Family { model_type: "qwen2", name: "qwen2", ..USUAL };
/// Qwen3.
pub static QWEN3: Family = Family { model_type: "qwen3", name: "qwen3", ..USUAL };
/// Llama and SmolLM2.
pub static LLAMA: Family = Family { model_type: "llama", name: "llama", pairs_are_neighbours: true, ..USUAL };
/// Mistral.
pub static MISTRAL: Family =
    Family { model_type: "mistral", name: "llama", pairs_are_neighbours: true, ..USUAL };
/// Granite 3.
pub static GRANITE: Family =
    Family { model_type: "granite", name: "granite", pairs_are_neighbours: true, ..USUAL };
/// Gemma 2.
pub static GEMMA2: Family =
    Family { model_type: "gemma2", name: "gemma2", norms: NORMS_AFTER, norm_offset: 1.0, ..USUAL };
/// Gemma 3.
pub static GEMMA3: Family =
    Family { model_type: "gemma3_text", name: "gemma3", norms: NORMS_AFTER, norm_offset: 1.0, ..USUAL };
/// Phi-3 and Phi-4.
pub static PHI3: Family = Family { model_type: "phi3", name: "phi3", ..USUAL };
/// GLM-4-0414.
pub static GLM4: Family = Family { model_type: "glm4", name: "glm4", norms: NORMS_OF_GLM, ..USUAL };
/// OLMo 2.
pub static OLMO2: Family = Family { model_type: "olmo2", name: "olmo2", norms: NORMS_AFTER, ..USUAL };

/// Every family. Of two with the same name in llama.cpp, a file is read as the first.
pub(super) static FAMILIES: [&Family; 10] =
    [&QWEN2, &QWEN3, &LLAMA, &MISTRAL, &GRANITE, &GEMMA2, &GEMMA3, &PHI3, &GLM4, &OLMO2];

/// What most families have.
const USUAL: Family =
    Family { model_type: "", name: "", norms: NORMS, pairs_are_neighbours: false, norm_offset: 0.0 };

/// A tensor's name in GGUF, and the layer that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name in GGUF.
    pub name: String,
    /// The layer, where the tensor is in one.
    pub layer: Option<usize>,
}

impl Family {
    /// The name in GGUF of the tensor `name` of a checkpoint; `None` where it has none.
    pub fn named(&self, name: &str) -> Option<Named> {
        if let Some((_, found)) = OUTSIDE.iter().find(|(known, _)| *known == name) {
            return Some(Named { name: (*found).into(), layer: None });
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let known = self.norms.iter().chain(&MODULES).find(|(known, _)| *known == module);
        let (_, found) = known.filter(|_| ["weight", "bias"].contains(&part))?;
        let layer: usize = layer.parse().ok()?;
        Some(Named { name: format!("blk.{layer}.{found}.{part}"), layer: Some(layer) })
    }

    /// The name in a checkpoint of the tensor `name` of a GGUF file; `None` where it has none.
    pub(super) fn name_in_checkpoint(&self, name: &str) -> Option<String> {
        if let Some((found, _)) = OUTSIDE.iter().find(|(_, known)| *known == name) {
            return Some((*found).into());
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let (found, _) = self.norms.iter().chain(&MODULES).find(|(_, known)| *known == module)?;
        let layer: usize = layer.parse().ok()?;
        Some(format!("model.layers.{layer}.{found}.{part}"))
    }

    /// Whether GGUF has the rows of the tensor `name` of a checkpoint in another order (see [`neighbours`]).
    pub fn reorders(&self, name: &str) -> bool {
        let (module, _) = name.rsplit_once('.').unwrap_or_default();
        self.pairs_are_neighbours && (module.ends_with(".q_proj") || module.ends_with(".k_proj"))
    }

    /// What GGUF adds to the values of the tensor `name` of a checkpoint.
    pub fn offset(&self, name: &str) -> f32 {
        if name.ends_with("norm.weight") { self.norm_offset } else { 0.0 }
    }
}

/// Puts the rows of heads of `size` rows, `width` values each, in the order of models whose neighbouring elements
/// rotate together: a checkpoint of transformers has the first elements of all pairs, then the second ones.
pub fn neighbours<T: Copy>(values: &mut [T], size: usize, width: usize) {
    reordered(values, size, width, |row| row % 2 * (size / 2) + row / 2);
}

/// Undoes [`neighbours`].
pub(super) fn halves<T: Copy>(values: &mut [T], size: usize, width: usize) {
    reordered(values, size, width, |row| row % (size / 2) * 2 + row / (size / 2));
}

/// Makes each row of every head a copy of the row of that head that `source` says.
fn reordered<T: Copy>(values: &mut [T], size: usize, width: usize, source: impl Fn(usize) -> usize) {
    for rows in values.chunks_exact_mut(size * width) {
        let head = rows.to_vec();
        for (row, out) in rows.chunks_exact_mut(width).enumerate() {
            out.copy_from_slice(&head[source(row) * width..(source(row) + 1) * width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_orders_lead_back() {
        for family in FAMILIES {
            for name in [EMBEDDING, HEAD, "model.norm.weight", "model.layers.3.mlp.down_proj.weight"] {
                let named = family.named(name).unwrap();
                assert_eq!(family.name_in_checkpoint(&named.name).as_deref(), Some(name));
            }
            for (norm, _) in family.norms {
                let name = format!("model.layers.12.{norm}.weight");
                let named = family.named(&name).unwrap();
                assert_eq!((family.name_in_checkpoint(&named.name), named.layer), (Some(name), Some(12)));
            }
            assert!(family.named("model.layers.0.mlp.experts.weight").is_none());
            assert!(family.name_in_checkpoint("blk.0.ffn_gate_exps.weight").is_none());
        }
        let rows: Vec<u8> = (0..16).collect();
        let mut values = rows.clone();
        neighbours(&mut values, 4, 2);
        assert_eq!(values[..8], [0, 1, 4, 5, 2, 3, 6, 7]);
        neighbours(&mut values, 8, 2);
        halves(&mut values, 8, 2);
        halves(&mut values, 4, 2);
        assert_eq!(values, rows);
    }
}
