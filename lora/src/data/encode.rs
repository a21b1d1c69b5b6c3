//! Conversations as tokens with the trained ones marked, in parallel.

use std::path::Path;

use common::data::{Malformed, Record};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, LabelOptions, Tokenizer};
use common::{Result, error};
use rayon::prelude::*;

use super::store::{Examples, Writer};

/// Turns records into examples, in their order.
///
/// Rows that the chat template refuses count as malformed; examples that the cutoff left without a
/// trained token are dropped.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    options: &'a LabelOptions,
    strict: bool,
    writer: Writer,
    malformed: Malformed,
    /// Answers that the cutoff shortened or dropped.
    shortened_answers: usize,
    /// Answers among them that lost the token that ends them.
    endless_answers: usize,
    /// Examples in which no answer is left.
    without_answer: usize,
}

impl<'a> Encoder<'a> {
    /// Writes into a file in `directory`.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
        options: &'a LabelOptions,
        strict: bool,
        directory: &Path,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer,
            template,
            options,
            strict,
            writer: Writer::new(directory)?,
            malformed: Malformed::default(),
            shortened_answers: 0,
            endless_answers: 0,
            without_answer: 0,
        })
    }

    /// Tokenizes records on all threads.
    pub fn add(&mut self, records: &[Record]) -> Result<()> {
        let Self { tokenizer, template, options, .. } = *self;
        let encoded: Vec<Result<Encoded>> = records
            .par_iter()
            .map(|record| encode_conversation(tokenizer, template, &record.conversation, options))
            .collect();
        for (record, encoded) in records.iter().zip(encoded) {
            match encoded {
                Err(problem) => self.malformed.add(&record.place, problem, self.strict)?,
                Ok(encoded) => {
                    self.shortened_answers += encoded.shortened_answers;
                    self.endless_answers += encoded.endless_answers;
                    match encoded.example.supervised() {
                        0 => self.without_answer += 1,
                        _ => self.writer.push(&encoded.example)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the file, at `path` if there is one. `malformed` are rows that were no records.
    ///
    /// Fails where no token is trained at all.
    pub fn finish(self, malformed: Malformed, path: Option<&Path>) -> Result<Examples> {
        let cutoff = self.options.cutoff_len;
        if self.writer.is_empty() {
            return Err(match self.malformed.first() {
                Some(first) => error!("no token is trained: no example is usable; {first}")
                    .hint("mend the rows of the data, or choose another chat template with --template"),
                None => error!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer")
                    .hint("raise --cutoff-len, or look at the first rows of the data"),
            });
        }
        let mut warnings: Vec<String> =
            [malformed, self.malformed].iter().filter_map(Malformed::report).collect();
        if self.without_answer > 0 {
            warnings.push(format!(
                "{} examples have no answer within {cutoff} tokens (--cutoff-len) and are dropped",
                self.without_answer
            ));
        }
        if self.shortened_answers > 0 {
            warnings.push(format!(
                "{} answers are shortened to fit {cutoff} tokens (--cutoff-len); {} of them lost their end token",
                self.shortened_answers, self.endless_answers
            ));
        }
        self.writer.finish(warnings, path)
    }
}
