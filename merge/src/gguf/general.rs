//! The keys of a GGUF file that describe it to people and programs: name, size, sampling.

use std::path::Path;

use common::gguf::{Metadata, TensorInfo, Value as Entry};
use common::text::files::GENERATION_CONFIG;
use common::{Result, files};
use serde_json::Value;

/// The version of the block formats.
const BLOCKS_VERSION: u32 = 2;

/// Writes the keys that begin with `general.`, for a file of this name; `directory` holds the model's
/// generation_config.json, where it has one.
pub(super) fn write_keys(
    architecture: &str,
    file: &Path,
    directory: &Path,
    tensors: &[TensorInfo],
    file_type: u32,
    out: &mut Metadata,
) -> Result<()> {
    out.set_text("general.architecture", architecture);
    out.set_text("general.type", "model");
    write_sampling(directory, out)?;
    write_name(file, out);
    out.set_text("general.size_label", size_label(tensors));
    out.set("general.file_type", Entry::U32(file_type));
    out.set("general.quantization_version", Entry::U32(BLOCKS_VERSION));
    Ok(())
}

/// Writes the keys of a file that holds an adapter.
pub(super) fn write_adapter_keys(architecture: &str, file: &Path, alpha: f32, out: &mut Metadata) {
    out.set_text("general.architecture", architecture);
    out.set_text("general.type", "adapter");
    out.set_text("adapter.type", "lora");
    write_name(file, out);
    out.set("adapter.lora.alpha", Entry::F32(alpha));
    out.set("general.quantization_version", Entry::U32(BLOCKS_VERSION));
}

/// The name that programs show: that of the file, as a title.
fn write_name(file: &Path, out: &mut Metadata) {
    let name = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    out.set_text("general.name", title(&name));
}

/// A name as a title: words instead of hyphens, those in small letters with capitals, as `Qwen2.5 7B Instruct`.
fn title(name: &str) -> String {
    let word = |word: &str| {
        let is_small = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let rest = word.strip_prefix('v').unwrap_or(word);
        let is_version = rest.starts_with(|first: char| first.is_ascii_digit())
            && (rest == word || rest.chars().all(|next| next.is_ascii_digit() || next == '.'));
        if !is_small || is_version {
            return word.to_owned();
        }
        let mut begins = true;
        let mut out = String::new();
        for letter in word.chars() {
            if begins {
                out.extend(letter.to_uppercase())
            } else {
                out.push(letter)
            }
            begins = !letter.is_alphabetic();
        }
        out
    };
    name.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// The size of a model as people write it: its parameters or, of a mixture, those of a model with one expert, behind the
/// number of experts.
fn size_label(tensors: &[TensorInfo]) -> String {
    let (mut parameters, mut experts) = (0, None);
    for info in tensors {
        let size: usize = info.shape.iter().product();
        match info.shape[..] {
            [count, _, _] => {
                experts = Some(count);
                parameters += size / count.max(1);
            }
            _ => parameters += size,
        }
    }
    let parameters = rounded(parameters);
    match experts {
        Some(count) => format!("{count}x{parameters}"),
        None => parameters,
    }
}

/// A number of parameters as people write it, with two digits at least.
fn rounded(parameters: usize) -> String {
    let count = parameters as f64;
    let (scaled, suffix) = match count {
        _ if count > 1e12 => (count * 1e-12, "T"),
        _ if count > 1e9 => (count * 1e-9, "B"),
        _ if count > 1e6 => (count * 1e-6, "M"),
        _ => (count * 1e-3, "K"),
    };
    let whole = format!("{}", scaled.round_ties_even());
    let digits = 2_usize.saturating_sub(whole.trim_start_matches('0').len());
    format!("{scaled:.digits$}{suffix}")
}

/// Writes the settings of sampling that the model's authors recommend.
fn write_sampling(directory: &Path, out: &mut Metadata) -> Result<()> {
    let path = directory.join(GENERATION_CONFIG);
    if !path.exists() {
        return Ok(());
    }
    let settings: Value = files::read_json(&path, files::CONFIG)?;
    if let Some(count) =
        settings.get("top_k").and_then(Value::as_i64).and_then(|count| i32::try_from(count).ok())
    {
        out.set("general.sampling.top_k", Entry::I32(count));
    }
    for (key, name) in [
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temp", "temperature"),
        ("penalty_repeat", "repetition_penalty"),
    ] {
        if let Some(number) = settings.get(name).and_then(Value::as_f64) {
            out.set(format!("general.sampling.{key}"), Entry::F32(number as f32));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_those_of_the_converter() {
        assert_eq!(title("Qwen2.5-7B-Instruct"), "Qwen2.5 7B Instruct");
        assert_eq!(title("phi3-longrope"), "Phi3 Longrope");
        assert_eq!(title("mine-v1.2-7b-q4_k_m"), "Mine v1.2 7b Q4_K_M");
        assert_eq!(rounded(134_515_008), "135M");
        assert_eq!(rounded(7_615_616_512), "7.6B");
        assert_eq!(rounded(65_216), "65K");
    }
}
