//! The matrices and norms of a model, by their names in a checkpoint and their shapes.

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
    /// The router of a mixture of experts.
    Router,
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
