//! The model as generation sees it: what bounds its texts, and a text that grows by tokens, with the logits after it.

use crate::Result;
use crate::model::{Batch, Cache, Config, KeyValueCache, Model};

/// What bounds the texts of a model, and where their length changes how they are encoded.
pub trait Limits {
    /// Returns the most tokens that a text, prompt and answer together, may have.
    fn max_tokens(&self) -> usize;
    /// Returns what bounds the number of tokens, in words for messages.
    fn bound(&self) -> String {
        format!("{} positions", self.max_tokens())
    }
    /// Returns whether the length of a text of `tokens` tokens changes how each of its positions is
    /// encoded, so that what is remembered of it serves no shorter or longer text.
    fn is_stretched(&self, _tokens: usize) -> bool {
        false
    }
    /// Returns whether all of a text is encoded anew, and once, when it grows to `tokens` tokens.
    fn switches_at(&self, _tokens: usize) -> bool {
        false
    }
}

/// A model that remembers the tokens it was fed.
pub trait Engine {
    /// Returns what bounds the text.
    fn limits(&self) -> &dyn Limits;
    /// Forgets all tokens after the first `len`.
    fn truncate(&mut self, len: usize);
    /// Adds tokens to the text, and returns the logits `[V]` after the last of them.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// A loaded model with the keys and values of one text.
pub struct ModelEngine<'a> {
    model: &'a Model,
    cache: KeyValueCache,
    without_adapters: bool,
}

impl<'a> ModelEngine<'a> {
    /// Begins an empty text; `without_adapters` leaves the adapters out, so that the base answers.
    pub fn new(model: &'a Model, without_adapters: bool) -> Self {
        Self { model, cache: KeyValueCache::new(), without_adapters }
    }
}

impl Limits for Config {
    fn max_tokens(&self) -> usize {
        self.max_positions
    }

    fn bound(&self) -> String {
        Self::bound(self)
    }

    fn is_stretched(&self, tokens: usize) -> bool {
        Self::is_stretched(self, tokens)
    }

    fn switches_at(&self, tokens: usize) -> bool {
        Self::switches_at(self, tokens)
    }
}

impl Engine for ModelEngine<'_> {
    fn limits(&self) -> &dyn Limits {
        self.model.config()
    }

    fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let batch = Batch::prompt(tokens, self.cache.len());
        let (rows, cache) = (batch.last_rows(), Cache::Extend(&mut self.cache));
        match self.without_adapters {
            true => self.model.base_logits(&batch, &rows, cache),
            false => self.model.logits(&batch, &rows, cache),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Continues every text with the token after its last one, up to 9, and records how many tokens it
    /// was fed at a time.
    #[derive(Clone, Default)]
    pub(crate) struct Counting {
        pub len: usize,
        pub most: usize,
        /// The longest text that is not stretched.
        pub unstretched: Option<usize>,
        pub fed: Rc<RefCell<Vec<usize>>>,
    }

    impl Limits for Counting {
        fn max_tokens(&self) -> usize {
            self.most
        }

        fn is_stretched(&self, tokens: usize) -> bool {
            self.unstretched.is_some_and(|most| tokens > most)
        }

        fn switches_at(&self, tokens: usize) -> bool {
            self.unstretched.is_some_and(|most| tokens == most + 1)
        }
    }

    impl Engine for Counting {
        fn limits(&self) -> &dyn Limits {
            self
        }

        fn truncate(&mut self, len: usize) {
            self.len = len;
        }

        fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
            self.len += tokens.len();
            self.fed.borrow_mut().push(tokens.len());
            let mut logits = vec![0.0; 10];
            logits[(tokens[tokens.len() - 1] as usize + 1) % 10] = 1.0;
            Ok(logits)
        }
    }
}
