//! The fields that all requests for answers share: how tokens are chosen, and when an answer ends.

use common::generate::{GenerationSettings, Overrides};
use serde::Deserialize;
use serde_json::json;

use super::{Fields, Problem};
use crate::serve::catalog::Entry;

/// Most texts that end an answer, and most bytes of each.
const MOST_STOPS: usize = 16;
const MOST_STOP_BYTES: usize = 1024;

/// How the answers to a request are made.
pub(crate) struct Sampling {
    /// How tokens are chosen.
    pub settings: GenerationSettings,
    /// What decides random choices, where the request says it.
    pub seed: Option<u64>,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// The number of answers to each prompt.
    pub choices: usize,
    /// Whether the answer is sent as it grows.
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub stream_usage: bool,
}

/// One text, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts expected")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Sampling {
    /// Reads the fields; the rest is as the model or the command line says.
    pub(crate) fn take(fields: &mut Fields, entry: &Entry) -> Result<Self, Problem> {
        let max_tokens = fields.optional("max_tokens")?;
        let max_completion_tokens = fields.optional("max_completion_tokens")?;
        let overrides = Overrides {
            do_sample: None,
            temperature: fields.optional("temperature")?,
            top_p: fields.optional("top_p")?,
            top_k: fields.optional("top_k")?,
            repetition_penalty: fields.optional("repetition_penalty")?,
            max_new_tokens: max_completion_tokens.or(max_tokens),
        };
        overrides.check().map_err(|wrong| {
            Problem::field(wrong.key, format_args!("{} expected, found {}", wrong.expected, wrong.found))
        })?;
        if overrides.max_new_tokens == Some(0) {
            return Err(Problem::field("max_tokens", "1 or more expected, found 0"));
        }
        for penalty in ["frequency_penalty", "presence_penalty"] {
            fields.only(penalty, &[json!(0), json!(0.0)])?;
        }
        fields.only("logit_bias", &[json!({})])?;
        let stops = match fields.optional("stop")? {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Several(texts)) => texts,
        };
        let fits = |text: &String| (1..=MOST_STOP_BYTES).contains(&text.len());
        if stops.len() > MOST_STOPS || !stops.iter().all(fits) {
            let most = format!("at most {MOST_STOPS} texts of 1 to {MOST_STOP_BYTES} bytes expected");
            return Err(Problem::field("stop", most));
        }
        let choices = fields.optional("n")?.unwrap_or(1);
        if choices == 0 {
            return Err(Problem::field("n", "1 or more expected, found 0"));
        }
        let options: Option<StreamOptions> = fields.optional("stream_options")?;
        // OpenAI takes any 64-bit integer; what is negative is a seed as good as others.
        let seed: Option<i64> = fields.optional("seed")?;
        Ok(Self {
            settings: settings(entry, overrides),
            seed: seed.map(i64::cast_unsigned),
            stops,
            choices,
            stream: fields.optional("stream")?.unwrap_or(false),
            stream_usage: options.is_some_and(|options| options.include_usage),
        })
    }
}

/// The settings of a request.
fn settings(entry: &Entry, overrides: Overrides) -> GenerationSettings {
    let base = if overrides.asks_for_sampling() { &entry.sampled } else { &entry.settings };
    GenerationSettings {
        temperature: overrides.temperature.unwrap_or(base.temperature),
        top_p: overrides.top_p.unwrap_or(base.top_p),
        top_k: overrides.top_k.unwrap_or(base.top_k),
        repetition_penalty: overrides.repetition_penalty.unwrap_or(base.repetition_penalty),
        max_new_tokens: overrides.max_new_tokens.unwrap_or(base.max_new_tokens),
        stops: base.stops.clone(),
    }
}
