//! The experts of a mixture as families name and choose them.

use crate::kernels::glu::Activation;
use crate::kernels::routing::RoutingSpec;
use crate::model::config_json::ConfigJson;
use crate::model::modules::{Module, Role};
use crate::model::{ExpertModules, GatedConfig, MixtureConfig, SharedExpertConfig};
use crate::{Result, bail};

/// More experts of a layer than any model has; the kernels keep a token's choice in a few registers.
const MOST_EXPERTS: usize = 1024;
/// More experts of a token than any model has.
const MOST_CHOSEN: usize = 64;

/// transformers' default of `router_aux_loss_coef`, but for OLMoE.
const ROUTER_LOSS: f64 = 1e-3;

/// The mixtures of a model.
pub(super) struct Experts {
    pub routing: RoutingSpec,
    /// F of an expert.
    pub width: usize,
    /// The names of router and experts in a checkpoint.
    pub names: Names,
    /// F of the expert that every token goes to, where there is one.
    pub shared: Option<usize>,
    /// Which layers are mixtures.
    pub layers: Vec<bool>,
    /// See [`crate::model::Config::router_loss`].
    pub loss: Option<f32>,
}

/// Names below `model.layers.N`.
pub(super) struct Names {
    /// The module of router and experts.
    pub module: &'static str,
    /// Gate, up and down of an expert.
    pub matrices: [&'static str; 3],
}

impl Names {
    /// The names of Qwen and OLMoE.
    pub(super) const COMMON: Self = Self { module: "mlp", matrices: ["gate_proj", "up_proj", "down_proj"] };
}

impl Experts {
    /// Reads what families have in common: `count` names the key of the number of experts and its value where
    /// config.json has none, `chosen` is the number of experts of a token then.
    pub(super) fn read(
        json: ConfigJson,
        layers: usize,
        count: (&str, usize),
        chosen: usize,
        width: usize,
    ) -> Result<Self> {
        // transformers 5 writes some files under the name that others have.
        let keys = [count.0, "num_experts", "num_local_experts"];
        let key = keys.into_iter().find(|key| json.get(key).is_some()).unwrap_or(count.0);
        let experts = json.optional_count(key)?.unwrap_or(count.1);
        let chosen = json.optional_count("num_experts_per_tok")?.unwrap_or(chosen);
        if experts > MOST_EXPERTS || chosen > MOST_CHOSEN {
            bail!(
                Unsupported,
                "{experts} experts of which {chosen} are chosen: at most {MOST_EXPERTS} and {MOST_CHOSEN} are supported"
            );
        }
        if chosen > experts {
            bail!(
                Malformed,
                "num_experts_per_tok: at most the {experts} experts of {key} expected, found {chosen}"
            );
        }
        Ok(Self {
            routing: RoutingSpec { experts, chosen, normalized: json.flag("norm_topk_prob") },
            width,
            names: Names::COMMON,
            shared: None,
            layers: vec![true; layers],
            loss: json
                .flag("output_router_logits")
                .then(|| json.number("router_aux_loss_coef").unwrap_or(ROUTER_LOSS) as f32),
        })
    }

    /// The mixture of a layer of width `c` below `path`, as `model.layers.0`.
    pub(super) fn mixture(&self, path: &str, c: usize, activation: Activation) -> MixtureConfig {
        let (f, Names { module, matrices: [gate, up, down] }) = (self.width, &self.names);
        let matrix = |name: String, shape| Module { name, role: Role::Projection, shape, has_bias: false };
        let stack = |parameter: &str, matrices: &[&str], shape: [usize; 2]| {
            let [rows, columns] = [shape[0] / matrices.len(), shape[1]];
            let of_expert = |expert: usize| {
                let name = |name: &&str| format!("{path}.{module}.experts.{expert}.{name}");
                matrices.iter().map(|matrix_name| matrix(name(matrix_name), [rows, columns])).collect()
            };
            ExpertModules {
                name: format!("{path}.mlp.experts.{parameter}"),
                experts: (0..self.routing.experts).map(of_expert).collect(),
                shape,
            }
        };
        let shared = |width: usize| {
            let named = |name: &str, shape| matrix(format!("{path}.mlp.{name}"), shape);
            SharedExpertConfig {
                expert: GatedConfig {
                    gate_up: vec![
                        named("shared_expert.gate_proj", [width, c]),
                        named("shared_expert.up_proj", [width, c]),
                    ],
                    activation,
                    down: vec![named("shared_expert.down_proj", [c, width])],
                    width,
                },
                gate: vec![named("shared_expert_gate", [1, c])],
            }
        };
        MixtureConfig {
            router: Module {
                role: Role::Router,
                ..matrix(format!("{path}.{module}.gate"), [self.routing.experts, c])
            },
            routing: self.routing,
            gate_up: stack("gate_up_proj", &[gate, up], [2 * f, c]),
            down: stack("down_proj", &[down], [c, f]),
            activation,
            width: f,
            shared: self.shared.map(shared),
        }
    }
}

/// Which layers are mixtures, where `mlp_only_layers` and `decoder_sparse_step` say it (Qwen).
pub(super) fn sparse_layers(json: ConfigJson, layers: usize) -> Result<Vec<bool>> {
    let step = json.optional_count("decoder_sparse_step")?.unwrap_or(1);
    let dense = json.get("mlp_only_layers").and_then(serde_json::Value::as_array);
    let is_dense = |layer: usize| {
        dense.is_some_and(|dense| dense.iter().any(|index| index.as_u64() == Some(layer as u64)))
    };
    Ok((0..layers).map(|layer| !is_dense(layer) && (layer + 1).is_multiple_of(step)).collect())
}
