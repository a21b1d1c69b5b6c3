//! Conversations as tokens with the trained ones marked, in parallel.

use std::path::Path;

use common::data::{Malformed, Record};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, LabelOptions, Tokenizer};
use common::{Result, error};
use rayon::prelude::*;

use super::demands::Demands;
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
    /// Answers that the data says are not to be trained.
    masked_answers: usize,
    /// Examples in which there is no other answer.
    all_masked: usize,
    demands: Demands,
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
            masked_answers: 0,
            all_masked: 0,
            demands: Demands::default(),
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
                    self.masked_answers += encoded.masked_answers;
                    let mut answers = record.conversation.messages.iter().filter(|m| m.is_assistant());
                    match encoded.example.trained.contains(&true) {
                        true => {
                            self.demands.add(&encoded.example, &record.place);
                            self.writer.push(&encoded.example)?;
                        }
                        false if answers.all(|answer| answer.masked) => self.all_masked += 1,
                        false => self.without_answer += 1,
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
            let problem = match self.malformed.first() {
                Some(first) => format!("no token is trained: no example is usable; {first}"),
                None if self.without_answer == 0 => {
                    format!("no token is trained: all {} answers have weight 0", self.masked_answers)
                }
                None => format!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer"),
            };
            return Err(error!("{problem}").hint("raise --cutoff-len, or look at the first rows of the data"));
        }
        let mut warnings: Vec<String> =
            [malformed, self.malformed].iter().filter_map(Malformed::report).collect();
        if self.masked_answers > 0 {
            warnings.push(format!(
                "{} answers have weight 0 (or train: false) and are not trained; {} examples have no other and are dropped",
                self.masked_answers, self.all_masked
            ));
        }
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
        self.writer.finish(warnings, self.demands, path)
    }
}
