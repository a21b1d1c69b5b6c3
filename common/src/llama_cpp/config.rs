//! The config.json of a GGUF file.

use serde_json::{Map, Value, json};

use super::families::{FAMILIES, Family, MINISTRAL3};
use super::keys::Keys;
use crate::gguf::{GgufFile, decode_rows};
use crate::{Result, bail, error};

/// What Llama 3.1 and 3.2 scale their angles with: the two bounds of frequencies, and the positions that the model was
/// trained on before.
const LLAMA3: [f32; 3] = [1.0, 4.0, 8192.0];

/// The config.json that a file stands for, and its family.
pub fn config_json(file: &GgufFile) -> Result<(Value, &'static Family)> {
    let family = family(file)?;
    let keys = Keys { file, prefix: family.name };
    let table = file.tensor("token_embd.weight")?.0;
    let (layers, tensors) = (keys.count("block_count")?, file.tensors().count());
    if layers as usize > tensors {
        bail!(Malformed, "{}: {layers} layers in {tensors} tensors", file.path().display());
    }
    let json = json!({
        "model_type": family.model_type,
        "hidden_size": keys.count("embedding_length")?,
        "num_hidden_layers": layers,
        "intermediate_size": keys.count("feed_forward_length")?,
        "num_attention_heads": keys.count("attention.head_count")?,
        "num_key_value_heads": keys.count("attention.head_count_kv")?,
        "max_position_embeddings": keys.count("context_length")?,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon")?,
        "rope_theta": keys.number("rope.freq_base").unwrap_or(10_000.0),
        "vocab_size": table.shape.first(),
        "hidden_act": "silu",
        "tie_word_embeddings": !has_tensor(file, "output.weight"),
    });
    let Value::Object(mut object) = json else { bail!(Bug, "a config.json is an object") };
    let mut set = |key: &str, value: Value| object.insert(key.into(), value);
    if let Ok(size) = keys.count("attention.key_length") {
        set("head_dim", size.into());
    }
    if family.model_type != "qwen2" {
        set("attention_bias", has_tensor(file, "blk.0.attn_q.bias").into());
    }
    if has_tensor(file, "blk.0.ffn_down.bias") {
        set("mlp_bias", true.into());
    }
    // Gemma 3 has settings for each kind of layer, and Ministral 3 more than these.
    let has_own = ["gemma3_text", "ministral3"].contains(&family.model_type);
    if let Some(scaling) = rope_scaling(&keys)?.filter(|_| !has_own) {
        set("rope_scaling", scaling);
    }
    let tokens = Keys { file, prefix: "tokenizer.ggml" };
    if let Ok(id) = tokens.count("bos_token_id") {
        set("bos_token_id", id.into());
    }
    let ends: Vec<u32> =
        ["eos_token_id", "eot_token_id"].iter().filter_map(|name| tokens.count(name).ok()).collect();
    if !ends.is_empty() {
        set("eos_token_id", ends.into());
    }
    if family.has_experts() {
        object.append(&mut experts(&keys)?);
    }
    object.append(&mut of_family(&keys, family)?);
    Ok((object.into(), family))
}

/// The family of a file.
fn family(file: &GgufFile) -> Result<&'static Family> {
    let name = Keys { file, prefix: "general" }.text("architecture")?;
    let has_experts = Keys { file, prefix: name }.count("expert_count").is_ok_and(|count| count > 0);
    let is_of = |family: &&Family| family.name == name && family.has_experts() == has_experts;
    let scales_queries = Keys { file, prefix: MINISTRAL3.name }.number("attention.temperature_scale").is_ok();
    match FAMILIES.into_iter().find(is_of) {
        Some(family) if family.name == MINISTRAL3.name && scales_queries => Ok(&MINISTRAL3),
        Some(family) => Ok(family),
        None => {
            let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
            known.sort_unstable();
            known.dedup();
            let kind = if has_experts { "with experts " } else { "" };
            Err(error!("GGUF files of the architecture {name:?} {kind}are not read")
                .hint(format_args!("those of {} are; read the model's directory instead", known.join(", "))))
        }
    }
}

/// The keys of a mixture.
fn experts(keys: &Keys) -> Result<Map<String, Value>> {
    let width = |name: &str, dimension: usize| {
        let shape = keys.file.tensor(name).map(|(info, _)| info.shape.get(dimension).copied());
        shape.ok().flatten()
    };
    let json = json!({
        "num_experts": keys.count("expert_count")?,
        "num_experts_per_tok": keys.count("expert_used_count")?,
        "moe_intermediate_size": width("blk.0.ffn_gate_exps.weight", 1),
        "shared_expert_intermediate_size": width("blk.0.ffn_gate_shexp.weight", 0),
    });
    Ok(present(json))
}

/// The keys that a family has of its own, and what llama.cpp knows about it without a key.
fn of_family(keys: &Keys, family: &Family) -> Result<Map<String, Value>> {
    let width = keys.count("embedding_length")?;
    let heads = keys.count("attention.head_count")?.max(1);
    let size = keys.count("attention.key_length").unwrap_or(width / heads);
    let window = keys.count("attention.sliding_window").ok().filter(|window| *window > 0);
    // Gemma's largest models divide scores by another number than the others.
    let scalar = |layers_of_largest| {
        let is_largest = keys.count("block_count").is_ok_and(|layers| layers == layers_of_largest);
        if is_largest { width / heads } else { size }
    };
    let number = |key: &str| keys.number(key).ok();
    let rotated =
        || keys.count("rope.dimension_count").map(|count| f64::from(count) / f64::from(size.max(1)));
    let json = match family.model_type {
        "gemma2" => json!({
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": window,
            "query_pre_attn_scalar": scalar(46),
            "attn_logit_softcapping": number("attn_logit_softcapping"),
            "final_logit_softcapping": number("final_logit_softcapping"),
        }),
        "gemma3_text" => gemma3(keys, window, scalar(62))?,
        "ministral3" => ministral3(keys)?,
        "phi3" => json!({
            "sliding_window": window,
            "partial_rotary_factor": rotated()?,
            "original_max_position_embeddings": keys.count("rope.scaling.original_context_length").ok(),
        }),
        "glm4" => json!({"partial_rotary_factor": rotated()?}),
        "granite" => json!({
            "attention_multiplier": keys.number("attention.scale")?,
            "embedding_multiplier": keys.number("embedding_scale")?,
            "residual_multiplier": keys.number("residual_scale")?,
            "logits_scaling": keys.number("logit_scale")?,
        }),
        "qwen2_moe" => json!({"qkv_bias": has_tensor(keys.file, "blk.0.attn_q.bias")}),
        "qwen3_moe" => json!({"norm_topk_prob": true}),
        _ => json!({}),
    };
    let has_window = ["gemma2", "gemma3_text", "phi3"].contains(&family.model_type);
    if let Some(window) = window.filter(|_| !has_window) {
        return Err(error!("{} with sliding windows of {window} tokens is not read from GGUF", family.name)
            .hint("read the model's directory instead"));
    }
    let mut object = present(json);
    // In config.json, no window and a missing key are not the same.
    if family.model_type != "gemma2" && !object.contains_key("sliding_window") {
        object.insert("sliding_window".into(), Value::Null);
    }
    Ok(object)
}

/// The keys of Gemma 3, of whose layers all but every sixth have a window and angles of their own.
fn gemma3(keys: &Keys, window: Option<u32>, scalar: u32) -> Result<Value> {
    let kind = |layer: u32| match window {
        Some(_) if !(layer + 1).is_multiple_of(6) => "sliding_attention",
        _ => "full_attention",
    };
    let mut full = rope_scaling(keys)?.unwrap_or_else(|| json!({"rope_type": "default"}));
    full["rope_theta"] = keys.number("rope.freq_base").unwrap_or(10_000.0).into();
    let theta = keys.number("rope.freq_base_swa").unwrap_or(10_000.0);
    Ok(json!({
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window,
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.number("final_logit_softcapping").ok(),
        "layer_types": (0..keys.count("block_count")?).map(kind).collect::<Vec<_>>(),
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        },
    }))
}

/// The keys of Ministral 3, whose settings of angles also scale queries by their positions.
fn ministral3(keys: &Keys) -> Result<Value> {
    let mut rope = rope_scaling(keys)?.unwrap_or_else(|| json!({"rope_type": "default"}));
    rope["rope_theta"] = keys.number("rope.freq_base").unwrap_or(10_000.0).into();
    rope["llama_4_scaling_beta"] = keys.number("attention.temperature_scale")?.into();
    Ok(json!({"rope_parameters": rope}))
}

/// The keys that have a value.
fn present(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// How the angles of rotary embedding are scaled.
fn rope_scaling(keys: &Keys) -> Result<Option<Value>> {
    if let Ok((info, bytes)) = keys.file.tensor("rope_freqs.weight") {
        let mut factors = vec![0.0; info.shape.iter().product()];
        decode_rows(info.kind, bytes, &mut factors);
        let theta = keys.number("rope.freq_base").unwrap_or(10_000.0);
        return match llama3_scaling(&factors, theta as f32) {
            Some(scaling) => Ok(Some(scaling)),
            None => Err(error!("rope_freqs.weight scales angles as neither Llama 3.1 nor 3.2 does")
                .hint("read the model's directory instead")),
        };
    }
    let factors = |name: &str| -> Option<Vec<f32>> {
        let (info, bytes) = keys.file.tensor(&format!("rope_factors_{name}.weight")).ok()?;
        let mut factors = vec![0.0; info.shape.iter().product()];
        decode_rows(info.kind, bytes, &mut factors);
        Some(factors)
    };
    if let (Some(long), Some(short)) = (factors("long"), factors("short")) {
        let trained = keys.count("rope.scaling.original_context_length")?;
        return Ok(Some(json!({
            "rope_type": "longrope", "long_factor": long, "short_factor": short,
            "original_max_position_embeddings": trained,
        })));
    }
    let kind = match keys.text("rope.scaling.type") {
        Ok("none") | Err(_) => return Ok(None),
        Ok(kind @ ("linear" | "yarn")) => kind,
        Ok(other) => {
            return Err(error!("{}.rope.scaling.type is {other:?}, linear or yarn expected", keys.prefix)
                .hint("read the model's directory instead"));
        }
    };
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), kind.into());
    scaling.insert("factor".into(), keys.number("rope.scaling.factor")?.into());
    if let Ok(trained) = keys.count("rope.scaling.original_context_length") {
        scaling.insert("original_max_position_embeddings".into(), trained.into());
    }
    for (key, name) in [
        ("yarn_attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Ok(number) = keys.number(&format!("rope.scaling.{key}")) {
            scaling.insert(name.into(), number.into());
        }
    }
    if let Ok(weight) = keys.number("rope.scaling.yarn_log_multiplier") {
        // llama.cpp takes 1 for the other weight.
        scaling.insert("mscale".into(), 1.0.into());
        scaling.insert("mscale_all_dim".into(), weight.into());
    }
    Ok(Some(scaling.into()))
}

/// Llama 3's scaling with these factors of all angles, the last of which is the factor itself; `None` where they are
/// not those of Llama 3.1 or 3.2.
fn llama3_scaling(factors: &[f32], theta: f32) -> Option<Value> {
    let factor = *factors.last()?;
    let [low, high, trained] = LLAMA3;
    let expected = llama3_factors(factors.len(), theta, factor, low, high, trained);
    let is_equal = |(found, expected): (&f32, &f32)| (found - expected).abs() <= 1e-4 * expected;
    (factor >= 1.0 && factors.iter().zip(&expected).all(is_equal)).then(|| {
        json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": trained as u64,
        })
    })
}

/// What Llama 3 divides the frequency of each of `pairs` pairs of elements by.
pub fn llama3_factors(pairs: usize, theta: f32, factor: f32, low: f32, high: f32, trained: f32) -> Vec<f32> {
    let of_pair = |pair: usize| {
        let frequency = 1.0 / theta.powf(2.0 * pair as f32 / (2 * pairs) as f32);
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < trained / high {
            1.0
        } else if wavelength > trained / low {
            factor
        } else {
            let smooth = (trained / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..pairs).map(of_pair).collect()
}

fn has_tensor(file: &GgufFile, name: &str) -> bool {
    file.tensor(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scaling_of_llama_3_is_known_by_its_factors() {
        for factor in [8.0, 32.0] {
            let factors = llama3_factors(64, 500_000.0, factor, 1.0, 4.0, 8192.0);
            assert_eq!(llama3_scaling(&factors, 500_000.0).unwrap()["factor"], factor);
            assert!(llama3_scaling(&factors, 10_000.0).is_none());
        }
        let others = llama3_factors(64, 500_000.0, 8.0, 1.0, 4.0, 4096.0);
        assert!(llama3_scaling(&others, 500_000.0).is_none());
        assert!(llama3_scaling(&[], 500_000.0).is_none());
    }
}
