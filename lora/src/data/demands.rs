//! What tokenized examples demand of a model: places for their tokens, and embeddings.

use common::data::RowPlace;
use common::model::Config;
use common::text::Example;
use common::{Error, Result, error};
use serde::{Deserialize, Serialize};

/// The most that any example demands, and the place of that example in the data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Demands {
    /// The number of tokens of the longest example.
    tokens: usize,
    /// The place of the longest example.
    longest: String,
    /// The highest token.
    token: u32,
    /// The place of the example with the highest token.
    highest: String,
}

impl Demands {
    /// Takes an example into account.
    pub fn add(&mut self, example: &Example, place: &RowPlace) {
        if example.tokens.len() > self.tokens {
            (self.tokens, self.longest) = (example.tokens.len(), place.to_string());
        }
        if let Some(&token) = example.tokens.iter().max()
            && (token > self.token || self.highest.is_empty())
        {
            (self.token, self.highest) = (token, place.to_string());
        }
    }

    /// Fails where the model has too few positions for the longest example, or no embedding for the highest
    /// token.
    pub fn check(&self, model: &Config) -> Result<()> {
        let (positions, vocabulary) = (model.max_positions, model.vocabulary);
        let Self { tokens, longest, token, highest } = self;
        if *tokens > positions {
            return Err(error!(
                "{longest}: the example has {tokens} tokens and exceeds the model's {}",
                model.bound()
            )
            .hint(format_args!("--cutoff-len {positions} shortens what is longer")));
        }
        match usize::try_from(*token).is_ok_and(|token| token < vocabulary) {
            true => Ok(()),
            false => Err(beyond(*token, vocabulary).context(highest)),
        }
    }
}

fn beyond(token: u32, vocabulary: usize) -> Error {
    error!(
        "the tokenizer makes token {token} of it, but the model has embeddings of {vocabulary} tokens only"
    )
    .hint("use the tokenizer files that came with the model, without tokens added to them")
}
