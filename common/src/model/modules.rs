//! The one list of a model's weights, by their names in a checkpoint and the shapes that config.json gives
//! them: for the loader, the memory plan, the count of parameters, `quantize`, and the targets of adapters.

use super::Config;

/// The embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The projection to the vocabulary.
pub const HEAD: &str = "lm_head.weight";

/// A matrix of a model: a linear layer or the embedding table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path in the checkpoint, as `model.layers.0.self_attn.q_proj`, without `.weight` or `.bias`.
    pub name: String,
    /// The part that the matrix plays in the model.
    pub role: Role,
    /// [N, K]
    pub shape: [usize; 2],
    /// Whether it has a bias `[N]`.
    pub has_bias: bool,
}

/// The part that a matrix plays in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The table of token embeddings.
    Embedding,
    /// A linear layer of a block: it can be quantized, and can have an adapter.
    Projection,
    /// The projection to the vocabulary.
    Head,
}

/// The weight of an RMS norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeight {
    /// Name in the checkpoint, as `model.norm.weight`.
    pub name: String,
    /// Number of elements.
    pub len: usize,
    /// What is added to each element when it is used: 1 where the checkpoint holds the distance from one (Gemma).
    pub offset: f32,
}

impl Module {
    /// The name of the weight's tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The name of the bias's tensor, where there is a bias.
    pub fn bias(&self) -> Option<String> {
        self.has_bias.then(|| format!("{}.bias", self.name))
    }

    /// The last part of the path, by which adapters are targeted, as `q_proj`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// Number of elements of weight and bias.
    pub fn parameter_count(&self) -> usize {
        let [n, k] = self.shape;
        n * k + if self.has_bias { n } else { 0 }
    }
}

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

    /// Every matrix, once: the embedding table, the linear layers in the order of the forward, and the head
    /// unless it is the table.
    pub fn modules(&self) -> impl Iterator<Item = Module> {
        let head = (!self.tied_head).then(|| self.head());
        std::iter::once(self.embedding()).chain(self.projections().cloned()).chain(head)
    }

    /// The linear layers of all blocks, in the order of the forward.
    pub fn projections(&self) -> impl Iterator<Item = &Module> {
        self.layers.iter().flat_map(|layer| layer.stacks().flatten())
    }

    /// Every norm, once.
    pub fn norms(&self) -> impl Iterator<Item = NormWeight> {
        self.layers.iter().flat_map(|layer| layer.norms().cloned()).chain([self.last_norm()])
    }

    /// The short names of the linear layers of all blocks, each once, in the order of the forward: what
    /// `--lora-target` takes.
    pub fn targets(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for module in self.projections() {
            if !names.contains(&module.short_name()) {
                names.push(module.short_name());
            }
        }
        names
    }

    /// Number of all frozen parameters.
    pub fn parameter_count(&self) -> usize {
        let modules: usize = self.modules().map(|module| module.parameter_count()).sum();
        modules + self.norms().map(|norm| norm.len).sum::<usize>()
    }
}
