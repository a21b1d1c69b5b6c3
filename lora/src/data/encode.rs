//! Conversations as tokens with the trained ones marked, in parallel.

use common::cli::{self, Progress, Unit};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, Example, LabelOptions, Tokenizer};
use common::{Error, Result};
use rayon::prelude::*;

use super::{Malformed, Record};

/// Records between two looks at whether the user wants to stop.
const BATCH: usize = 1024;

/// Examples ready to train on, and what became of them on the way.
#[derive(Debug, Default)]
pub struct Dataset {
    /// In the order of the data.
    pub examples: Vec<Example>,
    /// Answers that the cutoff shortened or dropped.
    pub shortened_answers: usize,
    /// Answers among them that lost the token that ends them.
    pub endless_answers: usize,
}

impl Dataset {
    /// Number of trained tokens.
    pub fn trained_tokens(&self) -> usize {
        let trained = |example: &Example| example.trained.iter().filter(|&&trained| trained).count();
        self.examples.iter().map(trained).sum()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.examples.iter().map(|example| example.tokens.len()).sum()
    }
}

/// Tokenizes `records`. Rows that the chat template refuses count as malformed; examples that the
/// cutoff left without a trained token are dropped.
///
/// Fails where no token is trained at all.
pub fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    options: &LabelOptions,
    strict: bool,
) -> Result<Dataset> {
    let progress = Progress::new("tokenizing", records.len() as u64, Unit::Items("examples"));
    let mut malformed = Malformed::default();
    let mut dataset = Dataset::default();
    let mut without_answer = 0;
    for batch in records.chunks(BATCH) {
        cli::check_interrupted()?;
        let encoded: Vec<Result<Encoded>> = batch
            .par_iter()
            .map(|record| encode_conversation(tokenizer, template, &record.conversation, options))
            .collect();
        for (record, encoded) in batch.iter().zip(encoded) {
            match encoded {
                Err(problem) => malformed.add(&record.place, problem, strict)?,
                Ok(encoded) => {
                    dataset.shortened_answers += encoded.shortened_answers;
                    dataset.endless_answers += encoded.endless_answers;
                    if encoded.example.trained.contains(&true) {
                        dataset.examples.push(encoded.example);
                    } else {
                        without_answer += 1;
                    }
                }
            }
        }
        progress.add(batch.len() as u64);
    }
    drop(progress);
    malformed.report();
    let cutoff = options.cutoff_len;
    if dataset.examples.is_empty() {
        let problem = match malformed.first() {
            Some(first) => format!("no token is trained: no example is usable; {first}"),
            None => format!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer"),
        };
        return Err(Error::new(problem).hint("raise --cutoff-len, or look at the first rows of the data"));
    }
    if without_answer > 0 {
        cli::warn(format_args!(
            "{without_answer} examples have no answer within {cutoff} tokens (--cutoff-len) and are dropped"
        ));
    }
    if dataset.shortened_answers > 0 {
        cli::warn(format_args!(
            "{} answers are shortened to fit {cutoff} tokens (--cutoff-len); {} of them lost their end token",
            dataset.shortened_answers, dataset.endless_answers
        ));
    }
    Ok(dataset)
}
