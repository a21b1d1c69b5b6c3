//! `/v1/completions`: the continuation of a text.

use serde::Deserialize;
use serde_json::{Value, json};

use super::endpoint::{Endpoint, Piece, Wanted, most_likely};
use super::{Fields, Problem, logprobs};
use crate::serve::catalog::{Catalog, Prompt};

/// The address of texts.
pub(crate) struct Completions;

/// One prompt, or several, each as a text or as tokens.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, a list of tokens, or a list of either expected")]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Lists(Vec<Vec<u32>>),
}

impl Endpoint for Completions {
    fn id_prefix(&self) -> &'static str {
        "cmpl"
    }

    fn objects(&self) -> [&'static str; 2] {
        ["text_completion"; 2]
    }

    fn take(&self, fields: &mut Fields, _: &Catalog) -> Result<Wanted, Problem> {
        let prompts: Vec<Prompt> = match fields.required("prompt")? {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        };
        fields.only("echo", &[json!(false)])?;
        fields.only("suffix", &[json!("")])?;
        fields.only("best_of", &[json!(1)])?;
        let most: Option<usize> = fields.optional("logprobs")?;
        let logprobs = most.map(|most| most_likely("logprobs", Some(most))).transpose()?;
        Ok(Wanted { prompts, logprobs })
    }

    fn beginning(&self, _: usize) -> Option<Value> {
        None
    }

    fn part(&self, piece: &Piece) -> Value {
        let logprobs = piece.logprobs.map(|tokens| logprobs::of_text(tokens, piece.offset));
        let reason = piece.finish_reason();
        json!({"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": reason})
    }

    fn whole(&self, piece: &Piece) -> Value {
        self.part(piece)
    }
}
