//! Keys and values of tokens that have been through the model.

use super::Config;
use crate::device::Device;
use crate::kernels::attention::Past;
use crate::{Result, bail};

/// The keys and values of every block for the first tokens of a text.
#[derive(Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<Past>,
    len: usize,
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
        self.len = self.len.min(len);
        for past in &mut self.layers {
            past.truncate(self.len);
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Becomes a copy of the first `len` tokens of another cache of the same model.
    pub fn copy_prefix(&mut self, of: &Self, len: usize) -> Result<()> {
        if len > of.len || self.layers.len() != of.layers.len() {
            bail!(Bug, "{len} tokens of a cache of {} in {} blocks", of.len, of.layers.len());
        }
        self.truncate(0);
        for (past, of) in self.layers.iter_mut().zip(&of.layers) {
            past.copy_prefix(of, len)?;
        }
        self.len = len;
        Ok(())
    }

    /// Makes room on a GPU for `tokens` tokens in all, so that they come without copies of those that are there.
    pub fn reserve(&mut self, tokens: usize, config: &Config, device: &Device) -> Result<()> {
        if self.layers.is_empty() {
            let empty = |layer: &super::LayerConfig| Past::empty(layer.attention.spec.heads, device);
            self.layers = config.layers.iter().map(empty).collect::<Result<_>>()?;
        }
        self.layers.iter_mut().try_for_each(|past| past.reserve(tokens))
    }

    /// Counts tokens that have been through all blocks.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
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
    /// Each sequence of the batch continues the tokens of the cache of its number and is added to them.
    Each(&'a mut [&'a mut KeyValueCache]),
}

/// What the sequences of a pass see before their own tokens.
pub(super) enum Earlier<'a> {
    /// All sequences see the same tokens, or none.
    Shared(Option<&'a KeyValueCache>),
    /// Each sequence sees tokens of its own, to which it is added.
    Each(Vec<&'a mut KeyValueCache>),
}

/// What the sequences of a pass see in one block before their own tokens.
pub(super) enum EarlierInBlock<'a> {
    /// All sequences see the same tokens, or none.
    Shared(Option<&'a Past>),
    /// Each sequence sees tokens of its own, to which it is added.
    Each(Vec<&'a mut Past>),
}

impl EarlierInBlock<'_> {
    /// Nothing.
    pub(super) const NONE: Self = Self::Shared(None);
}

impl<'a> From<Cache<'a>> for Earlier<'a> {
    fn from(cache: Cache<'a>) -> Self {
        match cache {
            Cache::None => Self::Shared(None),
            Cache::Shared(cache) => Self::Shared(Some(cache)),
            Cache::Extend(cache) => Self::Each(vec![cache]),
            Cache::Each(caches) => Self::Each(caches.iter_mut().map(|cache| &mut **cache).collect()),
        }
    }
}

impl Earlier<'_> {
    /// The number of tokens before each sequence that has its own; `None` where they are shared.
    pub(super) fn lens(&self) -> Option<Vec<usize>> {
        match self {
            Self::Shared(_) => None,
            Self::Each(caches) => Some(caches.iter().map(|cache| cache.len).collect()),
        }
    }

    /// What the sequences see in block `layer`.
    pub(super) fn in_block(&mut self, layer: usize) -> EarlierInBlock<'_> {
        match self {
            Self::Shared(cache) => EarlierInBlock::Shared(cache.and_then(|cache| cache.layers.get(layer))),
            Self::Each(caches) => EarlierInBlock::Each(
                caches.iter_mut().filter_map(|cache| cache.layers.get_mut(layer)).collect(),
            ),
        }
    }
}
