//! `/v1/models`: the models that a request can name.

use serde_json::{Value, json};

use crate::serve::catalog::Catalog;

/// Returns the model with the number `index`.
pub(crate) fn model(catalog: &Catalog, index: usize) -> Value {
    let entry = &catalog.entries[index];
    json!({
        "id": entry.id,
        "object": "model",
        "created": catalog.created,
        "owned_by": "qlora-tools",
        "max_model_len": catalog.max_tokens,
    })
}

/// Returns all models.
pub(crate) fn list(catalog: &Catalog) -> Value {
    let models: Vec<Value> = (0..catalog.entries.len()).map(|index| model(catalog, index)).collect();
    json!({"object": "list", "data": models})
}
