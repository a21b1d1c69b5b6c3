//! Log-probabilities of the tokens of an answer.

use common::Result;
use common::generate::{likeliest, logprobs};
use common::text::Tokenizer;
use serde_json::{Map, Value, json};

/// A token of an answer, how likely it was, and which others were likely in its place.
pub(crate) struct TokenLogprob {
    token: Token,
    /// The likeliest tokens, the likeliest first.
    top: Vec<Token>,
}

struct Token {
    text: String,
    logprob: f32,
}

impl Token {
    /// Returns the token as an entry of `logprobs.content` in an answer to a conversation. The bytes of a token that
    /// is a part of a character are not known.
    fn json(&self) -> Value {
        let is_whole = !self.text.contains(char::REPLACEMENT_CHARACTER);
        let bytes = is_whole.then_some(self.text.as_bytes());
        json!({"token": self.text, "logprob": self.logprob, "bytes": bytes})
    }
}

impl TokenLogprob {
    /// The token `id`, which was chosen by `logits` `[V]`, and the `most` likeliest.
    pub(crate) fn of(id: u32, most: usize, logits: &[f32], tokenizer: &Tokenizer) -> Result<Self> {
        let ids: Vec<u32> = std::iter::once(id).chain(likeliest(logits, most)).collect();
        let tokens = ids.iter().zip(logprobs(logits, &ids)?);
        let tokens = tokens
            .map(|(&id, logprob)| Ok(Token { text: tokenizer.decode_with_special(&[id])?, logprob }))
            .collect::<Result<Vec<_>>>()?;
        let mut tokens = tokens.into_iter();
        let token = tokens.next().ok_or_else(|| common::error!(Bug, "no token"))?;
        Ok(Self { token, top: tokens.collect() })
    }

    /// The number of characters of the token.
    pub(crate) fn characters(&self) -> usize {
        self.token.text.chars().count()
    }
}

/// Returns `logprobs` of an answer to a conversation.
pub(crate) fn of_chat(tokens: &[TokenLogprob]) -> Value {
    let content = tokens.iter().map(|TokenLogprob { token, top }| {
        let mut entry = token.json();
        entry["top_logprobs"] = top.iter().map(Token::json).collect();
        entry
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// Returns `logprobs` of a text, whose first token begins after `offset` characters.
pub(crate) fn of_text(tokens: &[TokenLogprob], mut offset: usize) -> Value {
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let begin = offset;
            offset += token.characters();
            begin
        })
        .collect();
    let top = |token: &TokenLogprob| -> Map<String, Value> {
        token.top.iter().map(|token| (token.text.clone(), token.logprob.into())).collect()
    };
    json!({
        "tokens": tokens.iter().map(|token| token.token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
