//! Warnings about answers and examples that are not trained, or not as the user may have meant.

use common::text::{ChatTemplate, Conversation, Encoded};
use common::{Error, error};

/// The numbers of answers and examples that are not trained as they stand in the data.
#[derive(Debug, Default)]
pub struct Untrained {
    /// Answers that the cutoff shortened or dropped.
    shortened: usize,
    /// Answers among them that lost the token that ends them.
    endless: usize,
    /// Answers that the data says are not to be trained.
    masked: usize,
    /// Answers whose calls of tools the template does not write.
    unwritten_calls: usize,
    /// Examples whose tools the template does not write.
    unwritten_tools: usize,
    /// Examples with the text of a special token in them.
    special_texts: usize,
    /// Examples without an answer, because the cutoff left none.
    cut: usize,
    /// Examples without an answer, because none of theirs is to be trained.
    empty: usize,
}

impl Untrained {
    /// Takes an example into account, encoded with `template`.
    pub fn add(&mut self, conversation: &Conversation, encoded: &Encoded, template: &ChatTemplate) {
        let Encoded { example, masked_answers, unwritten_calls, .. } = encoded;
        self.shortened += encoded.shortened_answers;
        self.endless += encoded.endless_answers;
        self.special_texts += usize::from(encoded.has_special_text);
        self.masked += masked_answers;
        self.unwritten_calls += unwritten_calls;
        self.unwritten_tools += usize::from(!conversation.tools.is_empty() && !template.reads("tools"));
        if example.supervised() == 0 {
            let answers = conversation.messages.iter().filter(|message| message.is_assistant()).count();
            match masked_answers + unwritten_calls == answers {
                true => self.empty += 1,
                false => self.cut += 1,
            }
        }
    }

    /// The warnings, each with its number; `cutoff` is the number of tokens that examples were cut to.
    pub fn warnings(&self, cutoff: usize) -> Vec<String> {
        let Self { shortened, endless, masked, unwritten_calls, unwritten_tools, special_texts, cut, empty } =
            self;
        let other = "--template names one that does, as qwen";
        [
            (masked, format!("{masked} answers have weight 0 (or train: false) and are not trained")),
            (
                unwritten_calls,
                format!("{unwritten_calls} answers call tools, which the chat template does not write, and are not trained; {other}"),
            ),
            (
                unwritten_tools,
                format!("{unwritten_tools} examples have tools, which the chat template does not write; {other}"),
            ),
            (
                special_texts,
                format!("{special_texts} examples hold the text of a special token, which is trained as text; --split-special-tokens false makes it the token"),
            ),
            (empty, format!("{empty} examples have no other answer and are dropped")),
            (cut, format!("{cut} examples have no answer within {cutoff} tokens (--cutoff-len) and are dropped")),
            (
                shortened,
                format!("{shortened} answers are shortened to fit {cutoff} tokens (--cutoff-len); {endless} of them lost their end token"),
            ),
        ]
        .into_iter()
        .filter_map(|(count, warning)| (*count > 0).then_some(warning))
        .collect()
    }

    /// The error of data in which no token is supervised.
    pub fn error(&self, cutoff: usize) -> Error {
        let Self { masked, unwritten_calls, cut, .. } = self;
        if *cut > 0 {
            return error!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer")
                .hint("raise --cutoff-len, or look at the first rows of the data");
        }
        error!(
            "no token is trained: {masked} answers have weight 0 (or train: false), {unwritten_calls} call tools, which the chat template does not write"
        )
        .hint("look at the first rows of the data; --template qwen writes calls of tools")
    }
}
