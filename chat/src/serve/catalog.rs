//! The models that clients choose from by name: the base, and each of its adapters.

use std::sync::Arc;

use common::generate::{ChatFormat, GenerationSettings};
use common::text::Conversation;
use common::text::labels::encode_document;
use common::{Result, error};

/// A model as clients see it.
pub(crate) struct Entry {
    /// The name that clients choose it by.
    pub id: String,
    /// How its conversations become prompts; several models may share it.
    pub format: Arc<ChatFormat>,
    /// How its tokens are chosen where a request says nothing of sampling.
    pub settings: GenerationSettings,
    /// How its tokens are chosen where a request asks for sampling.
    pub sampled: GenerationSettings,
    /// Which of the adapters it is; none for the base.
    pub adapter: Option<usize>,
}

/// All models of the server.
pub(crate) struct Catalog {
    /// The models; the first one answers requests that name none.
    pub entries: Vec<Entry>,
    /// The system message of conversations that have none.
    pub system: Option<String>,
    /// Most tokens that a prompt and its answer may have together.
    pub max_tokens: usize,
    /// The number of tokens that the model knows.
    pub vocabulary: usize,
    /// When the server began, in seconds since 1970.
    pub created: u64,
}

/// What a request wants to have continued.
pub(crate) enum Prompt {
    /// The messages of a conversation, to which the assistant answers.
    Conversation(Conversation),
    /// A text, in which nothing is a special token.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

impl Catalog {
    /// Returns the number of the model with the name `id`, or of the first one where no name is given.
    pub(crate) fn find(&self, id: Option<&str>) -> Option<usize> {
        match id {
            Some(id) => self.entries.iter().position(|entry| entry.id == id),
            None => Some(0),
        }
    }

    /// Encodes a prompt for the model `entry`. A prompt that leaves no room for an answer is an error.
    pub(crate) fn encode(&self, entry: &Entry, prompt: Prompt) -> Result<Vec<u32>> {
        let tokens = match prompt {
            Prompt::Conversation(mut conversation) => {
                entry.format.prompt(&mut conversation, usize::MAX)?.tokens
            }
            Prompt::Text(text) => encode_document(entry.format.tokenizer(), &text)?,
            Prompt::Tokens(tokens) => tokens,
        };
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            let known = self.vocabulary;
            return Err(error!("token {token} is not one of the model's {known}").hint("send other tokens"));
        }
        if tokens.is_empty() {
            return Err(error!("the prompt has no tokens").hint("send a text"));
        }
        if tokens.len() >= self.max_tokens {
            let (found, most) = (tokens.len(), self.max_tokens);
            return Err(error!(TooLong, "the prompt has {found} tokens, and the model takes {most}"));
        }
        Ok(tokens)
    }
}
