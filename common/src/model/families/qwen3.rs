//! Qwen3 (`modeling_qwen3.py`): norms of query and key heads, of 128 elements unless config.json says
//! otherwise, and windows as Qwen2 has them.

use super::Family;
use super::qwen2::windows;
use super::transformer::{HeadNorms, Transformer};

/// transformers' default of the size of a head.
pub(super) const HEAD_SIZE: usize = 128;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    models: "",
    config: |json| {
        let bias = json.flag("attention_bias");
        let mut transformer = Transformer::read(json)?;
        if json.0.get("head_dim").is_none() {
            transformer.heads.size = HEAD_SIZE;
        }
        let windows = windows(json, transformer.layers)?;
        let head_norms = Some(HeadNorms::EachHead);
        Transformer { qkv_bias: bias, output_bias: bias, head_norms, windows, ..transformer }.config()
    },
};
