//! Keys and values of tokens that have been through the model.

use crate::kernels::attention::Past;

/// The keys and values of every block for the first tokens of a text.
#[derive(Debug, Default)]
pub struct KeyValueCache {
    pub(super) layers: Vec<Past>,
    pub(super) len: usize,
}

impl KeyValueCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keeps the first `len` tokens and forgets the others.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            for past in &mut self.layers {
                past.truncate(len);
            }
            self.len = len;
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a pass does with tokens that came before it.
pub enum Cache<'a> {
    /// Nothing came before.
    None,
    /// Every sequence of the batch continues these tokens; they stay as they are.
    Shared(&'a KeyValueCache),
    /// The batch is one sequence that continues these tokens and is added to them.
    Extend(&'a mut KeyValueCache),
}

impl Cache<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Shared(cache) => cache.len,
            Self::Extend(cache) => cache.len,
        }
    }

    /// The past of block `layer`.
    pub(super) fn past(&self, layer: usize) -> Option<&Past> {
        match self {
            Self::None => None,
            Self::Shared(cache) => cache.layers.get(layer),
            Self::Extend(cache) => cache.layers.get(layer),
        }
    }
}
