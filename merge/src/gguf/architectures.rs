//! The families that llama.cpp knows, and what it wants to know of the config.json of each. Each follows its class in llama.cpp's converter (`conversion/*.py`).

use common::gguf::{Metadata, Value as Entry};
use common::llama_cpp::{Family, families, families::MISTRAL3};
use common::model::{Config, text_config};
use common::{Result, bail, error};
use serde_json::Value;

use super::rope::RopeSettings;
use super::vocabulary::Kind;

/// What the converter writes for a family.
pub(crate) struct Architecture {
    /// The names of the family and of its tensors.
    pub family: &'static Family,
    /// How texts become tokens.
    pub(super) vocabulary: Kind,
    /// Writes the keys that begin with the family's name.
    keys: fn(&Keys, &mut Metadata) -> Result<()>,
}

/// Every family.
static ARCHITECTURES: [Architecture; 16] = [
    Architecture { family: &families::QWEN2, keys: qwen2, vocabulary: Kind::Any },
    Architecture { family: &families::QWEN3, keys: qwen3, vocabulary: Kind::Any },
    Architecture { family: &families::LLAMA, keys: llama, vocabulary: Kind::Llama },
    Architecture { family: &families::MISTRAL, keys: llama, vocabulary: Kind::Llama },
    Architecture { family: &families::MISTRAL3, keys: mistral3, vocabulary: Kind::Llama },
    Architecture { family: &families::MINISTRAL3, keys: mistral3, vocabulary: Kind::Llama },
    Architecture { family: &families::GRANITE, keys: granite, vocabulary: Kind::Llama },
    Architecture { family: &families::GEMMA2, keys: gemma2, vocabulary: Kind::SentencePieces },
    Architecture { family: &families::GEMMA3, keys: gemma3, vocabulary: Kind::SentencePieces },
    Architecture { family: &families::PHI3, keys: phi3, vocabulary: Kind::Phi },
    Architecture { family: &families::GLM4, keys: glm4, vocabulary: Kind::Glm },
    Architecture { family: &families::OLMO2, keys: olmo2, vocabulary: Kind::BytePairs },
    Architecture { family: &families::QWEN2_MOE, keys: qwen2_moe, vocabulary: Kind::BytePairs },
    Architecture { family: &families::QWEN3_MOE, keys: qwen3_moe, vocabulary: Kind::BytePairs },
    Architecture { family: &families::OLMOE, keys: olmoe, vocabulary: Kind::BytePairs },
    Architecture { family: &families::MIXTRAL, keys: mixtral, vocabulary: Kind::Llama },
];

impl Architecture {
    /// The family of a model, of its text model where it also reads images. Fails where llama.cpp does not know it, or
    /// would compute something else.
    pub(crate) fn of(json: &Value) -> Result<&'static Self> {
        let model_type = |json: &Value| json.get("model_type").and_then(Value::as_str).map(str::to_owned);
        let (larger, model_type) =
            (model_type(json).unwrap_or_default(), model_type(&*text_config(json)?).unwrap_or_default());
        // Mistral's text model has another name within a larger one.
        let is_of = |family: &Family| {
            family.model_type == model_type && (family.name == MISTRAL3.name || larger != MISTRAL3.name)
        };
        match ARCHITECTURES.iter().find(|known| is_of(known.family)) {
            Some(found) => Ok(found),
            None => {
                let mut known: Vec<&str> =
                    ARCHITECTURES.iter().map(|known| known.family.model_type).collect();
                known.dedup();
                Err(error!("model_type {model_type:?} is not written as GGUF")
                    .hint(format_args!("GGUF files are made of {}; merge without .gguf", known.join(", "))))
            }
        }
    }

    /// Writes the keys that describe the model.
    pub(super) fn write_keys(&self, json: &Value, config: &Config, out: &mut Metadata) -> Result<()> {
        (self.keys)(&Keys { name: self.family.name, json, config }, out)
    }
}

fn qwen2(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    match keys.number("head_dim") {
        Some(_) => keys.write_head_size(out),
        None => Ok(()),
    }
}

fn qwen3(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    keys.write_head_size(out)
}

fn llama(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    keys.write_head_size(out)?;
    keys.write_vocabulary_and_rotated(out)
}

fn mistral3(keys: &Keys, out: &mut Metadata) -> Result<()> {
    llama(keys, out)?;
    let rope = RopeSettings::find(keys.json);
    let number = |key: &str| rope.number(key).filter(|number| *number != 0.0);
    if let Some(weight) = number("mscale_all_dim") {
        if rope.number("mscale") != Some(1.0) {
            return Err(error!("llama.cpp takes 1 for mscale, found {:?}", rope.number("mscale"))
                .hint("merge without .gguf"));
        }
        keys.set(out, "rope.scaling.yarn_log_multiplier", Entry::F32(weight as f32));
    }
    if let Some(scale) = number("llama_4_scaling_beta") {
        keys.set(out, "attention.temperature_scale", Entry::F32(scale as f32));
    }
    Ok(())
}

fn granite(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    keys.write_vocabulary_and_rotated(out)?;
    for (key, value) in [
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        if let Some(number) = keys.number(value).filter(|number| *number != 0.0) {
            keys.set(out, key, Entry::F32(number as f32));
        }
    }
    Ok(())
}

fn gemma2(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_shape(out)?;
    keys.write_head_size(out)?;
    keys.write_window(out)?;
    let caps = [
        ("attn_logit_softcapping", keys.config.layers.first().and_then(|layer| layer.attention.spec.softcap)),
        ("final_logit_softcapping", keys.config.logit_softcap),
    ];
    for (key, cap) in caps {
        if let Some(cap) = cap {
            keys.set(out, key, Entry::F32(cap));
        }
    }
    Ok(())
}

fn gemma3(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    keys.write_head_size(out)?;
    keys.write_window(out)?;
    let of_layers =
        keys.json.get("rope_parameters").and_then(|parameters| parameters.get("sliding_attention"));
    let theta = of_layers.and_then(|settings| settings.get("rope_theta")).and_then(Value::as_f64);
    let theta = theta.or(keys.number("rope_local_base_freq")).unwrap_or(10_000.0);
    keys.set(out, "rope.freq_base_swa", Entry::F32(theta as f32));
    Ok(())
}

fn phi3(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_shape(out)?;
    let rope = RopeSettings::find(keys.json);
    let trained = rope.trained(keys.json).unwrap_or(PHI_POSITIONS);
    keys.set_count(out, "rope.scaling.original_context_length", trained)?;
    keys.set_count(out, "rope.dimension_count", keys.rotated(&rope, 1.0))?;
    keys.set(out, "rope.freq_base", Entry::F32(rope.theta));
    if rope.factors("long_factor").is_some() {
        let scale = keys.config.max_positions as f64 / trained as f64;
        let factor = if scale > 1.0 { (1.0 + scale.ln() / (trained as f64).ln()).sqrt() } else { 1.0 };
        keys.set(out, "rope.scaling.attn_factor", Entry::F32(factor as f32));
    }
    let window = keys.config.layers.first().and_then(|layer| layer.attention.spec.window);
    // Zero tells Phi-4 from those with windows.
    keys.set_count(out, "attention.sliding_window", window.unwrap_or(0))
}

fn glm4(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)?;
    keys.write_head_size(out)?;
    let rope = RopeSettings::find(keys.json);
    keys.set_count(out, "rope.dimension_count", keys.rotated(&rope, 0.5))
}

fn olmo2(keys: &Keys, out: &mut Metadata) -> Result<()> {
    keys.write_usual(out)
}

fn qwen2_moe(keys: &Keys, out: &mut Metadata) -> Result<()> {
    qwen2(keys, out)?;
    keys.write_experts(out)?;
    keys.write_widths_of_experts(out)
}

fn qwen3_moe(keys: &Keys, out: &mut Metadata) -> Result<()> {
    qwen3(keys, out)?;
    keys.write_experts(out)?;
    keys.write_widths_of_experts(out)
}

fn olmoe(keys: &Keys, out: &mut Metadata) -> Result<()> {
    qwen2(keys, out)?;
    keys.write_experts(out)
}

fn mixtral(keys: &Keys, out: &mut Metadata) -> Result<()> {
    qwen2(keys, out)?;
    keys.write_experts(out)?;
    keys.write_vocabulary_and_rotated(out)
}

/// transformers' default of the positions that Phi-3 was trained on.
const PHI_POSITIONS: usize = 4096;

/// What the keys of a model are written from.
struct Keys<'a> {
    name: &'static str,
    json: &'a Value,
    config: &'a Config,
}

impl Keys<'_> {
    fn set(&self, out: &mut Metadata, key: &str, value: Entry) {
        out.set(format!("{}.{key}", self.name), value);
    }

    fn set_count(&self, out: &mut Metadata, key: &str, count: usize) -> Result<()> {
        out.set_count(format!("{}.{key}", self.name), count)
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.json.get(key).and_then(Value::as_f64)
    }

    fn count(&self, key: &str) -> Result<usize> {
        match self.json.get(key).and_then(Value::as_u64) {
            Some(count) => Ok(count as usize),
            None => bail!(Malformed, "config.json has no {key}"),
        }
    }

    fn heads(&self) -> [usize; 3] {
        let heads = self.config.layers.first().map(|layer| layer.attention.spec.heads);
        heads.map_or([0; 3], |heads| [heads.queries, heads.keys, heads.size])
    }

    /// Layers, widths and heads.
    fn write_shape(&self, out: &mut Metadata) -> Result<()> {
        let [queries, keys, _] = self.heads();
        self.set_count(out, "block_count", self.config.layers.len())?;
        self.set_count(out, "context_length", self.count("max_position_embeddings")?)?;
        self.set_count(out, "embedding_length", self.config.width)?;
        self.set_count(out, "feed_forward_length", self.count("intermediate_size")?)?;
        self.set_count(out, "attention.head_count", queries)?;
        self.set_count(out, "attention.head_count_kv", keys)?;
        self.set(out, "attention.layer_norm_rms_epsilon", Entry::F32(self.config.epsilon));
        Ok(())
    }

    /// Layers, widths, heads and the rotary embedding.
    fn write_usual(&self, out: &mut Metadata) -> Result<()> {
        self.write_shape(out)?;
        let rope = RopeSettings::find(self.json);
        self.set(out, "rope.freq_base", Entry::F32(rope.theta));
        let factor = rope.number("factor").map(|factor| Entry::F32(factor as f32));
        match (rope.kind(), factor) {
            ("default", _) => {}
            ("llama3", _) if self.name == "llama" || self.name == "granite" => {}
            ("linear", Some(factor)) => {
                self.set(out, "rope.scaling.type", Entry::Text("linear".into()));
                self.set(out, "rope.scaling.factor", factor);
            }
            ("yarn", Some(factor)) => {
                self.set(out, "rope.scaling.type", Entry::Text("yarn".into()));
                self.set(out, "rope.scaling.factor", factor);
                let trained = rope.trained(self.json).unwrap_or(self.config.max_positions);
                self.set_count(out, "rope.scaling.original_context_length", trained)?;
                for (key, names) in [
                    ("yarn_ext_factor", ["extrapolation_factor", "extrapolation_factor"]),
                    ("yarn_attn_factor", ["attention_factor", "attn_factor"]),
                    ("yarn_beta_fast", ["beta_fast", "beta_fast"]),
                    ("yarn_beta_slow", ["beta_slow", "beta_slow"]),
                ] {
                    if let Some(number) = names.iter().find_map(|name| rope.number(name)) {
                        self.set(out, &format!("rope.scaling.{key}"), Entry::F32(number as f32));
                    }
                }
            }
            (other, _) => {
                return Err(error!("llama.cpp does not scale the angles of {} as {other:?}", self.name)
                    .hint("merge without .gguf"));
            }
        }
        Ok(())
    }

    fn write_head_size(&self, out: &mut Metadata) -> Result<()> {
        let [_, _, size] = self.heads();
        self.set_count(out, "attention.key_length", size)?;
        self.set_count(out, "attention.value_length", size)
    }

    fn write_vocabulary_and_rotated(&self, out: &mut Metadata) -> Result<()> {
        let [_, _, size] = self.heads();
        self.set_count(out, "vocab_size", self.config.vocabulary)?;
        self.set_count(out, "rope.dimension_count", size)
    }

    /// How many experts a layer has, and how many of them a token goes to.
    fn write_experts(&self, out: &mut Metadata) -> Result<()> {
        let Some(mixture) = self.config.layers.first().and_then(|layer| layer.feed_forward.kind.mixture())
        else {
            return Ok(());
        };
        self.set_count(out, "expert_count", mixture.routing.experts)?;
        self.set_count(out, "expert_used_count", mixture.routing.chosen)
    }

    /// The widths of experts, where config.json has them.
    fn write_widths_of_experts(&self, out: &mut Metadata) -> Result<()> {
        for (key, name) in [
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        ] {
            if self.number(name).is_some() {
                self.set_count(out, key, self.count(name)?)?;
            }
        }
        Ok(())
    }

    fn write_window(&self, out: &mut Metadata) -> Result<()> {
        let window = self.config.layers.iter().find_map(|layer| layer.attention.spec.window);
        match window {
            Some(window) => self.set_count(out, "attention.sliding_window", window),
            None => Ok(()),
        }
    }

    /// The number of elements of a head that rotate, where config.json says which share of it, or else `share`.
    fn rotated(&self, rope: &RopeSettings, share: f64) -> usize {
        let [_, _, size] = self.heads();
        let share =
            rope.number("partial_rotary_factor").or(self.number("partial_rotary_factor")).unwrap_or(share);
        (size as f64 * share) as usize
    }
}
