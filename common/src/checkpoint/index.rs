//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::header::MOST_TENSORS;
use crate::{Context, Result, bail, files};

/// The name of the index of a checkpoint in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// The name of a checkpoint in one file.
pub const SINGLE: &str = "model.safetensors";

/// The index of a checkpoint in several files, as transformers writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Totals over all files.
    #[serde(default)]
    pub metadata: Totals,
    /// The file that holds each tensor, sorted by the names of tensors.
    #[serde(deserialize_with = "bounded")]
    pub weight_map: BTreeMap<String, String>,
}

/// Totals over all files of a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of elements of all tensors; older files lack it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub total_parameters: Option<u64>,
    /// The number of bytes of all tensors.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub total_size: Option<u64>,
}

/// Reads a total, which some files have as a float and others as something else that is ignored.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| value.as_f64().map(|float| float as u64)))
}

/// Reads a map of at most [`MOST_TENSORS`] tensors.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map from tensor names to files")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, file)) = entries.next_entry()? {
                map.insert(name, file);
                if map.len() > MOST_TENSORS {
                    return Err(serde::de::Error::custom(format!(
                        "it names more than {MOST_TENSORS} tensors"
                    )));
                }
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Names)
}

impl Index {
    /// Reads an index. Every file in it must be a plain name, so that an index cannot lead out of its
    /// directory.
    pub fn read(path: &Path) -> Result<Self> {
        let index: Self = serde_json::from_slice(&files::read(path, files::INDEX)?)
            .with_context(|| format!("{} is not an index of safetensors files", path.display()))?;
        if index.weight_map.is_empty() {
            bail!(Malformed, "{} names no tensor", path.display());
        }
        for (name, file) in &index.weight_map {
            let mut components = Path::new(file).components();
            let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
            if !plain || file.contains(['/', '\\']) {
                bail!(
                    Malformed,
                    "{}: tensor {name} is said to be in {file:?}, which is no plain name",
                    path.display()
                );
            }
        }
        Ok(index)
    }

    /// The names of the files, sorted, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// The index as the text of its file.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
