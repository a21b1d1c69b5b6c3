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
use crate::device::{Device, Vector};
use crate::kernels::linear::{AdapterSlot, Linear};
use crate::{Error, Result, error};

/// A new set of adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterOptions {
    /// R
    pub rank: usize,
    /// The scale is alpha / R.
    pub alpha: f64,
    /// The scale is alpha / √R (rsLoRA, arXiv:2312.03732).
    pub rank_stabilized: bool,
    /// Module names as `q_proj`; empty means every linear layer of the blocks.
    pub targets: Vec<String>,
    /// How A begins; B begins at zero.
    pub initialization: Initialization,
    /// Seed of A's random values.
    pub seed: u64,
}

impl Default for AdapterOptions {
    /// Rank 8, scale 2, plain LoRA on every linear layer of the blocks.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            rank_stabilized: false,
            targets: Vec::new(),
            initialization: Initialization::default(),
            seed: 0,
        }
    }
}

/// PEFT's distributions of A's first values (`LoraLayer.reset_lora_parameters`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initialization {
    /// Kaiming uniform with a = √5: within ±1/√K.
    #[default]
    Kaiming,
    /// Normal with a standard deviation of 1/R.
    Gaussian,
}

impl Initialization {
    /// Fills an A of rank `rank` with `k` columns.
    fn fill(self, a: &mut [f32], k: usize, rank: usize, random: &mut ChaCha8Rng) {
        match self {
            Self::Kaiming => {
                let bound = 1.0 / (k as f32).sqrt();
                a.fill_with(|| random.random_range(-bound..bound));
            }
            Self::Gaussian => a.fill_with(|| (normal(random) / rank as f64) as f32),
        }
    }
}

/// A normal number of mean 0 and variance 1 (Box and Muller 1958).
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
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
#[derive(Debug)]
pub struct Adapters {
    /// All A and B, one behind the other.
    pub values: Vector,
    /// What lies where.
    pub tensors: Vec<AdapterTensor>,
}

impl Adapters {
    /// No adapters.
    pub(super) fn none() -> Self {
        Self { values: Vector::Cpu(Vec::new()), tensors: Vec::new() }
    }

    /// New adapters on the targeted projections of `linears`.
    pub(super) fn new<'a>(
        linears: impl Iterator<Item = &'a mut Linear>,
        options: &AdapterOptions,
        device: &Device,
    ) -> Result<Self> {
        if options.rank == 0 {
            return Err(Error::usage("lora rank: at least 1 expected, found 0"));
        }
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let mut adapters = Layout::default();
        let rank = options.rank as f64;
        let scale = (options.alpha / if options.rank_stabilized { rank.sqrt() } else { rank }) as f32;
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
                let a = &mut adapters.values[adapter.a.clone()];
                options.initialization.fill(a, k, options.rank, &mut random);
            }
        }
        if let Some(missed) = met.iter().position(|met| !met) {
            return Err(Error::usage(format!(
                "lora target {:?} names no linear layer",
                options.targets[missed]
            ))
            .hint("targets are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj, or all"));
        }
        adapters.on(device)
    }

    /// The adapters of a PEFT directory.
    pub(super) fn from_adapter<'a>(
        linears: impl Iterator<Item = &'a mut Linear>,
        adapter: &Adapter,
        device: &Device,
    ) -> Result<Self> {
        let mut adapters = Layout::default();
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
        adapters.on(device)
    }

    /// The values as a PEFT adapter.
    pub(super) fn to_adapter<'a>(
        &self,
        linears: impl Iterator<Item = &'a Linear>,
        config: AdapterConfig,
    ) -> Result<Adapter> {
        let values = self.values.to_vec()?;
        let projections = linears
            .flat_map(|linear| linear.projections().iter().map(|projection| (projection, linear.inputs())));
        let modules = projections.filter_map(|(projection, k)| {
            let slot = projection.adapter.as_ref()?;
            let n = projection.weight.shape()[0];
            let lora = adapter::Lora {
                a: values[slot.a.clone()].to_vec(),
                b: values[slot.b.clone()].to_vec(),
                rank: slot.rank,
                inputs: k,
                outputs: n,
                scale: slot.scale,
            };
            Some((projection.name.clone(), lora))
        });
        Ok(Adapter { config, modules: modules.collect(), replacements: BTreeMap::new() })
    }

    /// Learning rates of all values, B's `ratio` times those of A (LoRA+, arXiv:2402.12354): ranges
    /// that follow each other, each with its rate.
    pub fn learning_rates(&self, rate: f32, ratio: f32) -> Vec<(Range<usize>, f32)> {
        let mut rates: Vec<(Range<usize>, f32)> = Vec::new();
        for tensor in &self.tensors {
            let rate = if tensor.name.ends_with(".lora_B.weight") { rate * ratio } else { rate };
            match rates.last_mut() {
                Some((range, last)) if *last == rate && range.end == tensor.range.start => {
                    range.end = tensor.range.end;
                }
                _ => rates.push((tensor.range.clone(), rate)),
            }
        }
        rates
    }

    /// The first tensor that holds a value that is not finite.
    pub fn first_non_finite(&self, values: &Vector) -> Result<Option<&AdapterTensor>> {
        let position = values.to_vec()?.iter().position(|value| !value.is_finite());
        Ok(position.and_then(|position| self.tensors.iter().find(|tensor| tensor.range.contains(&position))))
    }
}

/// Adapters while they are laid out, on the host.
#[derive(Default)]
struct Layout {
    values: Vec<f32>,
    tensors: Vec<AdapterTensor>,
}

impl Layout {
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

    fn on(self, device: &Device) -> Result<Adapters> {
        Ok(Adapters { values: Vector::from_vec(self.values, device)?, tensors: self.tensors })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaussian_values_have_pefts_spread() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut a = vec![0.0; 100_000];
        Initialization::Gaussian.fill(&mut a, 64, 8, &mut random);
        let mean = |of: &dyn Fn(f64) -> f64| a.iter().map(|&x| of(f64::from(x))).sum::<f64>() / 1e5;
        assert!(mean(&|x| x).abs() < 2e-3);
        assert!((mean(&|x| x * x).sqrt() - 0.125).abs() < 1e-3);
        assert!((mean(&|x| f64::from(u8::from(x.abs() < 0.125))) - 0.6827).abs() < 5e-3, "one sigma");
    }

    #[test]
    fn b_learns_faster_and_ranges_cover_everything() {
        let tensor = |name: &str, range: Range<usize>| AdapterTensor {
            name: format!("{name}.weight"),
            shape: [1, range.len()],
            range,
        };
        let tensors = vec![
            tensor("q.lora_A", 0..4),
            tensor("k.lora_A", 4..8),
            tensor("q.lora_B", 8..10),
            tensor("k.lora_B", 10..12),
            tensor("o.lora_A", 12..16),
        ];
        let adapters = Adapters { values: Vector::Cpu(vec![0.0; 16]), tensors };
        assert_eq!(adapters.learning_rates(0.5, 4.0), [(0..8, 0.5), (8..12, 2.0), (12..16, 0.5)]);
        assert_eq!(adapters.learning_rates(0.5, 1.0), [(0..16, 0.5)], "one range where there is one rate");
    }
}
