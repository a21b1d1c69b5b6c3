//! The loss of a model on instruction data, as lora-train reports it for what is held out: summed over
//! the answers' tokens and divided by their number.

use std::ops::ControlFlow;
use std::path::Path;

use common::cli::{self, Progress, Unit};
use common::data::passes::{pack, passes};
use common::data::{Malformed, Record, Source, records};
use common::model::Model;
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, Example, LabelOptions, Tokenizer};
use common::{Result, error};
use rayon::prelude::*;

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
) -> Result<Vec<Example>> {
    let mut source = Source::file(file);
    source.max_samples = limit;
    let options = LabelOptions::answers(cutoff);
    let (mut examples, mut refused, mut shortened, mut empty) = (Vec::new(), Malformed::default(), 0, 0);
    let malformed = records(&source, false, &mut |batch: &[Record], _| {
        cli::check_interrupted()?;
        let encoded: Vec<Result<Encoded>> = batch
            .par_iter()
            .map(|record| encode_conversation(tokenizer, template, &record.conversation, &options))
            .collect();
        for (record, encoded) in batch.iter().zip(encoded) {
            match encoded {
                Err(problem) => refused.add(&record.place, problem, false)?,
                Ok(Encoded { shortened_answers, example, .. }) => {
                    shortened += shortened_answers;
                    match example.trained.contains(&true) {
                        true => examples.push(example),
                        false => empty += 1,
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    [malformed, refused].iter().filter_map(Malformed::report).for_each(cli::warn);
    if shortened + empty > 0 {
        cli::warn(format_args!(
            "{cutoff} tokens (--cutoff-len) cut {shortened} answers short and leave {empty} examples without one"
        ));
    }
    match examples.is_empty() {
        true => Err(error!("{}: no answer to compute a loss of", file.display())
            .hint("raise --cutoff-len, or look at the first rows of the data")),
        false => Ok(examples),
    }
}

/// The loss of `model` on `examples`, in passes of at most so many tokens unless one alone is longer.
pub fn loss(model: &Model, examples: &[Example], pass_tokens: usize) -> Result<FileLoss> {
    let progress = Progress::new("computing the loss", examples.len() as u64, Unit::Items("examples"));
    let mut loss = FileLoss { sum: 0.0, tokens: 0, examples: examples.len() };
    for pass in passes(examples, pass_tokens) {
        cli::check_interrupted()?;
        let found = model.loss(&pack(pass))?;
        loss.sum += found.sum;
        loss.tokens += found.tokens;
        progress.add(pass.len() as u64);
    }
    Ok(loss)
}
