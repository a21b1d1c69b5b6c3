//! Which model a figure belongs to.

use std::path::Path;

use common::Result;
use common::checkpoint::fingerprint;
use serde_json::{Value, json};

/// Returns the path and the fingerprint of a model, and those of its base where the model is an adapter.
pub fn identity(directory: &Path, base: Option<&Path>) -> Result<Value> {
    let mut identity = json!({
        "path": directory.display().to_string(),
        "fingerprint": fingerprint(directory)?,
    });
    if let Some(base) = base {
        identity["base"] = json!({"path": base.display().to_string(), "fingerprint": fingerprint(base)?});
    }
    Ok(identity)
}
