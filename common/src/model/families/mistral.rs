//! Mistral, Nemo, Small and Ministral (`modeling_mistral.py`): Llama with a sliding window in every layer,
//! unless config.json says `null`.

use super::Family;
use super::transformer::Transformer;
use crate::Result;
use crate::model::config_json::ConfigJson;

/// transformers' default where config.json does not name the window.
const WINDOW: usize = 4096;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    models: "",
    config: |json| {
        let transformer = Transformer::read(json)?;
        Transformer { windows: vec![window(json)?; transformer.layers], ..transformer }.config()
    },
};

/// The window of every layer; `null` is none.
fn window(json: ConfigJson) -> Result<Option<usize>> {
    match json.0.get("sliding_window") {
        None => Ok(Some(WINDOW)),
        Some(_) => json.optional_count("sliding_window"),
    }
}
