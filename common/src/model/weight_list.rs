//! The one list of a model's weights, by their names in a checkpoint and the shapes that config.json gives
//! them: for the loader, the memory plan, the count of parameters, `quantize`, and the targets of adapters.

use super::modules::{Module, NormWeight, Role};
use super::{Config, ExpertModules, LayerConfig, StackConfig};

impl Config {
    /// The table of token embeddings, [V, C].
    pub fn embedding(&self) -> Module {
        Module {
            name: "model.embed_tokens".into(),
            role: Role::Embedding,
            shape: [self.vocabulary, self.width],
            has_bias: false,
        }
    }

    /// The projection to the vocabulary, [V, C]: the embedding table where the head is tied.
    pub fn head(&self) -> Module {
        match self.tied_head {
            true => self.embedding(),
            false => Module { name: "lm_head".into(), role: Role::Head, ..self.embedding() },
        }
    }

    /// The norm before the head, `[C]`.
    pub fn last_norm(&self) -> NormWeight {
        NormWeight { name: "model.norm.weight".into(), len: self.width, offset: self.norm_offset }
    }

    /// Every matrix, once: the embedding table, the linear layers in the order of the forward, routers, and the
    /// head unless it is the table.
    pub fn modules(&self) -> impl Iterator<Item = Module> {
        let head = (!self.tied_head).then(|| self.head());
        let routers = self.layers.iter().filter_map(|layer| layer.router().cloned());
        std::iter::once(self.embedding()).chain(self.projections().cloned()).chain(routers).chain(head)
    }

    /// The linear layers of all blocks, in the order of the forward.
    pub fn projections(&self) -> impl Iterator<Item = &Module> {
        self.layers.iter().flat_map(|layer| layer.stacks().flat_map(StackConfig::modules))
    }

    /// Every norm, once.
    pub fn norms(&self) -> impl Iterator<Item = NormWeight> {
        self.layers.iter().flat_map(|layer| layer.norms().cloned()).chain([self.last_norm()])
    }

    /// The short names of the linear layers of all blocks but those of a mixture's experts, each once, in the order
    /// of the forward: what `--lora-target all` means, as LLaMA-Factory finds it in transformers 5.
    pub fn targets(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let stacks = self.layers.iter().flat_map(LayerConfig::stacks);
        let linear = stacks.filter_map(|stack| match stack {
            StackConfig::Linear(modules) => Some(modules),
            StackConfig::Experts(_) => None,
        });
        for module in linear.flatten() {
            if !names.contains(&module.short_name()) {
                names.push(module.short_name());
            }
        }
        names
    }

    /// The short names of the projections of attention in all blocks, each once, in the order of the forward: what
    /// `--lora-target attention` means.
    pub fn attention_targets(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let attentions = self.layers.iter().map(|layer| &layer.attention);
        for module in attentions.flat_map(|attention| attention.qkv.iter().chain(&attention.output)) {
            if !names.contains(&module.short_name()) {
                names.push(module.short_name());
            }
        }
        names
    }

    /// The matrices of all experts in the order of the forward, a layer's gate and up before its down.
    pub fn experts(&self) -> impl Iterator<Item = &ExpertModules> {
        let mixtures = self.layers.iter().filter_map(|layer| layer.feed_forward.kind.mixture());
        mixtures.flat_map(|mixture| [&mixture.gate_up, &mixture.down])
    }

    /// Number of all frozen parameters.
    pub fn parameter_count(&self) -> usize {
        let modules: usize = self.modules().map(|module| module.parameter_count()).sum();
        modules + self.norms().map(|norm| norm.len).sum::<usize>()
    }
}
