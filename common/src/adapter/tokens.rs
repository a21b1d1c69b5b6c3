//! Trained rows of the embedding table (PEFT's `trainable_token_indices`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CONFIG;
use crate::checkpoint::Tensor;
use crate::{Result, bail};

/// The tokens whose rows of the embedding table were trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIndices {
    /// Rows of the embedding table, and of the head where it is tied to the table.
    Table(Vec<usize>),
    /// The rows of each module, such as `embed_tokens`.
    Modules(BTreeMap<String, Vec<usize>>),
}

impl TokenIndices {
    /// Whether no row was trained.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Table(indices) => indices.is_empty(),
            Self::Modules(modules) => modules.values().all(Vec::is_empty),
        }
    }

    /// The rows of the module at a path. A head without an entry of its own has those of the table.
    fn of(&self, path: &str) -> Option<&[usize]> {
        match self {
            Self::Table(indices) => Some(indices),
            Self::Modules(modules) => {
                let ends = |name: &&String| path == name.as_str() || path.ends_with(&format!(".{name}"));
                let own = modules.keys().find(ends).or(modules.keys().next().filter(|_| modules.len() == 1));
                own.map(|name| modules[name].as_slice())
            }
        }
    }
}

/// Trained rows of a weight, which replace those of the base.
#[derive(Debug, Clone)]
pub struct TokenRows {
    /// The index of the row that each row of `values` replaces.
    pub indices: Vec<usize>,
    /// The trained rows, `[indices, columns]`.
    pub values: Tensor,
}

impl TokenRows {
    /// The rows of the module at `path`, with the values of an adapter's file.
    pub(super) fn new(indices: Option<&TokenIndices>, path: &str, values: Tensor) -> Result<Self> {
        let Some(indices) = indices.and_then(|indices| indices.of(path)) else {
            bail!(Malformed, "the adapter has rows of {path}, {CONFIG} no trainable_token_indices of it");
        };
        if values.shape.len() != 2 || values.shape[0] != indices.len() {
            bail!(
                Malformed,
                "the adapter has rows {:?} of {path}, trainable_token_indices names {}",
                values.shape,
                indices.len()
            );
        }
        Ok(Self { indices: indices.to_vec(), values })
    }

    /// Whether both have the same rows with the same values.
    pub fn is_same(&self, other: &Self) -> bool {
        self.indices == other.indices
            && self.values.dtype == other.values.dtype
            && *self.values.bytes == *other.values.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(indices: &str, path: &str, count: usize) -> Result<Vec<usize>> {
        let indices: TokenIndices = serde_json::from_str(indices).unwrap();
        let values = Tensor::from_f32("t", vec![count, 2], &vec![0.0; count * 2]);
        TokenRows::new(Some(&indices), path, values).map(|rows| rows.indices)
    }

    #[test]
    fn indices_are_of_the_table_or_of_modules() {
        assert_eq!(rows("[3, 5]", "model.embed_tokens", 2).unwrap(), [3, 5]);
        let modules = r#"{"embed_tokens": [3], "lm_head": [4]}"#;
        assert_eq!(rows(modules, "model.embed_tokens", 1).unwrap(), [3]);
        assert_eq!(rows(modules, "lm_head", 1).unwrap(), [4]);
        assert_eq!(rows(r#"{"embed_tokens": [3]}"#, "lm_head", 1).unwrap(), [3], "tied to the table");
        assert!(rows("[3, 5]", "model.embed_tokens", 3).is_err());
        assert!(rows(modules, "model.layers", 1).is_err());
    }
}
