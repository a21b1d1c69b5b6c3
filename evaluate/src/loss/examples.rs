//! The examples of a file of instruction data, encoded and kept or skipped as lora-train does it.

use std::ops::ControlFlow;
use std::path::Path;

use common::cli;
use common::data::{DataSource, Encoder, EncodingCounts, Malformed, RowPlace, records};
use common::model::Loss;
use common::text::{ChatTemplate, Example, LabelOptions, Tokenizer};
use common::{Error, Result, error, hex};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Examples that have tokens to predict.
#[derive(Debug, Default)]
pub struct Examples {
    /// The examples, in the order of their rows.
    pub examples: Vec<Example>,
    /// The row that each example comes from.
    pub places: Vec<RowPlace>,
}

impl Examples {
    /// Reads the examples in a file, of at most `limit` rows, each cut to `cutoff` tokens. Rows that cannot
    /// be used are skipped with a warning; a file without a usable row is an error.
    pub fn read(
        file: &Path,
        limit: Option<usize>,
        cutoff: usize,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
    ) -> Result<Self> {
        let mut source = DataSource::file(file);
        source.max_samples = limit;
        let mut found = Self::default();
        let mut encoder = Encoder::new(tokenizer, template, LabelOptions::answers(cutoff), false);
        let malformed = records(&source, false, &mut |batch, _| {
            cli::check_interrupted()?;
            encoder.encode(batch, |example, place| {
                found.examples.push(example);
                found.places.push(place.clone());
                Ok(())
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
        let counts = encoder.into_counts();
        [&malformed, &counts.refused].into_iter().filter_map(Malformed::report).for_each(cli::warn);
        warnings(&counts, cutoff).iter().for_each(cli::warn);
        match found.examples.is_empty() {
            true => Err(nothing(file, &counts)),
            false => Ok(found),
        }
    }

    /// Returns the SHA-256 of the tokens and of which of them count.
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        for example in &self.examples {
            hash.update((example.tokens.len() as u64).to_le_bytes());
            example.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
            example.trained.iter().for_each(|trained| hash.update([u8::from(*trained)]));
        }
        hex(hash.finalize())
    }

    /// Returns a line of JSON for each example; `losses` are in the order of the examples.
    pub fn details(&self, losses: &[Loss]) -> String {
        let line = |(place, loss): (&RowPlace, &Loss)| {
            let line = json!({"row": place.row, "loss": loss.mean(), "tokens": loss.tokens});
            format!("{line}\n")
        };
        self.places.iter().zip(losses).map(line).collect()
    }
}

/// Returns the warnings about answers that do not count.
fn warnings(counts: &EncodingCounts, cutoff: usize) -> Vec<String> {
    let EncodingCounts { shortened_answers, cut_examples, masked_answers, unwritten_calls, .. } = counts;
    [
        (
            shortened_answers + cut_examples,
            format!(
                "{cutoff} tokens (--cutoff-len) cut {shortened_answers} answers short and leave {cut_examples} examples without one"
            ),
        ),
        (
            *masked_answers,
            format!("{masked_answers} answers have weight 0 (or train: false) and do not count"),
        ),
        (
            *unwritten_calls,
            format!(
                "{unwritten_calls} answers call tools, which the chat template does not write, and do not count"
            ),
        ),
    ]
    .into_iter()
    .filter_map(|(count, warning)| (count > 0).then_some(warning))
    .collect()
}

/// Returns the error of a file without an answer to compute a loss of.
fn nothing(file: &Path, counts: &EncodingCounts) -> Error {
    match counts.refused.first() {
        Some(first) if counts.cut_examples == 0 => {
            error!("{}: no answer to compute a loss of; {first}", file.display())
                .hint("mend the rows of the data, or choose another chat template with --template")
        }
        _ => error!("{}: no answer to compute a loss of", file.display())
            .hint("raise --cutoff-len, or look at the first rows of the data"),
    }
}
