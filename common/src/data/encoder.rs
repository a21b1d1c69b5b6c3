//! Records as examples: tokenized on all threads, with the supervised tokens marked, and counts of what cannot be
//! used as it stands in the data.

use rayon::prelude::*;

use super::{Malformed, Record, RowPlace};
use crate::Result;
use crate::error::Kind;
use crate::text::labels::encode_conversation;
use crate::text::{ChatTemplate, Conversation, Encoded, Example, LabelOptions, Tokenizer};

/// Encodes the conversations of records in their order.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    options: LabelOptions,
    strict: bool,
    counts: EncodingCounts,
}

/// The numbers of rows, answers and examples that are not supervised as they stand in the data.
#[derive(Debug, Default)]
pub struct EncodingCounts {
    /// Rows that the chat template refuses.
    pub refused: Malformed,
    /// Answers that the cutoff shortened or dropped.
    pub shortened_answers: usize,
    /// Answers among them that lost the token that ends them.
    pub endless_answers: usize,
    /// Answers that the data says are not to be trained.
    pub masked_answers: usize,
    /// Answers that call tools, where the template does not write calls.
    pub unwritten_calls: usize,
    /// Examples that have tools, where the template does not write tools.
    pub unwritten_tools: usize,
    /// Examples that hold the text of a special token.
    pub special_texts: usize,
    /// Examples without a supervised token, because the cutoff left no answer.
    pub cut_examples: usize,
    /// Examples without a supervised token, because all of their answers are masked or unwritten.
    pub masked_examples: usize,
}

impl<'a> Encoder<'a> {
    /// Begins with nothing counted. Under `strict` the first row that the template refuses is an error.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
        options: LabelOptions,
        strict: bool,
    ) -> Self {
        Self { tokenizer, template, options, strict, counts: EncodingCounts::default() }
    }

    /// Encodes records on all threads, and gives `sink` each example that has a supervised token, with the
    /// place of its row. Other rows are counted.
    pub fn encode(
        &mut self,
        records: &[Record],
        mut sink: impl FnMut(Example, &RowPlace) -> Result<()>,
    ) -> Result<()> {
        let (tokenizer, template, options) = (self.tokenizer, self.template, &self.options);
        let encoded: Vec<Result<Encoded>> = records
            .par_iter()
            .map(|record| encode_conversation(tokenizer, template, &record.conversation, options))
            .collect();
        for (record, encoded) in records.iter().zip(encoded) {
            match encoded {
                // The tokenizer is at fault, and would be with the next row too.
                Err(problem) if problem.kind() == Kind::Malformed => return Err(problem),
                Err(problem) => self.counts.refused.add(&record.place, problem, self.strict)?,
                Ok(encoded) => {
                    self.counts.add(&record.conversation, &encoded, template);
                    if encoded.example.supervised() > 0 {
                        sink(encoded.example, &record.place)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the most tokens that an example may have.
    pub fn cutoff_len(&self) -> usize {
        self.options.cutoff_len
    }

    /// Returns what was counted.
    pub fn into_counts(self) -> EncodingCounts {
        self.counts
    }
}

impl EncodingCounts {
    fn add(&mut self, conversation: &Conversation, encoded: &Encoded, template: &ChatTemplate) {
        self.shortened_answers += encoded.shortened_answers;
        self.endless_answers += encoded.endless_answers;
        self.masked_answers += encoded.masked_answers;
        self.unwritten_calls += encoded.unwritten_calls;
        self.special_texts += usize::from(encoded.has_special_text);
        self.unwritten_tools += usize::from(!conversation.tools.is_empty() && !template.reads("tools"));
        if encoded.example.supervised() == 0 {
            let answers = conversation.messages.iter().filter(|message| message.is_assistant()).count();
            match encoded.masked_answers + encoded.unwritten_calls == answers {
                true => self.masked_examples += 1,
                false => self.cut_examples += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use serde_json::{Map, json};

    use super::*;
    use crate::text::Message;

    /// A tokenizer with a token for each printable character, and a template that writes contents only.
    fn text() -> (Tokenizer, ChatTemplate) {
        let vocabulary: Map<String, serde_json::Value> =
            (32u8..127).map(|byte| (char::from(byte).to_string(), (byte - 32).into())).collect();
        let split =
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false});
        let json = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "normalizer": null,
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": " "}});
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), Map::new()).unwrap();
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
        (tokenizer, ChatTemplate::from_source(source, Map::new()).unwrap())
    }

    fn record(row: usize, messages: Vec<Message>) -> Record {
        let place = RowPlace { file: Arc::new(PathBuf::from("rows.json")), row, is_line: false };
        Record { conversation: Conversation { messages, tools: Vec::new() }, place }
    }

    /// The rows that are kept, and what is counted.
    fn encode(records: &[Record], cutoff: usize) -> (Vec<usize>, EncodingCounts) {
        let (tokenizer, template) = text();
        let mut encoder = Encoder::new(&tokenizer, &template, LabelOptions::answers(cutoff), false);
        let mut kept = Vec::new();
        let keep = |_, place: &RowPlace| {
            kept.push(place.row);
            Ok(())
        };
        encoder.encode(records, keep).unwrap();
        (kept, encoder.into_counts())
    }

    #[test]
    fn a_row_in_which_only_the_first_token_is_trained_is_not_kept() {
        let (user, answer) = (Message::new("user", ""), |text: &str| Message::new("assistant", text));
        let records = [record(1, vec![user.clone(), answer("a")]), record(2, vec![user, answer("ab")])];
        let (kept, counts) = encode(&records, 9);
        assert_eq!(kept, [2], "no row of the model predicts a first token");
        assert_eq!((counts.cut_examples, counts.masked_examples, counts.shortened_answers), (1, 0, 0));
    }

    #[test]
    fn rows_are_counted_by_what_is_wrong_with_them() {
        let user = |text: &str| Message::new("user", text);
        let mut masked = Message::new("assistant", "not this");
        masked.masked = true;
        let records = [
            record(1, vec![user("q"), Message::new("assistant", "a")]),
            record(2, vec![user("no answer")]),
            record(3, vec![user("q"), masked]),
            record(4, vec![user("q"), Message::new("assistant", "a long answer")]),
        ];
        let (kept, counts) = encode(&records, 9);
        assert_eq!(kept, [1, 4]);
        assert!(counts.refused.first().unwrap().starts_with("rows.json, row 2: no assistant turn"));
        assert_eq!((counts.masked_answers, counts.masked_examples, counts.shortened_answers), (1, 1, 1));
    }
}
