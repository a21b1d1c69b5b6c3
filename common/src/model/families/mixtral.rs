//! Mixtral (`modeling_mixtral.py`): Mistral with experts in place of the feed-forward, the weights of a token's
//! experts always divided by their sum.

use super::Family;
use super::experts::{Experts, Names};
use super::transformer::Transformer;
use crate::bail;
use crate::kernels::routing::RoutingSpec;

/// As checkpoints name them; transformers 5 calls the module `mlp` and the matrices as other families do.
const NAMES: Names = Names { module: "block_sparse_moe", matrices: ["w1", "w3", "w2"] };

pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    models: "Mixtral",
    config: |json| {
        if json.number("router_jitter_noise").is_some_and(|noise| noise > 0.0) {
            bail!(Unsupported, "router_jitter_noise: 0 expected, noise of the router is not supported");
        }
        let transformer = Transformer::read(json)?;
        let (layers, width) = (transformer.layers, transformer.feed_forward);
        let experts = Experts::read(json, layers, ("num_local_experts", 8), 2, width)?;
        let window = json.optional_count("sliding_window")?;
        Transformer {
            windows: vec![window; layers],
            epsilon: 1e-5,
            experts: Some(Experts {
                routing: RoutingSpec { normalized: true, ..experts.routing },
                names: NAMES,
                ..experts
            }),
            ..transformer
        }
        .config()
    },
};
