//! Reads values out of a config.json whose keys have been checked ([`super::keys`]).

use serde_json::Value;

use crate::{Result, error};

/// A config.json.
#[derive(Clone, Copy)]
pub(super) struct ConfigJson<'a>(pub &'a Value);

impl<'a> ConfigJson<'a> {
    /// The value of a key that is there and not null.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The text of a key.
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Whether a key is true; a missing one is false.
    pub(super) fn flag(self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The number of a key.
    pub(super) fn number(self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    /// A positive number of things, small enough that products of two never overflow.
    pub(super) fn count(self, key: &str) -> Result<usize> {
        match self.0.get(key).and_then(Value::as_u64) {
            Some(value @ 1..=0x7fff_ffff) => Ok(value as usize),
            _ => Err(match self.0.get(key) {
                None => error!(Malformed, "{key} is missing"),
                Some(found) => error!(Malformed, "{key}: a positive whole number expected, found {found}"),
            }),
        }
    }

    /// As [`ConfigJson::count`], where the key is there and not null.
    pub(super) fn optional_count(self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|_| self.count(key)).transpose()
    }
}
