//! Weights that are quantized in ways that are not read: which way it is, and where the original is.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::{Dtype, Tensor};
use crate::{Error, Result, bail, cli, error, files};

/// Most bytes of a model card.
const CARD: u64 = 4 << 20;

/// Refuses a model whose config.json says that its weights are quantized, unless bitsandbytes did so in
/// 4 bits.
pub fn expect_readable(json: &Value, directory: &Path) -> Result<()> {
    let found = ["quantization_config", "compression_config"]
        .iter()
        .find_map(|key| Some((*key, json.get(*key).filter(|value| !value.is_null())?)));
    let Some((key, settings)) = found else { return Ok(()) };
    let Some(settings) = settings.as_object() else {
        bail!(Malformed, "{key}: an object expected, found {settings}");
    };
    let flag = |name: &str| settings.get(name).and_then(Value::as_bool).unwrap_or(false);
    let method = match settings.get("quant_method") {
        Some(Value::String(method)) => method.as_str(),
        None | Some(Value::Null) if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes",
        None | Some(Value::Null) if key == "compression_config" => "compressed-tensors",
        None | Some(Value::Null) => "a method that is not named",
        Some(found) => bail!(Malformed, "{key}.quant_method: a name expected, found {found}"),
    };
    match method {
        "bitsandbytes" | "bitsandbytes_4bit" if !flag("load_in_8bit") => Ok(()),
        "bitsandbytes" | "bitsandbytes_4bit" | "bitsandbytes_8bit" => {
            Err(refused("bitsandbytes in 8 bits", json, directory))
        }
        _ => Err(refused(method, json, directory)),
    }
}

/// Refuses a tensor that only a quantized model has which is not read, whatever config.json says.
pub(super) fn expect_unpacked(tensor: &Tensor, checkpoint: &Path) -> Result<()> {
    let last = tensor.name.rsplit('.').next().unwrap_or_default();
    let method = match (last, tensor.dtype) {
        ("qweight", _) => "GPTQ or AWQ",
        ("weight_packed", _) => "compressed-tensors",
        ("weight", Dtype::F8_E4M3 | Dtype::F8_E5M2) => "FP8",
        _ => return Ok(()),
    };
    let directory = match checkpoint.is_file() {
        true => checkpoint.parent().unwrap_or(checkpoint),
        false => checkpoint,
    };
    let json = files::read_json(&directory.join("config.json"), files::CONFIG).unwrap_or(Value::Null);
    Err(refused(method, &json, directory).context(format!("tensor {}", tensor.name)))
}

fn refused(method: &str, json: &Value, directory: &Path) -> Error {
    let error = error!("the weights are quantized with {method}, which is not read");
    match original(json, directory, method) {
        Some(name) => error.hint(format!(
            "begin with the original model, which quantize then makes 4-bit: fetch {}",
            cli::quoted(name)
        )),
        None => error.hint("begin with the original model in 16 bits; quantize makes it 4-bit"),
    }
}

/// The repository that a quantized model was made from, where its card or its config.json tells.
fn original(json: &Value, directory: &Path, method: &str) -> Option<String> {
    let card = files::read_text(&directory.join("README.md"), CARD).ok();
    let named = json.get("_name_or_path").and_then(Value::as_str).map(String::from);
    let method = method.to_ascii_lowercase();
    let is_quantized = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["gptq", "awq", "fp8", "int4", "int8", "w8a8", "w4a16", method.as_str()]
            .iter()
            .any(|mark| name.contains(mark))
    };
    let mut names = card.as_deref().and_then(base_model).into_iter().chain(named);
    names.find(|name| is_repository(name) && !is_quantized(name))
}

/// `base_model` in the metadata at the head of a model card: a name, or the first of a list.
fn base_model(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let mut lines = lines.take_while(|line| line.trim_end() != "---");
    let inline = lines.find_map(|line| line.strip_prefix("base_model:"))?.trim();
    let name = match inline {
        "" => lines.next()?.trim().strip_prefix('-')?,
        _ => inline.trim_matches(['[', ']']).split(',').next()?,
    };
    Some(name.trim().trim_matches(['"', '\'']).to_owned())
}

/// Whether a name reads as `ORGANISATION/NAME` on the hub.
fn is_repository(name: &str) -> bool {
    let is_plain = |part: &str| {
        let letters = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(letters)
    };
    name.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hint_of(json: Value, card: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("README.md"), card).unwrap();
        let error = expect_readable(&json, directory.path()).unwrap_err();
        format!("{error} {}", error.hint_text().unwrap())
    }

    #[test]
    fn the_method_is_named_and_the_original() {
        let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
        for card in [
            "---\nlicense: mit\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n# x",
            "---\nbase_model:\n- Qwen/Qwen2.5-7B-Instruct\n- other/one\n---\n",
            "---\nbase_model: [\"Qwen/Qwen2.5-7B-Instruct\"]\n---\n",
        ] {
            let said = hint_of(gptq.clone(), card);
            assert!(said.contains("gptq") && said.ends_with("fetch Qwen/Qwen2.5-7B-Instruct"), "{said}");
        }
        let mut named = gptq.clone();
        named["_name_or_path"] = json!("mistralai/Mistral-7B-v0.3");
        assert!(hint_of(named, "no metadata").ends_with("fetch mistralai/Mistral-7B-v0.3"));
        for name in ["/fsx/models/x", "TheBloke/Mistral-7B-GPTQ", "a/$(id)", "../x"] {
            let mut named = gptq.clone();
            named["_name_or_path"] = json!(name);
            let said = hint_of(named, "");
            assert!(said.contains("begin with the original model in 16 bits"), "{said}");
        }
    }

    #[test]
    fn only_four_bits_of_bitsandbytes_are_read() {
        let check = |settings: Value| {
            expect_readable(&json!({"quantization_config": settings}), Path::new("none"))
                .map_err(|error| error.to_string())
        };
        assert!(check(json!(null)).is_ok());
        assert!(check(json!({"quant_method": "bitsandbytes", "load_in_4bit": true})).is_ok());
        assert!(check(json!({"load_in_4bit": true})).is_ok());
        for (settings, named) in [
            (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "8 bits"),
            (json!({"quant_method": "awq"}), "awq"),
            (json!({"quant_method": "fp8"}), "fp8"),
            (json!({"quant_method": "compressed-tensors"}), "compressed-tensors"),
            (json!({"bits": 4}), "not named"),
            (json!("gptq"), "an object expected"),
        ] {
            let error = check(settings).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
