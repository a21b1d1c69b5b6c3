//! What requests for answers have in common: they name prompts, and get choices, whole or piece by piece.

use common::generate::StopReason;
use serde_json::{Value, json};

use super::{Fields, Problem, TokenLogprob};
use crate::serve::catalog::{Catalog, Prompt};

/// What a request says besides [`super::Sampling`].
pub(crate) struct Wanted {
    /// The prompts, each of which gets its answers.
    pub prompts: Vec<Prompt>,
    /// Whether log-probabilities are wanted, and those of how many of the likeliest tokens.
    pub logprobs: Option<usize>,
}

/// A part of a choice, or all of it.
pub(crate) struct Piece<'a> {
    /// The number of the choice.
    pub index: usize,
    /// The text.
    pub text: &'a str,
    /// The tokens of the text, where log-probabilities were asked for.
    pub logprobs: Option<&'a [TokenLogprob]>,
    /// How many characters the tokens before it have.
    pub offset: usize,
    /// Why the choice has ended, where it has.
    pub reason: Option<StopReason>,
}

/// An address that answers.
pub(crate) trait Endpoint: Send + Sync {
    /// What the ids of answers begin with.
    fn id_prefix(&self) -> &'static str;
    /// The kind of the whole answer, and of a part of it.
    fn objects(&self) -> [&'static str; 2];
    /// Reads the fields of a request that no other address has.
    fn take(&self, fields: &mut Fields, catalog: &Catalog) -> Result<Wanted, Problem>;
    /// What a stream sends of each choice before its text, if anything.
    fn beginning(&self, index: usize) -> Option<Value>;
    /// A choice in a part of an answer.
    fn part(&self, piece: &Piece) -> Value;
    /// A choice in a whole answer.
    fn whole(&self, piece: &Piece) -> Value;
}

impl Piece<'_> {
    /// Why the choice has ended, as the API names it.
    pub(super) fn finish_reason(&self) -> Option<&'static str> {
        self.reason.map(|reason| match reason {
            StopReason::Stop => "stop",
            StopReason::Length | StopReason::Context => "length",
        })
    }
}

/// Returns the numbers of tokens of an answer.
pub(crate) fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// Reads how many of the likeliest tokens are wanted.
pub(super) fn most_likely(name: &str, most: Option<usize>) -> Result<usize, Problem> {
    match most.unwrap_or(0) {
        most @ 0..=20 => Ok(most),
        most => Err(Problem::field(name, format_args!("at most 20 expected, found {most}"))),
    }
}
