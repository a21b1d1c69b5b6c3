//! The weights of the server: one base, and its adapters, which take turns on it.

use std::cell::RefCell;
use std::path::Path;

use common::adapter::Adapter;
use common::device::Device;
use common::generate::Engine;
use common::model::{Batch, Cache, DetachedAdapters, KeyValueCache, Model};
use common::{Context, Result, bail};

/// A base and adapters of it. The frozen weights are there once.
pub(crate) struct Weights(RefCell<Attached>);

/// The base with one of its adapters on it.
struct Attached {
    model: Model,
    /// Which adapter is on the model.
    adapter: Option<usize>,
    /// The adapters; `None` in the place of the one that is on the model.
    others: Vec<Option<DetachedAdapters>>,
}

impl Weights {
    /// Loads the base in `directory`, and then each adapter.
    pub(crate) fn load(directory: &Path, adapters: &[&Path], device: &Device) -> Result<Self> {
        let mut model = Model::load(directory, device)?;
        model.config().note_unused(directory);
        let mut others = Vec::with_capacity(adapters.len());
        for adapter in adapters {
            let place = || adapter.display().to_string();
            model.set_adapter(&Adapter::load(adapter)?).with_context(place)?;
            others.push(Some(model.detach_adapters()));
        }
        Ok(Self(RefCell::new(Attached { model, adapter: None, others })))
    }

    /// Returns the most tokens that a prompt and its answer may have together.
    pub(crate) fn max_tokens(&self) -> usize {
        self.0.borrow().model.config().max_positions
    }

    /// Returns the number of tokens that the model knows.
    pub(crate) fn vocabulary(&self) -> usize {
        self.0.borrow().model.config().vocabulary
    }
}

impl Attached {
    /// Puts an adapter on the model.
    fn attach(&mut self, adapter: usize) -> Result<()> {
        if self.adapter == Some(adapter) {
            return Ok(());
        }
        if let Some(last) = self.adapter.take() {
            self.others[last] = Some(self.model.detach_adapters());
        }
        let Some(next) = self.others[adapter].take() else { bail!(Bug, "adapter {adapter} is lost") };
        self.model.attach_adapters(next)?;
        self.adapter = Some(adapter);
        Ok(())
    }
}

/// The base or one of the adapters, with the keys and values of one text.
pub(crate) struct AdapterEngine<'a> {
    weights: &'a Weights,
    adapter: Option<usize>,
    cache: KeyValueCache,
}

impl<'a> AdapterEngine<'a> {
    /// Begins an empty text; without an adapter the base answers.
    pub(crate) fn new(weights: &'a Weights, adapter: Option<usize>) -> Self {
        Self { weights, adapter, cache: KeyValueCache::new() }
    }
}

impl Engine for AdapterEngine<'_> {
    fn max_tokens(&self) -> usize {
        self.weights.max_tokens()
    }

    fn bound(&self) -> String {
        self.weights.0.borrow().model.config().bound()
    }

    fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    fn is_stretched(&self, tokens: usize) -> bool {
        self.weights.0.borrow().model.config().is_stretched(tokens)
    }

    fn switches_at(&self, tokens: usize) -> bool {
        self.weights.0.borrow().model.config().switches_at(tokens)
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut attached = self.weights.0.borrow_mut();
        let batch = Batch::prompt(tokens, self.cache.len());
        let (rows, cache) = (batch.last_rows(), Cache::Extend(&mut self.cache));
        match self.adapter {
            Some(adapter) => {
                attached.attach(adapter)?;
                attached.model.logits(&batch, &rows, cache)
            }
            None => attached.model.base_logits(&batch, &rows, cache),
        }
    }
}
