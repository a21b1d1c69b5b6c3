//! The weights of a decoder, by their names in a checkpoint and the shapes that config.json gives them.

use super::Config;

/// A linear layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path, as `model.layers.0.self_attn.q_proj`; `.weight` and `.bias` are behind it.
    pub name: String,
    /// [N, K]
    pub shape: [usize; 2],
    /// Whether it has a bias [N].
    pub has_bias: bool,
}

/// The weight of an RMS norm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormWeight {
    /// Its name, as `model.norm.weight`.
    pub name: String,
    /// Numbers.
    pub len: usize,
}

/// How many stacks of linear layers a block has.
pub(super) const STACKS: usize = 4;

/// What a block is made of. Linear layers of one input are stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockModules {
    /// Before the attention.
    pub input_norm: NormWeight,
    /// Query, key and value.
    pub qkv: Vec<Module>,
    /// Of every query head and of every key head, where the family has them.
    pub head_norms: Option<[NormWeight; 2]>,
    /// Output of the attention.
    pub output: Vec<Module>,
    /// Before the feed-forward.
    pub post_norm: NormWeight,
    /// Gate and up.
    pub gate_up: Vec<Module>,
    /// Down.
    pub down: Vec<Module>,
}

impl BlockModules {
    /// The stacks of linear layers, in the order of the forward.
    pub fn stacks(&self) -> [&[Module]; STACKS] {
        [&self.qkv, &self.output, &self.gate_up, &self.down]
    }

    /// All norms.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeight> {
        [&self.input_norm, &self.post_norm].into_iter().chain(self.head_norms.iter().flatten())
    }
}

impl Config {
    /// The table of token embeddings, [V, C].
    pub fn embedding(&self) -> Module {
        Module { name: "model.embed_tokens".into(), shape: [self.vocabulary, self.width], has_bias: false }
    }

    /// The projection to the vocabulary, [V, C]: the embedding table where the head is tied.
    pub fn head(&self) -> Module {
        match self.tied_head {
            true => self.embedding(),
            false => Module { name: "lm_head".into(), ..self.embedding() },
        }
    }

    /// The norm before the head.
    pub fn last_norm(&self) -> NormWeight {
        NormWeight { name: "model.norm.weight".into(), len: self.width }
    }

    /// The modules of block `layer`.
    pub fn block(&self, layer: usize) -> BlockModules {
        let (c, f, heads) = (self.width, self.feed_forward, self.heads);
        let (q, kv) = (heads.queries * heads.size, heads.keys * heads.size);
        let path = |module: &str| format!("model.layers.{layer}.{module}");
        let norm = |module: &str, len| NormWeight { name: path(&format!("{module}.weight")), len };
        let stack = |modules: &[(&str, usize)], k: usize, has_bias: bool| -> Vec<Module> {
            modules
                .iter()
                .map(|&(module, n)| Module { name: path(module), shape: [n, k], has_bias })
                .collect()
        };
        let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let head_norms = || ["self_attn.q_norm", "self_attn.k_norm"].map(|module| norm(module, heads.size));
        BlockModules {
            input_norm: norm("input_layernorm", c),
            qkv: stack(&qkv, c, self.qkv_bias),
            head_norms: self.head_norm.then(head_norms),
            output: stack(&[("self_attn.o_proj", c)], q, self.output_bias),
            post_norm: norm("post_attention_layernorm", c),
            gate_up: stack(&[("mlp.gate_proj", f), ("mlp.up_proj", f)], c, self.mlp_bias),
            down: stack(&[("mlp.down_proj", c)], f, self.mlp_bias),
        }
    }
}
