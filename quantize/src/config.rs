//! `config.json`: which models may be quantized, and the `quantization_config` of the result.

use std::path::Path;

use common::checkpoint::Checkpoint;
use common::model;
use common::nf4::Scheme;
use common::{Context, Result, error, files};
use serde_json::{Value, json};

/// Reads a model's config.json, as it is written and what it describes, and refuses what cannot be quantized. Of a
/// model that also reads images it is the config.json of the text model, which alone is quantized.
pub(crate) fn read(path: &Path) -> Result<(Value, model::Config)> {
    let config: Value = files::read_json(path, files::CONFIG)?;
    let parsed = model::Config::parse(&config).with_context(|| path.display().to_string())?;
    let directory = path.parent().unwrap_or(Path::new("."));
    model::expect_readable(&config, directory).with_context(|| path.display().to_string())?;
    if config.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Err(error!(
            "{}: the model is already quantized, with bitsandbytes in 4 bits",
            path.display()
        )
        .hint("it is ready for lora-train as it is; to quantize anew, begin with the original model"));
    }
    let config = model::text_config(&config)?.into_owned();
    Ok((config, parsed))
}

/// The dtype that the model's config.json names; bfloat16 where it names none or `auto`.
fn own_dtype(config: &Value) -> Result<String> {
    // transformers 5 writes `dtype`, older ones `torch_dtype`.
    let own = ["dtype", "torch_dtype"].iter().find_map(|key| config.get(*key)?.as_str());
    match own.map(|name| name.strip_prefix("torch.").unwrap_or(name)) {
        None | Some("auto") => Ok("bfloat16".into()),
        Some(name) if ["bfloat16", "float16", "float32", "float64"].contains(&name) => Ok(name.into()),
        Some(other) => {
            Err(error!("config.json names the dtype {other:?}, expected bfloat16, float16 or float32")
                .hint("--compute-dtype bfloat16 chooses one"))
        }
    }
}

/// The config.json of the quantized model, as transformers writes it. `kept` are linear modules that are
/// not quantized although they could be. `own_head` says that the checkpoint has a head of its own, even
/// where the original config.json ties it to the embedding table.
pub(crate) fn with_quantization(
    mut config: Value,
    scheme: Scheme,
    compute_dtype: Option<&str>,
    kept: &[String],
    own_head: bool,
) -> Result<String> {
    if own_head {
        config["tie_word_embeddings"] = json!(false);
    }
    let compute_dtype = match compute_dtype {
        Some(chosen) => chosen.to_string(),
        None => own_dtype(&config)?,
    };
    // Naming any module replaces transformers' default, which is the head.
    let skip = if kept.is_empty() {
        Value::Null
    } else {
        json!(std::iter::once("lm_head").chain(kept.iter().map(String::as_str)).collect::<Vec<_>>())
    };
    config["quantization_config"] = json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": scheme.quant_type.name(),
        "bnb_4bit_use_double_quant": scheme.double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skip,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    });
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

/// Opens the weights of a directory's text model, each matrix of an expert as a tensor of its own.
pub(crate) fn open_weights(directory: &Path) -> Result<Checkpoint> {
    model::text_weights(Checkpoint::open(directory)?, &model::Config::read(directory)?)
}
