//! Conversations as tokens with the trained ones marked, in parallel.

use std::path::Path;

use common::data::{Malformed, Record};
use common::error::Kind;
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
    /// Examples with the text of a special token in them.
    with_special_text: usize,
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
            with_special_text: 0,
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
                // It is the tokenizer's fault, and the next row would meet it too.
                Err(problem) if problem.kind() == Kind::Malformed => return Err(problem),
                Err(problem) => self.malformed.add(&record.place, problem, self.strict)?,
                Ok(encoded) => {
                    self.with_special_text += usize::from(encoded.has_special_text);
                    self.shortened_answers += encoded.shortened_answers;
                    self.endless_answers += encoded.endless_answers;
                    match encoded.example.trained.contains(&true) {
                        true => self.writer.push(&encoded.example)?,
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
                None => format!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer"),
            };
            return Err(error!("{problem}").hint("raise --cutoff-len, or look at the first rows of the data"));
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
        if self.with_special_text > 0 {
            let special = self.tokenizer.special_contents().first().map_or("", String::as_str);
            warnings.push(format!(
                "{} examples hold the text of a special token, such as {special}, which is trained as text; \
                 --split-special-tokens false makes it the token",
                self.with_special_text
            ));
        }
        self.writer.finish(warnings, path)
    }
}
