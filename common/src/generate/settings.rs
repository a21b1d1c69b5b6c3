//! How tokens are chosen and when an answer ends: `generation_config.json`, and what the caller overrides.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::text::TextFiles;
use crate::text::files::GENERATION_CONFIG;
use crate::{Context, Error, Result, files};

/// What a caller, or a model's generation_config.json, says about generation; `None` leaves it open.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Whether tokens are drawn at random at all.
    pub do_sample: Option<bool>,
    /// Overrides [`GenerationSettings::temperature`].
    pub temperature: Option<f32>,
    /// Overrides [`GenerationSettings::top_p`].
    pub top_p: Option<f32>,
    /// Overrides [`GenerationSettings::top_k`].
    pub top_k: Option<usize>,
    /// Overrides [`GenerationSettings::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// Overrides [`GenerationSettings::max_new_tokens`].
    pub max_new_tokens: Option<usize>,
}

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    /// Logits are divided by the temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens are kept that together have this share of the probability, at most 1.
    pub top_p: f32,
    /// Only this many of the likeliest tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// Logits of tokens that were there already are divided by the penalty where they are positive, and
    /// multiplied by it where they are negative.
    pub repetition_penalty: f32,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Token ids that end an answer.
    pub stops: Vec<u32>,
}

/// A setting with a value that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutOfRange {
    /// The setting, as generation_config.json names it.
    pub key: &'static str,
    /// The values that make sense, in words.
    pub expected: &'static str,
    /// The value.
    pub found: f32,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} expected, found {}", self.key, self.expected, self.found)
    }
}

impl Overrides {
    /// Returns these values, and those of `other` where these leave something open.
    pub fn or(self, other: Self) -> Self {
        Self {
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_p: self.top_p.or(other.top_p),
            top_k: self.top_k.or(other.top_k),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            max_new_tokens: self.max_new_tokens.or(other.max_new_tokens),
        }
    }

    /// Returns whether a value says how tokens are drawn at random.
    pub fn asks_for_sampling(&self) -> bool {
        self.temperature.is_some() || self.top_p.is_some() || self.top_k.is_some()
    }

    /// Fails with the first value that makes no sense.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let wrong =
            |value: Option<f32>, is_allowed: fn(f32) -> bool| value.filter(|&value| !is_allowed(value));
        if let Some(found) = wrong(self.temperature, |value| value >= 0.0 && value.is_finite()) {
            return Err(OutOfRange { key: "temperature", expected: "0 or more", found });
        }
        if let Some(found) = wrong(self.top_p, |value| value > 0.0 && value <= 1.0) {
            return Err(OutOfRange { key: "top_p", expected: "more than 0 and at most 1", found });
        }
        if let Some(found) = wrong(self.repetition_penalty, |value| value > 0.0 && value.is_finite()) {
            return Err(OutOfRange { key: "repetition_penalty", expected: "more than 0", found });
        }
        Ok(())
    }
}

/// The keys of generation_config.json that matter here; of config.json only the last one does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stored {
    #[serde(flatten)]
    values: Overrides,
    eos_token_id: Option<Ids>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// Most tokens of an answer where neither the model nor the caller says otherwise.
const DEFAULT_NEW_TOKENS: usize = 1024;

impl GenerationSettings {
    /// Reads the settings of a model, with `overrides` in their place. Tokens are drawn at random if the
    /// model's `do_sample` or an override that concerns sampling says so. Answers end with the tokens that
    /// the model's files name, and with `stop_tokens`.
    pub fn load(model: &TextFiles, overrides: &Overrides, stop_tokens: &[u32]) -> Result<Self> {
        overrides.check().map_err(Error::usage)?;
        let path = model.path(GENERATION_CONFIG);
        let stored: Stored = read(&path)?;
        let config: Stored = read(&model.path("config.json"))?;
        let sample = overrides
            .do_sample
            .unwrap_or(overrides.asks_for_sampling() || stored.values.do_sample.unwrap_or(false));
        let mut stops: Vec<u32> = [stored.eos_token_id, config.eos_token_id]
            .into_iter()
            .flatten()
            .flat_map(Ids::into_vec)
            .chain(stop_tokens.iter().copied())
            .collect();
        stops.sort_unstable();
        stops.dedup();
        let mut values = overrides.clone().or(stored.values);
        if !sample {
            values.temperature = Some(0.0);
        }
        values.check().map_err(Error::malformed).with_context(|| path.display().to_string())?;
        Ok(Self {
            temperature: values.temperature.unwrap_or(1.0),
            top_p: values.top_p.unwrap_or(1.0),
            top_k: values.top_k.unwrap_or(0),
            repetition_penalty: values.repetition_penalty.unwrap_or(1.0),
            max_new_tokens: values.max_new_tokens.unwrap_or(DEFAULT_NEW_TOKENS),
            stops,
        })
    }
}

/// Reads a JSON file; one that is not there says nothing.
fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    if !path.exists() {
        return Ok(T::default());
    }
    files::read_json(path, files::CONFIG)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings that take the likeliest token.
    pub(crate) fn greedy(max_new_tokens: usize, stops: &[u32]) -> GenerationSettings {
        GenerationSettings {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens,
            stops: stops.to_vec(),
        }
    }

    fn load(generation: &str, config: &str, overrides: &Overrides) -> Result<GenerationSettings> {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("config.json"), config).unwrap();
        if !generation.is_empty() {
            fs_err::write(directory.path().join("generation_config.json"), generation).unwrap();
        }
        GenerationSettings::load(&TextFiles::of(directory.path(), None), overrides, &[9])
    }

    #[test]
    fn greedy_unless_the_model_or_the_caller_says_otherwise() {
        let settings = load("", r#"{"eos_token_id": 2, "top_k": 50}"#, &Overrides::default()).unwrap();
        assert_eq!((settings.temperature, settings.stops), (0.0, vec![2, 9]));
        let sampled =
            load(r#"{"temperature": 0.5}"#, "{}", &Overrides { top_p: Some(0.9), ..Overrides::default() });
        assert_eq!(sampled.unwrap().temperature, 0.5);
    }

    #[test]
    fn the_model_says_how_and_overrides_go_before() {
        let stored = r#"{"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
            "repetition_penalty": 1.05, "eos_token_id": [7, 2]}"#;
        let settings = load(stored, r#"{"eos_token_id": 2}"#, &Overrides::default()).unwrap();
        let expected = GenerationSettings {
            temperature: 0.7,
            top_p: 0.8,
            top_k: 20,
            repetition_penalty: 1.05,
            max_new_tokens: 1024,
            stops: vec![2, 7, 9],
        };
        assert_eq!(settings, expected);
        let overrides = Overrides { temperature: Some(0.0), max_new_tokens: Some(3), ..Overrides::default() };
        let settings = load(stored, "{}", &overrides).unwrap();
        assert_eq!((settings.temperature, settings.max_new_tokens), (0.0, 3));
    }

    #[test]
    fn senseless_values_are_refused() {
        for overrides in [
            Overrides { temperature: Some(-1.0), ..Overrides::default() },
            Overrides { temperature: Some(f32::NAN), ..Overrides::default() },
            Overrides { top_p: Some(0.0), ..Overrides::default() },
            Overrides { repetition_penalty: Some(0.0), ..Overrides::default() },
        ] {
            assert!(load("", "{}", &overrides).is_err(), "{overrides:?}");
        }
        let error = load(r#"{"do_sample": true, "top_p": 7}"#, "{}", &Overrides::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("generation_config.json: top_p: more than 0 and at most 1 expected, found 7"),
            "{error}"
        );
        assert!(load("{\"top_k\": \"many\"}", "{}", &Overrides::default()).is_err());
    }
}
