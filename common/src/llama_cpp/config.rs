//! The config.json of a GGUF file.

use serde_json::{Map, Value, json};

use super::families::{FAMILIES, Family};
use crate::gguf::{GgufFile, Value as Entry, decode_rows};
use crate::{Error, Result, error};

/// The names of the architectures whose files are read.
const READ: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// What Llama 3.1 and 3.2 scale their angles with: the two bounds of frequencies, and the positions that the model was
/// trained on before.
const LLAMA3: [f32; 3] = [1.0, 4.0, 8192.0];

/// The config.json that a file stands for, and its family.
pub fn config_json(file: &GgufFile) -> Result<(Value, &'static Family)> {
    let metadata = Keys { file, prefix: "general" };
    let name = metadata.text("architecture")?;
    let found = FAMILIES.iter().find(|family| family.name == name && READ.contains(&name));
    let Some(&family) = found else {
        return Err(error!("GGUF files of the architecture {name:?} are not read")
            .hint(format_args!("those of {} are; read the model's directory instead", READ.join(", "))));
    };
    let keys = Keys { file, prefix: family.name };
    let table = file.tensor("token_embd.weight")?.0;
    let mut json = json!({
        "model_type": family.model_type,
        "hidden_size": keys.count("embedding_length")?,
        "num_hidden_layers": keys.count("block_count")?,
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
    if let Some(object) = json.as_object_mut() {
        if let Ok(size) = keys.count("attention.key_length") {
            object.insert("head_dim".into(), size.into());
        }
        if family.model_type != "qwen2" && has_tensor(file, "blk.0.attn_q.bias") {
            object.insert("attention_bias".into(), true.into());
        }
        if let Some(scaling) = rope_scaling(&keys)? {
            object.insert("rope_scaling".into(), scaling);
        }
        let tokens = Keys { file, prefix: "tokenizer.ggml" };
        if let Ok(id) = tokens.count("bos_token_id") {
            object.insert("bos_token_id".into(), id.into());
        }
        let ends: Vec<u32> =
            ["eos_token_id", "eot_token_id"].iter().filter_map(|name| tokens.count(name).ok()).collect();
        if !ends.is_empty() {
            object.insert("eos_token_id".into(), ends.into());
        }
    }
    Ok((json, family))
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

/// The keys of a file that begin with a prefix.
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    pub prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Result<&'a Entry> {
        self.file.metadata.get(&format!("{}.{key}", self.prefix)).ok_or_else(|| self.missing(key, "nothing"))
    }

    fn missing(&self, key: &str, found: &str) -> Error {
        let prefix = self.prefix;
        error!(Malformed, "{}: {prefix}.{key} expected, found {found}", self.file.path().display())
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        match self.get(key)? {
            Entry::Text(text) => Ok(text),
            _ => Err(self.missing(key, "another type than a text")),
        }
    }

    /// A number that is not negative.
    pub(super) fn count(&self, key: &str) -> Result<u32> {
        match self.get(key)? {
            Entry::U32(count) => Ok(*count),
            _ => Err(self.missing(key, "another type than one number of 32 bits")),
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<f64> {
        match self.get(key)? {
            Entry::F32(number) => Ok(f64::from(*number)),
            _ => Err(self.missing(key, "another type than a float of 32 bits")),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key)? {
            Entry::Bool(flag) => Ok(*flag),
            _ => Err(self.missing(key, "another type than true or false")),
        }
    }

    /// Texts.
    pub(super) fn texts(&self, key: &str) -> Result<&'a [String]> {
        match self.get(key)? {
            Entry::Texts(texts) => Ok(texts),
            _ => Err(self.missing(key, "another type than a list of texts")),
        }
    }

    /// Floats.
    pub(super) fn floats(&self, key: &str) -> Result<&'a [f32]> {
        match self.get(key)? {
            Entry::F32s(floats) => Ok(floats),
            _ => Err(self.missing(key, "another type than a list of floats of 32 bits")),
        }
    }

    /// Signed numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<&'a [i32]> {
        match self.get(key)? {
            Entry::I32s(numbers) => Ok(numbers),
            _ => Err(self.missing(key, "another type than a list of numbers of 32 bits")),
        }
    }
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
