//! A layer of a decoder as data: what its two branches are made of, and the names and shapes of their
//! weights. Families differ here and nowhere else.

use super::modules::{Module, NormWeight};
use crate::kernels::attention::{AttentionSpec, Heads};
use crate::kernels::glu::Activation;
use crate::kernels::rope::Pairs;
use crate::kernels::routing::RoutingSpec;

/// One layer: a branch of attention and a branch of feed-forward, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// The first branch.
    pub attention: AttentionConfig,
    /// The second branch.
    pub feed_forward: FeedForwardConfig,
}

/// How a branch joins the residual stream: x + multiplier · after(branch(before(x))).
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualConfig {
    /// The RMS norm of the branch's input, `[C]`, where the family has one (all but OLMo 2).
    pub before: Option<NormWeight>,
    /// The RMS norm of what the branch adds, `[C]`, where the family has one (Gemma, GLM, OLMo 2).
    pub after: Option<NormWeight>,
    /// What the branch adds is multiplied with it; 1 but for Granite.
    pub multiplier: f32,
}

/// The attention of a layer, with H query heads and K key and value heads of D elements.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// How the branch joins the residual stream.
    pub residual: ResidualConfig,
    /// Query, key and value, [H·D, C], [K·D, C] and [K·D, C], or all as one matrix.
    pub qkv: Vec<Module>,
    /// RMS norms of queries and of keys, where the family has them.
    pub head_norms: Option<HeadNormsConfig>,
    /// The output, [C, H·D].
    pub output: Vec<Module>,
    /// Heads, the scale of their scores, and how far a token sees.
    pub spec: AttentionSpec,
    /// Which of the model's rotary embeddings rotates queries and keys: an index of [`super::Config::ropes`].
    pub rope: usize,
    /// Which elements of a head are rotated together.
    pub pairs: Pairs,
}

/// RMS norms of queries and of keys before they are rotated.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadNormsConfig {
    /// Each head has its own norm; all query heads share one weight `[D]`, and all key heads another.
    EachHead([NormWeight; 2]),
    /// One norm over all query heads together, [H·D], and one over all key heads, [K·D].
    AllHeads([NormWeight; 2]),
}

/// The feed-forward of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForwardConfig {
    /// How the branch joins the residual stream.
    pub residual: ResidualConfig,
    /// What the branch computes.
    pub kind: FeedForwardKind,
}

/// What a feed-forward branch computes.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForwardKind {
    /// One gated linear unit for all tokens.
    Gated(GatedConfig),
    /// For each token, what a few experts compute.
    Mixture(Box<MixtureConfig>),
}

/// A gated linear unit of width F.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedConfig {
    /// Gate and up, [F, C] each, or both as one matrix.
    pub gate_up: Vec<Module>,
    /// The activation of the gate.
    pub activation: Activation,
    /// Down, [C, F].
    pub down: Vec<Module>,
    /// F
    pub width: usize,
}

/// A mixture of E experts, each a gated linear unit of width F.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureConfig {
    /// The router, [E, C], which is neither quantized nor trained.
    pub router: Module,
    /// How the router chooses.
    pub routing: RoutingSpec,
    /// Gate and up of all experts, [2F, C] each.
    pub gate_up: ExpertModules,
    /// Down of all experts, [C, F] each.
    pub down: ExpertModules,
    /// The activation of the gates.
    pub activation: Activation,
    /// F
    pub width: usize,
    /// The expert that every token goes to besides, where the family has one.
    pub shared: Option<SharedExpertConfig>,
}

/// The matrices of all experts that take part in one product.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertModules {
    /// The path of the parameter in which transformers has all of them, as
    /// `model.layers.0.mlp.experts.gate_up_proj`: adapters are named by it.
    pub name: String,
    /// The matrices of each expert, by their names in a checkpoint that stores each expert for itself.
    pub experts: Vec<Vec<Module>>,
    /// [N, K] of all matrices of an expert together.
    pub shape: [usize; 2],
}

/// An expert that every token goes to, weighted by the sigmoid of one logit.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedExpertConfig {
    /// The expert.
    pub expert: GatedConfig,
    /// The logit's weight, [1, C].
    pub gate: Vec<Module>,
}

/// Linear layers that take part in one product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StackConfig<'a> {
    /// Layers of one input, stacked along their outputs.
    Linear(&'a [Module]),
    /// The layers of a mixture's experts.
    Experts(&'a ExpertModules),
}

impl<'a> StackConfig<'a> {
    /// The linear layers, in the order of a checkpoint.
    pub fn modules(self) -> Box<dyn Iterator<Item = &'a Module> + 'a> {
        match self {
            Self::Linear(modules) => Box::new(modules.iter()),
            Self::Experts(modules) => Box::new(modules.experts.iter().flatten()),
        }
    }
}

impl FeedForwardKind {
    /// The stacks that can have adapters, in the order of the forward.
    pub fn stacks(&self) -> Vec<StackConfig<'_>> {
        match self {
            Self::Gated(gated) => gated.stacks().to_vec(),
            Self::Mixture(mixture) => {
                let experts = [StackConfig::Experts(&mixture.gate_up), StackConfig::Experts(&mixture.down)];
                let shared = mixture.shared.iter().flat_map(|shared| {
                    [StackConfig::Linear(&shared.gate)].into_iter().chain(shared.expert.stacks())
                });
                experts.into_iter().chain(shared).collect()
            }
        }
    }

    /// The mixture of experts, where it is one.
    pub fn mixture(&self) -> Option<&MixtureConfig> {
        match self {
            Self::Gated(_) => None,
            Self::Mixture(mixture) => Some(mixture),
        }
    }
}

impl GatedConfig {
    /// Gate and up, and down.
    fn stacks(&self) -> [StackConfig<'_>; 2] {
        [&self.gate_up, &self.down].map(|modules| StackConfig::Linear(modules))
    }
}

impl LayerConfig {
    /// The linear layers that can have adapters, in the order of the forward; those of one input are stacked into
    /// one product.
    pub fn stacks(&self) -> impl Iterator<Item = StackConfig<'_>> {
        let Self { attention, feed_forward } = self;
        let attention = [&attention.qkv, &attention.output].map(|modules| StackConfig::Linear(modules));
        attention.into_iter().chain(feed_forward.kind.stacks())
    }

    /// The router of the layer's experts, where it has any.
    pub fn router(&self) -> Option<&Module> {
        self.feed_forward.kind.mixture().map(|mixture| &mixture.router)
    }

    /// Every norm, once.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeight> {
        let Self { attention, feed_forward } = self;
        let residuals = [&attention.residual, &feed_forward.residual].into_iter();
        let residuals = residuals.flat_map(|residual| residual.before.iter().chain(&residual.after));
        residuals.chain(attention.head_norms.iter().flat_map(HeadNormsConfig::weights))
    }

    /// Elements of every vector of norm weights as it lies on a device, where the norms of heads are one
    /// vector that has each head's.
    pub(super) fn norm_lengths(&self) -> impl Iterator<Item = usize> {
        let head_norms = self.attention.head_norms.as_ref();
        let on_device = head_norms.map(|norms| {
            let sizes = norms.sizes(self.attention.spec.heads);
            sizes.iter().map(|(count, size)| count * size).sum::<usize>()
        });
        let Self { attention, feed_forward } = self;
        let residuals = [&attention.residual, &feed_forward.residual].into_iter();
        let residuals = residuals.flat_map(|residual| residual.before.iter().chain(&residual.after));
        residuals.map(|norm| norm.len).chain(on_device)
    }
}

impl HeadNormsConfig {
    /// The weights of the queries' and of the keys' norms.
    pub fn weights(&self) -> &[NormWeight; 2] {
        match self {
            Self::EachHead(weights) | Self::AllHeads(weights) => weights,
        }
    }

    /// How many norms there are of queries and of keys, and of how many columns each is.
    pub fn sizes(&self, heads: Heads) -> [(usize, usize); 2] {
        let Heads { queries, keys, size } = heads;
        match self {
            Self::EachHead(_) => [(queries, size), (keys, size)],
            Self::AllHeads(_) => [(1, queries * size), (1, keys * size)],
        }
    }
}
