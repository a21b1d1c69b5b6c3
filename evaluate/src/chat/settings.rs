//! How tokens are chosen and when an answer ends: `generation_config.json`, then flags.

use std::path::Path;

use clap::Args;
use common::text::TextFiles;
use common::text::files::GENERATION_CONFIG;
use common::{Error, Result, files};
use serde::Deserialize;

/// Flags that choose tokens; what is not given comes from the model's generation_config.json.
#[derive(Args, Debug, Clone, Default)]
pub struct Flags {
    /// Randomness of the choice: 0 takes the likeliest token
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,

    /// Choose among the likeliest tokens that together have this share
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,

    /// Choose among so many of the likeliest tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Make tokens that were there already less likely, from 1 (not at all)
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f32>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: Option<u32>,

    /// Whether to sample at all, where a file says so.
    #[arg(skip)]
    pub do_sample: Option<bool>,
}

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// The share that the likeliest tokens must have together, at most 1.
    pub top_p: f32,
    /// How many of the likeliest tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// Divides positive and multiplies negative logits of tokens that were there already.
    pub repetition_penalty: f32,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Token ids that end an answer.
    pub stops: Vec<u32>,
}

/// The keys of generation_config.json that matter here; config.json has the last one too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stored {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<usize>,
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

/// Tokens of an answer where nobody says otherwise.
const DEFAULT_NEW_TOKENS: usize = 1024;

impl Settings {
    /// From the files of a model and the flags. Sampling is on if the model's
    /// `do_sample` or a sampling flag says so. Answers end with the tokens that the model's files
    /// name, and with those of `ends`.
    pub fn load(model: &TextFiles, flags: &Flags, ends: impl IntoIterator<Item = u32>) -> Result<Self> {
        let stored = read(&model.path(GENERATION_CONFIG))?;
        let config = read(&model.path("config.json"))?;
        let asked = flags.temperature.is_some() || flags.top_p.is_some() || flags.top_k.is_some();
        let sample = flags.do_sample.unwrap_or(asked || stored.do_sample.unwrap_or(false));
        let chosen = |flag: Option<f32>, stored: Option<f32>| flag.or(stored).unwrap_or(1.0);
        let mut stops: Vec<u32> = [stored.eos_token_id, config.eos_token_id]
            .into_iter()
            .flatten()
            .flat_map(Ids::into_vec)
            .chain(ends)
            .collect();
        stops.sort_unstable();
        stops.dedup();
        let settings = Self {
            temperature: if sample { chosen(flags.temperature, stored.temperature) } else { 0.0 },
            top_p: chosen(flags.top_p, stored.top_p),
            top_k: flags.top_k.or(stored.top_k).unwrap_or(0),
            repetition_penalty: chosen(flags.repetition_penalty, stored.repetition_penalty),
            max_new_tokens: flags
                .max_new_tokens
                .map(|tokens| tokens as usize)
                .or(stored.max_new_tokens)
                .unwrap_or(DEFAULT_NEW_TOKENS),
            stops,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let wrong = |name: &str, expected: &str, found: f32| {
            Err(Error::usage(format!("{name}: {expected} expected, found {found}")))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("--temperature", "0 or more", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("--top-p", "more than 0 and at most 1", self.top_p);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("--repetition-penalty", "more than 0", self.repetition_penalty);
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Stored> {
    if !path.exists() {
        return Ok(Stored::default());
    }
    files::read_json(path, files::CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(generation: &str, config: &str, flags: &Flags) -> Result<Settings> {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("config.json"), config).unwrap();
        if !generation.is_empty() {
            fs_err::write(directory.path().join("generation_config.json"), generation).unwrap();
        }
        Settings::load(&TextFiles::of(directory.path(), None), flags, [9])
    }

    #[test]
    fn greedy_unless_somebody_says_otherwise() {
        let settings = load("", r#"{"eos_token_id": 2, "top_k": 50}"#, &Flags::default()).unwrap();
        assert_eq!((settings.temperature, settings.stops), (0.0, vec![2, 9]));
        let sampled = load(r#"{"temperature": 0.5}"#, "{}", &Flags { top_p: Some(0.9), ..Flags::default() });
        assert_eq!(sampled.unwrap().temperature, 0.5);
    }

    #[test]
    fn the_model_says_how_and_flags_overrule_it() {
        let stored = r#"{"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
            "repetition_penalty": 1.05, "eos_token_id": [7, 2]}"#;
        let settings = load(stored, r#"{"eos_token_id": 2}"#, &Flags::default()).unwrap();
        let expected = Settings {
            temperature: 0.7,
            top_p: 0.8,
            top_k: 20,
            repetition_penalty: 1.05,
            max_new_tokens: 1024,
            stops: vec![2, 7, 9],
        };
        assert_eq!(settings, expected);
        let flags = Flags { temperature: Some(0.0), max_new_tokens: Some(3), ..Flags::default() };
        let settings = load(stored, "{}", &flags).unwrap();
        assert_eq!((settings.temperature, settings.max_new_tokens), (0.0, 3));
    }

    #[test]
    fn senseless_values_are_refused() {
        for flags in [
            Flags { temperature: Some(-1.0), ..Flags::default() },
            Flags { temperature: Some(f32::NAN), ..Flags::default() },
            Flags { top_p: Some(0.0), ..Flags::default() },
            Flags { repetition_penalty: Some(0.0), ..Flags::default() },
        ] {
            assert!(load("", "{}", &flags).is_err(), "{flags:?}");
        }
        assert!(load("{\"top_k\": \"many\"}", "{}", &Flags::default()).is_err());
    }
}
