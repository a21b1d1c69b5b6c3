//! Encodes the records of a run into a file of examples.

use std::path::Path;

use common::data::{Encoder, Malformed, Record};
use common::{Result, error};

use super::demands::Demands;
use super::store::{Examples, Writer};
use super::untrained;

/// A file of examples that is being written, and what the examples demand of a model.
pub struct EncodedFile<'a> {
    encoder: Encoder<'a>,
    writer: Writer,
    demands: Demands,
}

impl<'a> EncodedFile<'a> {
    /// Begins a file in `directory`, of examples that `encoder` makes.
    pub fn new(encoder: Encoder<'a>, directory: &Path) -> Result<Self> {
        Ok(Self { encoder, writer: Writer::new(directory)?, demands: Demands::default() })
    }

    /// Encodes records, and writes those that have a supervised token.
    pub fn add(&mut self, records: &[Record]) -> Result<()> {
        let Self { encoder, writer, demands } = self;
        encoder.encode(records, |example, place| {
            demands.add(&example, place);
            writer.push(&example)
        })
    }

    /// Ends the file, at `path` if there is one. `malformed` are rows that were no records.
    ///
    /// Fails where no token is supervised at all.
    pub fn finish(self, malformed: Malformed, path: Option<&Path>) -> Result<Examples> {
        let cutoff = self.encoder.cutoff_len();
        let counts = self.encoder.into_counts();
        if self.writer.is_empty() {
            return Err(match counts.refused.first() {
                Some(first) => error!("no token is trained: no example is usable; {first}")
                    .hint("mend the rows of the data, or choose another chat template with --template"),
                None => untrained::error(&counts, cutoff),
            });
        }
        let mut warnings: Vec<String> =
            [&malformed, &counts.refused].into_iter().filter_map(Malformed::report).collect();
        warnings.extend(untrained::warnings(&counts, cutoff));
        self.writer.finish(warnings, self.demands, path)
    }
}
