//! The families that llama.cpp knows, with the names of their tensors in checkpoints of transformers and in GGUF.

use crate::weight_names::{EMBEDDING, HEAD};

/// The names of the matrices of a layer, in a checkpoint and in GGUF.
const MODULES: [(&str, &str); 10] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Gate and up as one matrix, which Phi-3 and GLM-4 have.
const FUSED: &[(&str, &str)] = &[("mlp.gate_up_proj", "ffn_up")];
/// The router of a mixture, and the expert that every token goes to, as Qwen and OLMoE name them.
const MIXTURE: &[(&str, &str)] = &[
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];
/// The router of Mixtral.
const MIXTURE_OF_MIXTRAL: &[(&str, &str)] = &[("block_sparse_moe.gate", "ffn_gate_inp")];

/// The names of the gate, up and down matrices of all experts of a layer, which GGUF has as one tensor each.
const STACKS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
/// The names of experts of Qwen and OLMoE.
const EXPERTS: Experts = Experts { module: "mlp.experts", matrices: ["gate_proj", "up_proj", "down_proj"] };
/// The names of experts of Mixtral.
const EXPERTS_OF_MIXTRAL: Experts =
    Experts { module: "block_sparse_moe.experts", matrices: ["w1", "w3", "w2"] };

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
    /// The names of modules of a layer that most families do not have.
    others: &'static [(&'static str, &'static str)],
    /// The names of the experts of a mixture.
    experts: Option<Experts>,
    /// Whether rows of queries and keys are in another order: pairs that rotate together are neighbours.
    pairs_are_neighbours: bool,
    /// What GGUF adds to the weights of norms.
    norm_offset: f32,
}

/// The names of experts in a checkpoint: `module.N.matrix` below a layer, for expert N.
#[derive(Debug)]
struct Experts {
    module: &'static str,
    /// Gate, up and down.
    matrices: [&'static str; 3],
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
/// Mistral Small 3.1 and later, which also read images.
pub static MISTRAL3: Family =
    Family { model_type: "mistral", name: "mistral3", pairs_are_neighbours: true, ..USUAL };
/// Ministral 3.
pub static MINISTRAL3: Family =
    Family { model_type: "ministral3", name: "mistral3", pairs_are_neighbours: true, ..USUAL };
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
pub static PHI3: Family = Family { model_type: "phi3", name: "phi3", others: FUSED, ..USUAL };
/// GLM-4-0414.
pub static GLM4: Family =
    Family { model_type: "glm4", name: "glm4", norms: NORMS_OF_GLM, others: FUSED, ..USUAL };
/// OLMo 2.
pub static OLMO2: Family = Family { model_type: "olmo2", name: "olmo2", norms: NORMS_AFTER, ..USUAL };

/// Qwen1.5's and Qwen2's mixtures.
pub static QWEN2_MOE: Family =
    Family { model_type: "qwen2_moe", name: "qwen2moe", others: MIXTURE, experts: Some(EXPERTS), ..USUAL };
/// Qwen3's mixtures.
pub static QWEN3_MOE: Family =
    Family { model_type: "qwen3_moe", name: "qwen3moe", others: MIXTURE, experts: Some(EXPERTS), ..USUAL };
/// OLMoE.
pub static OLMOE: Family =
    Family { model_type: "olmoe", name: "olmoe", others: MIXTURE, experts: Some(EXPERTS), ..USUAL };
/// Mixtral.
pub static MIXTRAL: Family = Family {
    model_type: "mixtral",
    name: "llama",
    others: MIXTURE_OF_MIXTRAL,
    experts: Some(EXPERTS_OF_MIXTRAL),
    pairs_are_neighbours: true,
    ..USUAL
};

/// Every family. Of two with the same name in llama.cpp, a file is read as the first, or where it has experts as the
/// first that has them; as Ministral 3 where it scales queries.
pub(super) static FAMILIES: [&Family; 16] = [
    &QWEN2,
    &QWEN3,
    &LLAMA,
    &MISTRAL,
    &MISTRAL3,
    &MINISTRAL3,
    &GRANITE,
    &GEMMA2,
    &GEMMA3,
    &PHI3,
    &GLM4,
    &OLMO2,
    &QWEN2_MOE,
    &QWEN3_MOE,
    &OLMOE,
    &MIXTRAL,
];

/// What most families have.
const USUAL: Family = Family {
    model_type: "",
    name: "",
    norms: NORMS,
    others: &[],
    experts: None,
    pairs_are_neighbours: false,
    norm_offset: 0.0,
};

/// A tensor's name in GGUF, and the layer that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name in GGUF.
    pub name: String,
    /// The layer, where the tensor is in one.
    pub layer: Option<usize>,
    /// The expert whose matrix this is. The tensor of that name in GGUF has those of all experts, one after the other.
    pub expert: Option<usize>,
}

impl Family {
    /// Whether the family's layers are mixtures of experts.
    pub fn has_experts(&self) -> bool {
        self.experts.is_some()
    }

    /// The name in GGUF of the tensor `name` of a checkpoint; `None` where it has none.
    pub fn named(&self, name: &str) -> Option<Named> {
        if let Some((_, found)) = OUTSIDE.iter().find(|(known, _)| *known == name) {
            return Some(Named { name: (*found).into(), layer: None, expert: None });
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let (found, expert) = match self.modules().find(|(known, _)| *known == module) {
            Some((_, found)) => (*found, None),
            None => self.stack(module)?,
        };
        if !["weight", "bias"].contains(&part) {
            return None;
        }
        let layer: usize = layer.parse().ok()?;
        Some(Named { name: format!("blk.{layer}.{found}.{part}"), layer: Some(layer), expert })
    }

    /// The names in a checkpoint of what the tensor `name` of a GGUF file has: one, or for matrices of all `experts`
    /// experts one for each; `None` where it has none.
    pub(super) fn names_in_checkpoint(&self, name: &str, experts: usize) -> Option<Vec<String>> {
        if let Some((found, _)) = OUTSIDE.iter().find(|(_, known)| *known == name) {
            return Some(vec![(*found).into()]);
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let layer: usize = layer.parse().ok()?;
        if let Some((found, _)) = self.modules().find(|(_, known)| *known == module) {
            return Some(vec![format!("model.layers.{layer}.{found}.{part}")]);
        }
        let Experts { module: within, matrices } = self.experts.as_ref()?;
        let matrix = matrices[STACKS.iter().position(|stack| *stack == module)?];
        let name = |expert| format!("model.layers.{layer}.{within}.{expert}.{matrix}.{part}");
        Some((0..experts).map(name).collect())
    }

    /// The names of the modules of a layer, in a checkpoint and in GGUF, but for experts.
    fn modules(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        self.norms.iter().chain(self.others).chain(&MODULES)
    }

    /// The name in GGUF of the matrix `module` of an expert, and the expert.
    fn stack(&self, module: &str) -> Option<(&'static str, Option<usize>)> {
        let Experts { module: within, matrices } = self.experts.as_ref()?;
        let (expert, matrix) = module.strip_prefix(within)?.strip_prefix('.')?.split_once('.')?;
        let place = matrices.iter().position(|known| *known == matrix)?;
        Some((STACKS[place], Some(expert.parse().ok()?)))
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
            let outside = [EMBEDDING, HEAD, "model.norm.weight"].map(|name| (name.to_owned(), None));
            let modules = family.modules().map(|(module, _)| module);
            let modules = modules.map(|module| (format!("model.layers.12.{module}.weight"), Some(12)));
            for (name, layer) in outside.into_iter().chain(modules) {
                let named = family.named(&name).unwrap();
                // Gate and up are one matrix, or two.
                if name.contains("mlp.up_proj") && family.others == FUSED {
                    continue;
                }
                assert_eq!(family.names_in_checkpoint(&named.name, 0), Some(vec![name]));
                assert_eq!((named.layer, named.expert), (layer, None));
            }
            for matrix in family.experts.iter().flat_map(|experts| experts.matrices) {
                let module = family.experts.as_ref().unwrap().module;
                let names: Vec<String> = (0..3)
                    .map(|expert| format!("model.layers.4.{module}.{expert}.{matrix}.weight"))
                    .collect();
                let named = family.named(&names[2]).unwrap();
                assert_eq!((named.layer, named.expert), (Some(4), Some(2)));
                assert_eq!(family.names_in_checkpoint(&named.name, 3), Some(names));
            }
            assert!(family.named("model.layers.0.mlp.experts.weight").is_none());
            let stack = family.names_in_checkpoint("blk.0.ffn_gate_exps.weight", 2);
            assert_eq!(stack.is_some(), family.has_experts());
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
