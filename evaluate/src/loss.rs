//! The loss of a model on instruction data, as lora-train reports it for what is held out: summed over
//! the answers' tokens and divided by their number.

use std::ops::ControlFlow;
use std::path::Path;

use common::checkpoint::check_unchanged;
use common::cli::{self, Progress, Unit};
use common::data::passes::{pack, passes};
use common::data::{DataSource, Malformed, Record, RowPlace, records};
use common::error::Kind;
use common::model::{Loss, Model};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, Example, LabelOptions, Tokenizer};
use common::{Result, bail, error};
use rayon::prelude::*;
use serde_json::json;

/// What a loss is computed on.
#[derive(Debug, Default)]
pub struct Examples {
    /// Each with tokens to predict.
    pub examples: Vec<Example>,
    /// Where each comes from.
    pub places: Vec<RowPlace>,
}

impl Examples {
    /// A line of JSON for each example, of `losses` in the same order.
    pub fn details(&self, losses: &[Loss]) -> String {
        let line = |(place, loss): (&RowPlace, &Loss)| {
            let line = json!({"row": place.row, "loss": loss.mean(), "tokens": loss.tokens});
            format!("{line}\n")
        };
        self.places.iter().zip(losses).map(line).collect()
    }
}

/// The loss on a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileLoss {
    /// Summed over supervised tokens.
    pub sum: f64,
    /// Supervised tokens.
    pub tokens: usize,
    /// Examples that have any.
    pub examples: usize,
}

impl FileLoss {
    /// Of so many examples, from the losses of the passes that they went through.
    pub fn new(examples: usize, passes: &[Loss]) -> Self {
        let sum = passes.iter().map(|pass| pass.sum).sum();
        Self { sum, tokens: passes.iter().map(|pass| pass.tokens).sum(), examples }
    }

    /// The mean over supervised tokens.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// e to the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }
}

/// The examples in a file, at most `limit` of them, each cut to `cutoff` tokens as lora-train cuts it.
/// What cannot be used is skipped with a warning.
pub fn examples(
    file: &Path,
    limit: Option<usize>,
    cutoff: usize,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<Examples> {
    let mut source = DataSource::file(file);
    source.max_samples = limit;
    let options = LabelOptions::answers(cutoff);
    let (mut found, mut refused, mut shortened, mut empty, mut masked, mut unwritten) =
        (Examples::default(), Malformed::default(), 0, 0, 0, 0);
    let malformed = records(&source, false, &mut |batch: &[Record], _| {
        cli::check_interrupted()?;
        let encoded: Vec<Result<Encoded>> = batch
            .par_iter()
            .map(|record| encode_conversation(tokenizer, template, &record.conversation, &options))
            .collect();
        for (record, encoded) in batch.iter().zip(encoded) {
            match encoded {
                // It is the tokenizer's fault, and the next row would meet it too.
                Err(problem) if problem.kind() == Kind::Malformed => return Err(problem),
                Err(problem) => refused.add(&record.place, problem, false)?,
                Ok(Encoded { shortened_answers, masked_answers, unwritten_calls, example, .. }) => {
                    shortened += shortened_answers;
                    masked += masked_answers;
                    unwritten += unwritten_calls;
                    if example.supervised() > 0 {
                        found.examples.push(example);
                        found.places.push(record.place.clone());
                    } else if masked_answers + unwritten_calls == 0 {
                        empty += 1;
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    [&malformed, &refused].into_iter().filter_map(Malformed::report).for_each(cli::warn);
    if shortened + empty > 0 {
        cli::warn(format_args!(
            "{cutoff} tokens (--cutoff-len) cut {shortened} answers short and leave {empty} examples without one"
        ));
    }
    if masked > 0 {
        cli::warn(format_args!("{masked} answers have weight 0 (or train: false) and do not count"));
    }
    if unwritten > 0 {
        cli::warn(format_args!(
            "{unwritten} answers call tools, which the chat template does not write, and do not count"
        ));
    }
    match found.examples.is_empty() {
        true => Err(match refused.first() {
            Some(first) if empty == 0 => {
                error!("{}: no answer to compute a loss of; {first}", file.display())
                    .hint("mend the rows of the data, or choose another chat template with --template")
            }
            _ => error!("{}: no answer to compute a loss of", file.display())
                .hint("raise --cutoff-len, or look at the first rows of the data"),
        }),
        false => Ok(found),
    }
}

/// The losses of `model` on `examples`, in passes of at most so many tokens unless one alone is longer:
/// one loss of each pass.
pub fn losses(model: &Model, examples: &[Example], pass_tokens: usize) -> Result<Vec<Loss>> {
    let progress = Progress::new("computing the loss", examples.len() as u64, Unit::Items("examples"));
    let mut losses = Vec::new();
    for pass in passes(examples, pass_tokens) {
        cli::check_interrupted()?;
        let loss = model.loss(&pack(pass))?;
        check_unchanged()?;
        if !loss.sum.is_finite() {
            bail!(
                Malformed,
                "the model's loss is {}: its weights hold numbers that are not finite, or overflow",
                loss.sum
            );
        }
        losses.push(loss);
        progress.add(pass.len() as u64);
    }
    Ok(losses)
}
