//! Models of families that are not supported: what they have that is missing here, and the nearest family that
//! works.

use std::borrow::Cow;

use serde_json::Value;

use super::{FAMILIES, Family};
use crate::Error;
use crate::error;
use crate::model::config_json::ConfigJson;

/// Names that are so alike may be meant for each other, from 0 (nothing in common) to 1 (equal).
const ALIKE: f64 = 0.75;

/// Families by `model_type`, what their models have that is not implemented, and the nearest family that works, if
/// there is one.
const UNSUPPORTED: &[(&[&str], &str, Option<&str>)] = &[
    (
        &["qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "kimi_linear", "minimax"],
        LINEAR_ATTENTION,
        Some("qwen3_moe"),
    ),
    (&["qwen3_5", "qwen3_5_text"], LINEAR_ATTENTION, Some("qwen3")),
    (&["olmo_hybrid"], LINEAR_ATTENTION, Some("olmo2")),
    (&["gpt_oss"], "attention sinks, and experts with biases in MXFP4", Some("qwen3_moe")),
    (
        &["gemma4", "gemma4_text", "gemma4_unified"],
        "heads of two sizes, layers that share keys and values, and embeddings of each layer",
        Some("gemma3_text"),
    ),
    (
        &["gemma3n", "gemma3n_text"],
        "embeddings of each layer, alternating updates (AltUp), and parts that read images and sound",
        Some("gemma3_text"),
    ),
    (&["gemma", "vaultgemma"], "a decoder without norms after its branches", Some("gemma2")),
    (&["t5gemma", "t5gemma2"], ENCODER_DECODER, Some("gemma2")),
    (&["llama4", "llama4_text"], "attention in chunks, and layers without rotary embedding", Some("llama")),
    (
        &["deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa"],
        LATENT_ATTENTION,
        Some("qwen3_moe"),
    ),
    (&["minicpm3", "youtu"], LATENT_ATTENTION, Some("llama")),
    (&["mistral4", "mistral_large4"], LATENT_ATTENTION, Some("mistral")),
    (
        &["glm4_moe", "ernie4_5_moe", "dots1", "hunyuan_v1_moe", "minimax_m2", "bailing_moe", "exaone_moe"],
        OTHER_EXPERTS,
        Some("qwen3_moe"),
    ),
    (&["granitemoe", "granitemoeshared"], OTHER_EXPERTS, Some("granite")),
    (&["phimoe"], OTHER_EXPERTS, Some("mixtral")),
    (&["dbrx", "jetmoe", "arctic", "grok-1"], OTHER_EXPERTS, Some("mixtral")),
    (&["granitemoehybrid"], STATE_SPACE_LAYERS, Some("granite")),
    (&["jamba", "bamba", "falcon_h1", "zamba", "zamba2", "nemotron_h"], STATE_SPACE_LAYERS, Some("llama")),
    (&["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"], "recurrent layers in place of attention", None),
    (&["recurrent_gemma"], "recurrent layers", Some("gemma2")),
    (&["lfm2", "lfm2_moe", "lfm3"], "layers of convolution in place of attention", Some("qwen3")),
    (&["qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen2_audio"], IMAGES_OR_SOUND, Some("qwen2")),
    (&["qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe", "qwen3_asr"], IMAGES_OR_SOUND, Some("qwen3")),
    (&["mllama", "llava", "llava_next", "idefics3", "smolvlm"], IMAGES_OR_SOUND, Some("llama")),
    (&["llava_onevision", "internvl", "internvl_chat", "fast_vlm"], IMAGES_OR_SOUND, Some("qwen2")),
    (&["pixtral", "voxtral", "voxtral_realtime"], IMAGES_OR_SOUND, Some("mistral")),
    (&["paligemma"], IMAGES_OR_SOUND, Some("gemma2")),
    (&["phi3_v", "phi4mm", "phi4_multimodal"], IMAGES_OR_SOUND, Some("phi3")),
    (&["glm4v", "glm4v_moe", "glm46v"], IMAGES_OR_SOUND, Some("glm4")),
    (&["granite_speech", "granite4_vision"], IMAGES_OR_SOUND, Some("granite")),
    (
        &["whisper", "moonshine", "speech_to_text", "wav2vec2"],
        "an encoder of sound, and no text before it",
        None,
    ),
    (
        &[
            "bert",
            "roberta",
            "xlm-roberta",
            "distilbert",
            "albert",
            "electra",
            "deberta",
            "deberta-v2",
            "modernbert",
        ],
        "an encoder, which generates no text",
        None,
    ),
    (
        &["t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "led"],
        ENCODER_DECODER,
        None,
    ),
    (
        &["gpt2", "opt", "gpt_bigcode", "gpt_neo"],
        "learned positions, and norms that subtract the mean",
        Some("llama"),
    ),
    (&["bloom", "mpt"], "positions as biases of the scores (ALiBi)", Some("llama")),
    (
        &[
            "gpt_neox",
            "gptj",
            "falcon",
            "phi",
            "starcoder2",
            "stablelm",
            "cohere",
            "cohere2",
            "nemotron",
            "codegen",
        ],
        "norms that subtract the mean",
        Some("llama"),
    ),
    (&["olmo"], "norms without weights", Some("olmo2")),
    (&["olmo3"], "windows beside angles of their own", Some("olmo2")),
    (&["smollm3", "exaone4"], "layers without rotary embedding", Some("llama")),
    (&["ministral"], "windows in some layers only", Some("mistral")),
    (&["glm", "chatglm"], "weights under other names", Some("glm4")),
    (
        &["qwen", "internlm2", "baichuan", "deci"],
        "a definition in a Python file beside the weights",
        Some("qwen2"),
    ),
];

const LINEAR_ATTENTION: &str = "layers of linear attention, such as Gated DeltaNet";
const LATENT_ATTENTION: &str = "multi-head latent attention (MLA)";
const STATE_SPACE_LAYERS: &str = "state-space layers (Mamba) in place of attention";
const OTHER_EXPERTS: &str = "a mixture of experts of a kind of its own";
const IMAGES_OR_SOUND: &str = "a part that reads images or sound";
const ENCODER_DECODER: &str = "an encoder before its decoder";

/// What a model of a family that is not in the table has, by a key of its config.json.
const TELLING: [(&str, &str); 12] = [
    ("vision_config", IMAGES_OR_SOUND),
    ("audio_config", IMAGES_OR_SOUND),
    ("is_encoder_decoder", ENCODER_DECODER),
    ("kv_lora_rank", LATENT_ATTENTION),
    ("linear_num_value_heads", LINEAR_ATTENTION),
    ("mamba_d_state", STATE_SPACE_LAYERS),
    ("ssm_state_size", STATE_SPACE_LAYERS),
    ("num_local_experts", OTHER_EXPERTS),
    ("num_experts", OTHER_EXPERTS),
    ("n_routed_experts", OTHER_EXPERTS),
    ("layer_norm_epsilon", "norms that subtract the mean"),
    ("auto_map", "a definition in a Python file beside the weights"),
];

/// The error about a model whose family is not supported.
pub(super) fn error(json: ConfigJson, model_type: &str) -> Error {
    if model_type.is_empty() {
        return error!("there is no model_type").hint(format_args!("supported are {}", names()));
    }
    let known = UNSUPPORTED.iter().find(|(types, ..)| types.contains(&model_type));
    let lacking = match known {
        Some((_, what, _)) => Some(*what),
        None => TELLING.iter().find(|(key, _)| is_set(json, key)).map(|(_, what)| *what),
    };
    let nearest = match known {
        Some((_, _, nearest)) => *nearest,
        None => most_alike(model_type),
    };
    let error = match lacking {
        Some(what) => error!("model_type {model_type:?} is not supported: its models have {what}"),
        None => error!("unknown model_type {model_type:?}"),
    };
    let nearest = nearest.map_or(Cow::Borrowed(""), |nearest| format!("the nearest is {nearest}; ").into());
    error.hint(format_args!("{nearest}supported are {}", names()))
}

/// Whether a key has a value that switches something on.
fn is_set(json: ConfigJson, key: &str) -> bool {
    !matches!(json.get(key), None | Some(Value::Bool(false)))
}

/// The family whose name is most like `model_type`, if one is like it.
fn most_alike(model_type: &str) -> Option<&'static str> {
    let alike =
        |family: &'static Family| (strsim::jaro_winkler(model_type, family.model_type), family.model_type);
    let best = FAMILIES.iter().map(alike).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(alike, _)| *alike >= ALIKE).map(|(_, name)| name)
}

/// The families as a sentence names them.
fn names() -> String {
    let name = |family: &Family| match family.models {
        "" => family.model_type.to_string(),
        models => format!("{} ({models})", family.model_type),
    };
    let names: Vec<String> = FAMILIES.iter().map(name).collect();
    match names.split_last() {
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;
    use crate::model::Config;

    fn refused(json: Value) -> (String, String) {
        let error = Config::parse(&json).unwrap_err();
        (error.to_string(), error.hint_text().unwrap().to_string())
    }

    #[test]
    fn a_family_is_in_one_row_and_its_nearest_is_supported() {
        let mut met = HashSet::new();
        for (types, _, nearest) in UNSUPPORTED {
            for model_type in *types {
                assert!(met.insert(model_type), "{model_type} is there twice");
                assert!(FAMILIES.iter().all(|family| family.model_type != *model_type), "{model_type}");
            }
            let is_supported = |name: &&str| FAMILIES.iter().any(|family| family.model_type == *name);
            assert!(nearest.as_ref().is_none_or(is_supported), "{nearest:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_nearest_family() {
        let (said, hint) = refused(json!({"model_type": "qwen3_next"}));
        assert!(said.contains("\"qwen3_next\" is not supported: its models have layers of linear attention"));
        assert!(
            hint.starts_with("the nearest is qwen3_moe; supported are qwen2 (Qwen2, Qwen2.5), qwen3,"),
            "{hint}"
        );
        let (said, hint) = refused(json!({"model_type": "whisper"}));
        assert!(said.contains("encoder of sound") && hint.starts_with("supported are "), "{said} {hint}");
    }

    #[test]
    fn an_unknown_family_is_told_by_its_keys_and_its_name() {
        let (said, hint) = refused(json!({"model_type": "qwen9", "kv_lora_rank": 512}));
        assert!(
            said.contains("latent attention") && hint.starts_with("the nearest is qwen"),
            "{said} {hint}"
        );
        let (said, hint) = refused(json!({"model_type": "lama", "is_encoder_decoder": false}));
        assert!(said.contains("unknown model_type \"lama\"") && hint.starts_with("the nearest is llama;"));
        let (said, hint) = refused(json!({"model_type": "zzz"}));
        assert!(said.contains("unknown model_type") && hint.starts_with("supported are "), "{hint}");
        assert!(refused(json!({})).0.contains("there is no model_type"));
    }
}
