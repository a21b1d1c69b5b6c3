//! The trainable parameters: every adapter's A and B in one contiguous f32 buffer.
//!
//! Gradients and optimizer moments have the same layout, so that clipping, AdamW and an all-reduce
//! are one pass over one buffer.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::adapter::{self, Adapter, AdapterConfig};
use crate::kernels::linear::{AdapterSlot, Linear};
use crate::{Error, Result, error};

/// A new set of adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterOptions {
    /// R
    pub rank: usize,
    /// The scale is alpha / R.
    pub alpha: f64,
    /// Module names as `q_proj`; empty means every linear layer of the blocks.
    pub targets: Vec<String>,
    /// Seed of A's random values; B begins at zero.
    pub seed: u64,
}

/// One trainable matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterTensor {
    /// As PEFT names it, without its prefix: `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// [R, K] or [N, R]
    pub shape: [usize; 2],
    /// Where it lies in the buffer.
    pub range: Range<usize>,
}

/// All trainable parameters of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapters {
    /// All A and B, one behind the other.
    pub values: Vec<f32>,
    /// What lies where.
    pub tensors: Vec<AdapterTensor>,
}

impl Adapters {
    /// New adapters on the targeted projections of `linears`: A as PEFT draws it (Kaiming uniform
    /// with a = √5, so within ±1/√K), B zero.
    pub(super) fn new<'a>(
        linears: impl Iterator<Item = &'a mut Linear>,
        options: &AdapterOptions,
    ) -> Result<Self> {
        if options.rank == 0 {
            return Err(Error::usage("lora rank: at least 1 expected, found 0"));
        }
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let mut adapters = Self::default();
        let scale = (options.alpha / options.rank as f64) as f32;
        let mut met = vec![false; options.targets.len()];
        for linear in linears {
            let k = linear.inputs();
            let targeted: Vec<bool> = linear
                .projections()
                .iter()
                .map(|projection| targets(&options.targets, &mut met, &projection.name))
                .collect();
            adapters.attach(linear, |index, _| targeted[index].then_some((options.rank, scale)))?;
            for projection in linear.projections() {
                let Some(adapter) = &projection.adapter else { continue };
                let bound = 1.0 / (k as f32).sqrt();
                adapters.values[adapter.a.clone()].fill_with(|| random.random_range(-bound..bound));
            }
        }
        if let Some(missed) = met.iter().position(|met| !met) {
            return Err(Error::usage(format!(
                "lora target {:?} names no linear layer",
                options.targets[missed]
            ))
            .hint("targets are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj, or all"));
        }
        Ok(adapters)
    }

    /// The adapters of a PEFT directory.
    pub(super) fn from_adapter<'a>(
        linears: impl Iterator<Item = &'a mut Linear>,
        adapter: &Adapter,
    ) -> Result<Self> {
        let mut adapters = Self::default();
        if let Some(name) = adapter.replacements.keys().next() {
            return Err(error!("the adapter replaces {name} of its base, which only merge supports")
                .hint("merge the adapter and use the merged model"));
        }
        let mut used = 0;
        for linear in linears {
            let k = linear.inputs();
            adapters.attach(linear, |_, name| {
                adapter.modules.get(name).map(|weights| (weights.rank, weights.scale))
            })?;
            for projection in linear.projections() {
                let (Some(slot), Some(weights)) =
                    (&projection.adapter, adapter.modules.get(&projection.name))
                else {
                    continue;
                };
                let n = projection.weight.shape()[0];
                if weights.inputs != k || weights.outputs != n {
                    return Err(error!(
                        "adapter of {}: A [r, {k}] and B [{n}, r] expected, found [r, {}] and [{}, r]",
                        projection.name, weights.inputs, weights.outputs
                    )
                    .hint("the adapter was made for another model; name its base with --base"));
                }
                adapters.values[slot.a.clone()].copy_from_slice(&weights.a);
                adapters.values[slot.b.clone()].copy_from_slice(&weights.b);
                used += 1;
            }
        }
        if used != adapter.modules.len() {
            return Err(error!(
                "the adapter has {} modules, the model knows {used} of them",
                adapter.modules.len()
            )
            .hint("the adapter was made for another model; name its base with --base"));
        }
        Ok(adapters)
    }

    /// Gives each chosen projection of a stack its place: all A's of the stack, then all B's.
    fn attach(
        &mut self,
        linear: &mut Linear,
        choose: impl Fn(usize, &str) -> Option<(usize, f32)>,
    ) -> Result<()> {
        let k = linear.inputs();
        let chosen: Vec<Option<(usize, f32)>> =
            linear.projections().iter().enumerate().map(|(i, p)| choose(i, &p.name)).collect();
        let mut place = |name: String, shape: [usize; 2]| {
            let range = self.values.len()..self.values.len() + shape[0] * shape[1];
            self.values.resize(range.end, 0.0);
            self.tensors.push(AdapterTensor { name, shape, range: range.clone() });
            range
        };
        let a: Vec<Option<Range<usize>>> = linear
            .projections()
            .iter()
            .zip(&chosen)
            .map(|(p, chosen)| chosen.map(|(rank, _)| place(format!("{}.lora_A.weight", p.name), [rank, k])))
            .collect();
        for ((projection, chosen), a) in linear.projections_mut().iter_mut().zip(chosen).zip(a) {
            let (Some((rank, scale)), Some(a)) = (chosen, a) else {
                projection.adapter = None;
                continue;
            };
            let n = projection.weight.shape()[0];
            let b = place(format!("{}.lora_B.weight", projection.name), [n, rank]);
            projection.adapter = Some(AdapterSlot { rank, scale, a, b });
        }
        Ok(())
    }

    /// The values as a PEFT adapter.
    pub(super) fn to_adapter<'a>(
        &self,
        linears: impl Iterator<Item = &'a Linear>,
        config: AdapterConfig,
    ) -> Adapter {
        let projections = linears
            .flat_map(|linear| linear.projections().iter().map(|projection| (projection, linear.inputs())));
        let modules = projections.filter_map(|(projection, k)| {
            let slot = projection.adapter.as_ref()?;
            let n = projection.weight.shape()[0];
            let lora = adapter::Lora {
                a: self.values[slot.a.clone()].to_vec(),
                b: self.values[slot.b.clone()].to_vec(),
                rank: slot.rank,
                inputs: k,
                outputs: n,
                scale: slot.scale,
            };
            Some((projection.name.clone(), lora))
        });
        Adapter { config, modules: modules.collect(), replacements: BTreeMap::new() }
    }

    /// The first tensor that holds a value that is not finite.
    pub fn first_non_finite(&self, values: &[f32]) -> Option<&AdapterTensor> {
        let position = values.iter().position(|value| !value.is_finite())?;
        self.tensors.iter().find(|tensor| tensor.range.contains(&position))
    }
}

/// Whether a target names this module; marks the target as met.
fn targets(targets: &[String], met: &mut [bool], module: &str) -> bool {
    if targets.is_empty() {
        return true;
    }
    let mut any = false;
    for (target, met) in targets.iter().zip(met) {
        if module == target || module.ends_with(&format!(".{target}")) {
            *met = true;
            any = true;
        }
    }
    any
}
