//! The decoder that Llama made common, under the names that transformers gives its weights: RMS norms
//! before attention and feed-forward, rotary embeddings, grouped key heads, SwiGLU. Other families say what
//! they have instead.

use super::experts::Experts;
use crate::kernels::attention::{AttentionSpec, Heads};
use crate::kernels::glu::Activation;
use crate::kernels::rope::Pairs;
use crate::model::config_json::ConfigJson;
use crate::model::modules::{Module, NormWeight, Role};
use crate::model::{
    AttentionConfig, Config, FeedForwardConfig, FeedForwardKind, GatedConfig, HeadNormsConfig, LayerConfig,
    ResidualConfig, Rope,
};
use crate::{Result, bail, error};

/// Short names of the linear layers of blocks, in all families together. What a model has of them is in
/// [`Config::targets`].
pub const LINEAR_LAYERS: [&str; 10] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "shared_expert_gate",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
];

/// A decoder whose layers are made once all that differs from Llama has been said.
pub(super) struct Transformer<'a> {
    pub json: ConfigJson<'a>,
    /// Number of layers.
    pub layers: usize,
    /// C
    pub width: usize,
    /// F
    pub feed_forward: usize,
    pub heads: Heads,
    /// Biases of query, key and value.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub output_bias: bool,
    /// Biases of gate, up and down.
    pub feed_forward_bias: bool,
    /// Whether query, key and value are one matrix, `qkv_proj`.
    pub fused_qkv: bool,
    /// Whether gate and up are one matrix, `gate_up_proj`.
    pub fused_gate_up: bool,
    /// Norms of queries and keys, `q_norm` and `k_norm`.
    pub head_norms: Option<HeadNorms>,
    /// The experts in place of the feed-forward, where there are any.
    pub experts: Option<Experts>,
    /// The norms around the branches.
    pub norms: Norms,
    /// What is added to the weights of norms.
    pub norm_offset: f32,
    /// The activation of the gate.
    pub activation: Activation,
    /// Which elements of a head are rotated together.
    pub pairs: Pairs,
    /// The share of a head that rotates where config.json names none, in families that rotate parts.
    pub rotary_share: Option<f64>,
    /// Products of queries and keys are multiplied with it.
    pub attention_scale: Option<f32>,
    /// Scores become c·tanh(scores / c), where there is such a c.
    pub softcap: Option<f32>,
    /// How many tokens a token of each layer attends to, itself included.
    pub windows: Vec<Option<usize>>,
    /// What branches add is multiplied with it.
    pub residual_multiplier: f32,
    /// See [`Config::embedding_scale`].
    pub embedding_scale: f32,
    /// See [`Config::input_scale`].
    pub input_scale: f32,
    /// See [`Config::logit_scale`].
    pub logit_scale: f32,
    /// See [`Config::logit_softcap`].
    pub logit_softcap: Option<f32>,
    /// Whether the head is the embedding table where config.json does not say it.
    pub tied_head: bool,
    /// Added to the mean of squares in norms where config.json does not say it.
    pub epsilon: f64,
}

/// Which norms queries and keys have.
#[derive(Clone, Copy)]
pub(super) enum HeadNorms {
    EachHead,
    AllHeads,
}

/// The names of the norms before and after attention, and before and after the feed-forward.
pub(super) struct Norms {
    pub attention: [Option<&'static str>; 2],
    pub feed_forward: [Option<&'static str>; 2],
}

impl<'a> Transformer<'a> {
    /// Reads the keys that all of these families share.
    pub(super) fn read(json: ConfigJson<'a>) -> Result<Self> {
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
            fused_qkv: false,
            fused_gate_up: false,
            head_norms: None,
            experts: None,
            norms: Norms {
                attention: [Some("input_layernorm"), None],
                feed_forward: [Some("post_attention_layernorm"), None],
            },
            norm_offset: 0.0,
            activation: Activation::Silu,
            pairs: Pairs::Halves,
            rotary_share: None,
            attention_scale: None,
            softcap: None,
            windows: vec![None; layers],
            residual_multiplier: 1.0,
            embedding_scale: 1.0,
            input_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            tied_head: false,
            epsilon: 1e-6,
        })
    }

    /// The model, all layers of which rotate alike.
    pub(super) fn config(self) -> Result<Config> {
        let (json, size) = (self.json, self.heads.size);
        let rope = Rope::parse(json.0, size, self.rotary_share, json.count("max_position_embeddings")?)?;
        self.config_with(vec![rope])
    }

    /// The model, with these rotary embeddings, of which all layers use the first.
    pub(super) fn config_with(self, ropes: Vec<Rope>) -> Result<Config> {
        let (json, Heads { queries, keys, size }) = (self.json, self.heads);
        self.expect_activation()?;
        if !queries.is_multiple_of(keys) || !size.is_multiple_of(2) || size == 0 {
            return Err(error!(
                Malformed,
                "{queries} query heads, {keys} key heads of size {size} do not fit together"
            ));
        }
        Ok(Config {
            vocabulary: json.count("vocab_size")?,
            width: self.width,
            layers: (0..self.layers).map(|layer| self.layer(layer)).collect(),
            epsilon: json.number("rms_norm_eps").unwrap_or(self.epsilon) as f32,
            norm_offset: self.norm_offset,
            embedding_scale: self.embedding_scale,
            input_scale: self.input_scale,
            logit_scale: self.logit_scale,
            logit_softcap: self.logit_softcap,
            router_loss: self.experts.as_ref().and_then(|experts| experts.loss),
            tied_head: json.get("tie_word_embeddings").map_or(self.tied_head, |tied| tied == true),
            max_positions: ropes.iter().map(|rope| rope.positions).min().unwrap_or(0),
            ropes,
            is_composite: false,
        })
    }

    /// config.json names the activation that the family has, or none. Gemma has a key of its own for it.
    fn expect_activation(&self) -> Result<()> {
        let (key, expected) = match self.activation {
            Activation::Silu => ("hidden_act", "silu"),
            Activation::GeluTanh => ("hidden_activation", "gelu_pytorch_tanh"),
        };
        match self.json.text(key) {
            Some(other) if other != expected => {
                bail!(Unsupported, "{key}: {expected} expected, found {other:?}")
            }
            _ => Ok(()),
        }
    }

    fn layer(&self, layer: usize) -> LayerConfig {
        let (c, f, heads) = (self.width, self.feed_forward, self.heads);
        let (q, kv) = (heads.queries * heads.size, heads.keys * heads.size);
        let path = |module: &str| format!("model.layers.{layer}.{module}");
        let norm = |module: &str, len| NormWeight {
            name: path(&format!("{module}.weight")),
            len,
            offset: self.norm_offset,
        };
        let residual = |[before, after]: [Option<&str>; 2]| ResidualConfig {
            before: before.map(|module| norm(module, c)),
            after: after.map(|module| norm(module, c)),
            multiplier: self.residual_multiplier,
        };
        let modules = |modules: &[(&str, usize)], k: usize, has_bias: bool| -> Vec<Module> {
            let module = |&(name, n): &(&str, usize)| Module {
                name: path(name),
                role: Role::Projection,
                shape: [n, k],
                has_bias,
            };
            modules.iter().map(module).collect()
        };
        let qkv: &[(&str, usize)] = match self.fused_qkv {
            true => &[("self_attn.qkv_proj", q + 2 * kv)],
            false => &[("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)],
        };
        let head_norms = self.head_norms.map(|norms| match norms {
            HeadNorms::EachHead => HeadNormsConfig::EachHead([
                norm("self_attn.q_norm", heads.size),
                norm("self_attn.k_norm", heads.size),
            ]),
            HeadNorms::AllHeads => {
                HeadNormsConfig::AllHeads([norm("self_attn.q_norm", q), norm("self_attn.k_norm", kv)])
            }
        });
        let spec = AttentionSpec::from(heads);
        LayerConfig {
            attention: AttentionConfig {
                residual: residual(self.norms.attention),
                qkv: modules(qkv, c, self.qkv_bias),
                head_norms,
                output: modules(&[("self_attn.o_proj", c)], q, self.output_bias),
                spec: AttentionSpec {
                    scale: self.attention_scale.unwrap_or(spec.scale),
                    softcap: self.softcap,
                    window: self.windows[layer],
                    ..spec
                },
                rope: 0,
                pairs: self.pairs,
            },
            feed_forward: FeedForwardConfig {
                residual: residual(self.norms.feed_forward),
                kind: match self.experts.as_ref().filter(|experts| experts.layers[layer]) {
                    Some(experts) => FeedForwardKind::Mixture(Box::new(experts.mixture(
                        &format!("model.layers.{layer}"),
                        c,
                        self.activation,
                    ))),
                    None => {
                        let gate_up: &[(&str, usize)] = match self.fused_gate_up {
                            true => &[("mlp.gate_up_proj", 2 * f)],
                            false => &[("mlp.gate_proj", f), ("mlp.up_proj", f)],
                        };
                        FeedForwardKind::Gated(GatedConfig {
                            gate_up: modules(gate_up, c, self.feed_forward_bias),
                            activation: self.activation,
                            down: modules(&[("mlp.down_proj", c)], f, self.feed_forward_bias),
                            width: f,
                        })
                    }
                },
            },
        }
    }
}
