//! Conversations as tokens with the trained ones marked, in parallel.

use std::path::Path;

use common::data::{Malformed, Record};
use common::error::Kind;
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Encoded, LabelOptions, Tokenizer};
use common::{Result, error};
use rayon::prelude::*;

use super::demands::Demands;
use super::store::{Examples, Writer};
use super::untrained::Untrained;

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
    untrained: Untrained,
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
            untrained: Untrained::default(),
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
                // It is the tokenizer's fault, and the next row would meet it too.
                Err(problem) if problem.kind() == Kind::Malformed => return Err(problem),
                Err(problem) => self.malformed.add(&record.place, problem, self.strict)?,
                Ok(encoded) => {
                    self.untrained.add(&record.conversation, &encoded, template);
                    if encoded.example.supervised() > 0 {
                        self.demands.add(&encoded.example, &record.place);
                        self.writer.push(&encoded.example)?;
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
        if self.writer.is_empty() {
            return Err(match self.malformed.first() {
                Some(first) => error!("no token is trained: no example is usable; {first}")
                    .hint("mend the rows of the data, or choose another chat template with --template"),
                None => self.untrained.error(self.options.cutoff_len),
            });
        }
        let mut warnings: Vec<String> =
            [malformed, self.malformed].iter().filter_map(Malformed::report).collect();
        warnings.extend(self.untrained.warnings(self.options.cutoff_len));
        self.writer.finish(warnings, self.demands, path)
    }
}
