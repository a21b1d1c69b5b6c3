//! `rank_pattern` and `alpha_pattern`: numbers by module.

use regex::RegexSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Result, bail, error};

/// Most patterns of an adapter. A large model has about a thousand linear layers.
const MOST: usize = 10_000;

/// Numbers by patterns: names or regular expressions that match the end of a module's path, after a dot.
/// The first pattern that matches counts. All are compiled together, since a file may hold thousands.
#[derive(Debug, Clone, Default)]
pub struct ModulePatterns {
    values: Map<String, Value>,
    names: RegexSet,
}

impl ModulePatterns {
    fn new(values: Map<String, Value>) -> Result<Self> {
        if values.len() > MOST {
            bail!(TooLarge, "{} patterns, at most {MOST} are read", values.len());
        }
        for (name, value) in &values {
            if !value.as_f64().is_some_and(f64::is_finite) {
                bail!(Malformed, "pattern {name:?} has {value}, expected a number");
            }
        }
        let expressions: Vec<String> = values.keys().map(|name| format!(r"^(?:.*\.)?(?:{name})$")).collect();
        let names = RegexSet::new(&expressions).map_err(|all| {
            // Whichever is wrong by itself is named; where none is, there is too much of them.
            let wrong = |(name, expression): (&String, &String)| {
                let error = RegexSet::new([expression]).err()?;
                Some(error!(
                    Malformed,
                    "pattern {name:?} is not a regular expression that can be used: {error}"
                ))
            };
            let wrong = values.keys().zip(&expressions).find_map(wrong);
            wrong.unwrap_or_else(|| error!(TooLarge, "the patterns take too much memory: {all}"))
        })?;
        Ok(Self { values, names })
    }

    /// The number of the module at a path, where a pattern matches it.
    pub fn get(&self, module: &str) -> Option<f64> {
        let first = self.names.matches(module).iter().next()?;
        self.values.values().nth(first)?.as_f64()
    }

    /// The patterns and their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl Serialize for ModulePatterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ModulePatterns {
    /// Reads a map of patterns; null stands for an empty one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = Option::<Map<String, Value>>::deserialize(deserializer)?.unwrap_or_default();
        Self::new(values).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patterns(json: Value) -> Result<ModulePatterns> {
        Ok(serde_json::from_value(json)?)
    }

    #[test]
    fn thousands_of_patterns_are_matched_quickly_and_more_are_refused() {
        let many = |count: usize| {
            (0..count).map(|i| (format!("layers.{i}.mlp.up_proj"), json!(i))).collect::<Map<_, _>>()
        };
        let read = patterns(Value::Object(many(700))).unwrap();
        assert_eq!(read.get("model.layers.699.mlp.up_proj"), Some(699.0));
        assert_eq!(read.get("model.layers.700.mlp.up_proj"), None);
        let error = patterns(Value::Object(many(MOST + 1))).unwrap_err().to_string();
        assert!(error.contains("10001 patterns"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (pattern, named) in [("(", "\"(\""), (r"((a{100}){100}){100}", "a{100}")] {
            let error = patterns(json!({"q_proj": 4, pattern: 8})).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("regular expression"), "{error}");
        }
        let error = patterns(json!({"q_proj": "many"})).unwrap_err().to_string();
        assert!(error.contains(r#"pattern "q_proj" has "many""#), "{error}");
        assert!(patterns(json!(null)).unwrap().get("q_proj").is_none());
    }
}
