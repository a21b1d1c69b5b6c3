//! The decoder that Llama made common, under the names that transformers gives its weights: RMS norms
//! before attention and feed-forward, rotary embeddings, grouped key heads, SwiGLU. Other families say what
//! they have instead.

use crate::kernels::attention::{AttentionSpec, Heads};
use crate::model::config_json::ConfigJson;
use crate::model::modules::{Module, NormWeight, Role};
use crate::model::{AttentionConfig, Config, FeedForwardConfig, LayerConfig, Rope};
use crate::{Result, error};

/// A decoder whose layers are made once all that differs has been said.
pub(super) struct Transformer<'a> {
    json: ConfigJson<'a>,
    /// Number of layers.
    pub layers: usize,
    /// C
    width: usize,
    /// F
    feed_forward: usize,
    heads: Heads,
    /// Biases of query, key and value.
    qkv_bias: bool,
    /// Bias of the attention's output.
    output_bias: bool,
    /// Biases of gate, up and down.
    feed_forward_bias: bool,
    head_norms: bool,
    /// Of each layer.
    windows: Vec<Option<usize>>,
}

impl<'a> Transformer<'a> {
    /// Reads the keys that all of these families share.
    pub fn read(json: ConfigJson<'a>) -> Result<Self> {
        match json.text("hidden_act") {
            None | Some("silu") => {}
            Some(other) => return Err(error!(Unsupported, "hidden_act: silu expected, found {other:?}")),
        }
        let width = json.count("hidden_size")?;
        let queries = json.count("num_attention_heads")?;
        let keys = json.optional_count("num_key_value_heads")?.unwrap_or(queries);
        let size = json.optional_count("head_dim")?.unwrap_or(width / queries);
        let layers = json.count("num_hidden_layers")?;
        Ok(Self {
            json,
            layers,
            width,
            feed_forward: json.count("intermediate_size")?,
            heads: Heads { queries, keys, size },
            qkv_bias: false,
            output_bias: false,
            feed_forward_bias: false,
            head_norms: false,
            windows: vec![None; layers],
        })
    }

    /// Biases of query, key and value, of the attention's output, and of gate, up and down.
    pub fn with_biases(self, qkv_bias: bool, output_bias: bool, feed_forward_bias: bool) -> Self {
        Self { qkv_bias, output_bias, feed_forward_bias, ..self }
    }

    /// Heads of `size` elements each.
    pub fn with_head_size(self, size: usize) -> Self {
        Self { heads: Heads { size, ..self.heads }, ..self }
    }

    /// An RMS norm of every query head and every key head.
    pub fn with_head_norms(self) -> Self {
        Self { head_norms: true, ..self }
    }

    /// How many tokens a token of each layer attends to, itself included.
    pub fn with_windows(self, window: impl Fn(usize) -> Option<usize>) -> Self {
        Self { windows: (0..self.layers).map(window).collect(), ..self }
    }

    /// The model.
    pub fn config(self) -> Result<Config> {
        let (json, Heads { queries, keys, size }) = (self.json, self.heads);
        if !queries.is_multiple_of(keys) || !size.is_multiple_of(2) || size == 0 {
            return Err(error!(
                Malformed,
                "{queries} query heads, {keys} key heads of size {size} do not fit together"
            ));
        }
        let rope = Rope::parse(json.0, size, json.count("max_position_embeddings")?)?;
        Ok(Config {
            vocabulary: json.count("vocab_size")?,
            width: self.width,
            layers: (0..self.layers).map(|layer| self.layer(layer)).collect(),
            epsilon: json.number("rms_norm_eps").unwrap_or(1e-6) as f32,
            tied_head: json.flag("tie_word_embeddings"),
            max_positions: rope.positions,
            ropes: vec![rope],
        })
    }

    fn layer(&self, layer: usize) -> LayerConfig {
        let (c, f, heads) = (self.width, self.feed_forward, self.heads);
        let (q, kv) = (heads.queries * heads.size, heads.keys * heads.size);
        let path = |module: &str| format!("model.layers.{layer}.{module}");
        let norm = |module: &str, len| NormWeight { name: path(&format!("{module}.weight")), len };
        let module = |name: &str, shape: [usize; 2], has_bias: bool| Module {
            name: path(name),
            role: Role::Projection,
            shape,
            has_bias,
        };
        LayerConfig {
            attention: AttentionConfig {
                norm: norm("input_layernorm", c),
                qkv: vec![
                    module("self_attn.q_proj", [q, c], self.qkv_bias),
                    module("self_attn.k_proj", [kv, c], self.qkv_bias),
                    module("self_attn.v_proj", [kv, c], self.qkv_bias),
                ],
                head_norms: self
                    .head_norms
                    .then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(|name| norm(name, heads.size))),
                output: vec![module("self_attn.o_proj", [c, q], self.output_bias)],
                spec: AttentionSpec { window: self.windows[layer], ..heads.into() },
                rope: 0,
            },
            feed_forward: FeedForwardConfig {
                norm: norm("post_attention_layernorm", c),
                gate_up: ["mlp.gate_proj", "mlp.up_proj"]
                    .map(|name| module(name, [f, c], self.feed_forward_bias))
                    .into(),
                down: vec![module("mlp.down_proj", [c, f], self.feed_forward_bias)],
                width: f,
            },
        }
    }
}
