//! The trainable parameters: every adapter's A and B in one contiguous f32 buffer.
//!
//! Gradients and optimizer moments have the same layout, so that clipping, AdamW and an all-reduce
//! are one pass over one buffer.

use std::collections::BTreeMap;
use std::ops::Range;

use clap::ValueEnum;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::adapter::{self, Adapter, AdapterConfig};
use crate::device::{Device, Vector};
use crate::kernels::linear::{AdapterSlot, Linear};
use crate::{Error, Result, error};

/// More ranks than any weight has.
const MOST_RANKS: usize = 1 << 16;

/// The settings of a new set of adapters, which serialize under the names of PEFT and LLaMA-Factory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterSettings {
    /// The rank R of every adapter.
    #[serde(rename = "lora_rank")]
    pub rank: usize,
    /// The numerator of the adapters' scale, which is alpha / R.
    #[serde(rename = "lora_alpha")]
    pub alpha: f64,
    /// The modules that get an adapter, as `q_proj`; empty means every linear layer of the blocks.
    #[serde(rename = "lora_target")]
    pub targets: Vec<String>,
    /// Whether the scale is alpha / √R in place of alpha / R (rsLoRA, arXiv:2312.03732).
    #[serde(rename = "use_rslora")]
    pub rank_stabilized: bool,
    /// The distribution of A's initial values; B begins at zero. Left out of the serialized settings
    /// because it is a setting of the adapters' beginning, not of their form.
    #[serde(skip)]
    pub initialization: Initialization,
    /// The seed of A's initial values. Left out as `initialization` is.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for AdapterSettings {
    /// Rank 8, scale 2, plain LoRA on every linear layer of the blocks.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            targets: Vec::new(),
            rank_stabilized: false,
            initialization: Initialization::default(),
            seed: 0,
        }
    }
}

/// Values of PEFT's `init_lora_weights` that leave the model as it is (`LoraLayer.reset_lora_parameters`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
pub enum Initialization {
    /// Kaiming uniform with a = √5.
    #[default]
    #[value(name = "true")]
    #[serde(rename = "true")]
    Kaiming,
    /// Normal with a standard deviation of 1 / rank.
    #[value(name = "gaussian")]
    #[serde(rename = "gaussian")]
    Gaussian,
}

impl Initialization {
    /// Fills an A of rank `rank` with `k` columns.
    fn fill(self, a: &mut [f32], k: usize, rank: usize, random: &mut ChaCha8Rng) {
        match self {
            // Within ±1/√K.
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
    /// All A and B, one after the other.
    pub values: Vector,
    /// The matrices, in the order of their values.
    pub tensors: Vec<AdapterTensor>,
}

/// The projections of a stack: their module paths and shapes [N, K].
pub(super) type Stack<'a> = Vec<(&'a str, [usize; 2])>;

/// Where the adapters of a model lie in the buffer of their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterLayout {
    /// Number of values.
    pub len: usize,
    /// The matrices, in the order of their values.
    pub tensors: Vec<AdapterTensor>,
    /// The adapter of every projection, stack by stack; `None` where it has none.
    slots: Vec<Vec<Option<AdapterSlot>>>,
}

impl AdapterLayout {
    /// New adapters on the targeted projections of `stacks`.
    pub(super) fn new(stacks: &[Stack], options: &AdapterSettings) -> Result<Self> {
        if !(1..=MOST_RANKS).contains(&options.rank) {
            let found = options.rank;
            return Err(Error::usage(format!("lora rank: 1 to {MOST_RANKS} expected, found {found}")));
        }
        let rank = options.rank as f64;
        let scale = (options.alpha / if options.rank_stabilized { rank.sqrt() } else { rank }) as f32;
        let mut met = vec![false; options.targets.len()];
        let mut layout = Self::default();
        // No change of a layer has a higher rank than this.
        let mut full = 0;
        for stack in stacks {
            for (name, [n, k]) in stack {
                if targets(&options.targets, &mut met, name) {
                    full = full.max(*n.min(k));
                }
            }
            layout.place(stack, |name| {
                targets(&options.targets, &mut met, name).then_some((options.rank, scale))
            });
        }
        if let Some(missed) = met.iter().position(|met| !met) {
            return Err(Error::usage(format!(
                "lora target {:?} names no linear layer",
                options.targets[missed]
            ))
            .hint(format!("targets are {}, attention, or all", all_targets(stacks))));
        }
        if options.rank > full {
            return Err(Error::usage(format!(
                "lora rank: at most {full} expected, the smaller side of the largest layer with an adapter, found {}",
                options.rank
            ))
            .hint(format!("--lora-rank {full} can already write any change of every layer")));
        }
        Ok(layout)
    }

    /// The adapters of a PEFT directory, each on the projection of its name.
    pub(super) fn of_adapter(stacks: &[Stack], adapter: &Adapter) -> Result<Self> {
        if let Some(name) = adapter.replacements.keys().chain(adapter.tokens.keys()).next() {
            return Err(error!("the adapter replaces {name} of its base, which only merge supports")
                .hint("merge the adapter and use the merged model"));
        }
        let mut layout = Self::default();
        let mut used = 0;
        for stack in stacks {
            for (name, [n, k]) in stack {
                let Some(weights) = adapter.modules.get(*name) else { continue };
                if weights.inputs != *k || weights.outputs != *n {
                    return Err(error!(
                        Mismatch,
                        "adapter of {name}: A [r, {k}] and B [{n}, r] expected, found [r, {}] and [{}, r]",
                        weights.inputs,
                        weights.outputs
                    ));
                }
                used += 1;
            }
            layout
                .place(stack, |name| adapter.modules.get(name).map(|weights| (weights.rank, weights.scale)));
        }
        if used != adapter.modules.len() {
            return Err(error!(
                Mismatch,
                "the adapter has {} modules, the model knows {used} of them",
                adapter.modules.len()
            ));
        }
        Ok(layout)
    }

    /// Gives each chosen projection of a stack, with its rank and scale, its place: all A's of the stack,
    /// then all B's.
    fn place(&mut self, stack: &Stack, mut choose: impl FnMut(&str) -> Option<(usize, f32)>) {
        let chosen: Vec<Option<(usize, f32)>> = stack.iter().map(|(name, _)| choose(name)).collect();
        let mut place = |name: String, shape: [usize; 2]| {
            let range = self.len..self.len + shape[0] * shape[1];
            self.len = range.end;
            self.tensors.push(AdapterTensor { name, shape, range: range.clone() });
            range
        };
        let a: Vec<Option<Range<usize>>> = stack
            .iter()
            .zip(&chosen)
            .map(|((name, [_, k]), chosen)| {
                chosen.map(|(rank, _)| place(format!("{name}.lora_A.weight"), [rank, *k]))
            })
            .collect();
        let slots = stack.iter().zip(chosen).zip(a).map(|(((name, [n, _]), chosen), a)| {
            let (rank, scale) = chosen?;
            Some(AdapterSlot { rank, scale, a: a?, b: place(format!("{name}.lora_B.weight"), [*n, rank]) })
        });
        self.slots.push(slots.collect());
    }

    /// ΣR of each stack of linear layers, in the order of the forward.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks = |stack: &Vec<Option<AdapterSlot>>| stack.iter().flatten().map(|slot| slot.rank).sum();
        self.slots.iter().map(ranks).collect()
    }

    /// Gives the projections their places, and the values to begin with.
    fn attach(
        self,
        linears: Vec<&mut Linear>,
        mut fill: impl FnMut(&str, &AdapterSlot, &mut [f32]),
        device: &Device,
    ) -> Result<Adapters> {
        let mut values = vec![0.0; self.len];
        let projections = linears.into_iter().flat_map(Linear::projections_mut);
        for (projection, slot) in projections.zip(self.slots.into_iter().flatten()) {
            if let Some(slot) = &slot {
                fill(&projection.name, slot, &mut values);
            }
            projection.adapter = slot;
        }
        Ok(Adapters { values: Vector::from_vec(values, device)?, tensors: self.tensors })
    }
}

/// The names by which the projections of `stacks` are targeted, as a sentence lists them.
fn all_targets(stacks: &[Stack]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (path, _) in stacks.iter().flatten() {
        let name = path.rsplit('.').next().unwrap_or(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// The stacks as an [`AdapterLayout`] takes them.
fn stacks<'a>(linears: &'a [&mut Linear]) -> Vec<Stack<'a>> {
    let stack = |linear: &'a &mut Linear| {
        linear.projections().iter().map(|p| (p.name.as_str(), p.weight.shape())).collect()
    };
    linears.iter().map(stack).collect()
}

impl Adapters {
    /// No adapters.
    pub(super) fn none() -> Self {
        Self { values: Vector::Cpu(Vec::new()), tensors: Vec::new() }
    }

    /// New adapters on the targeted projections of `linears`.
    pub(super) fn new(linears: Vec<&mut Linear>, options: &AdapterSettings, device: &Device) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let fill = |_: &str, slot: &AdapterSlot, values: &mut [f32]| {
            let k = slot.a.len() / slot.rank;
            options.initialization.fill(&mut values[slot.a.clone()], k, slot.rank, &mut random);
        };
        AdapterLayout::new(&stacks(&linears), options)?.attach(linears, fill, device)
    }

    /// The adapters of a PEFT directory.
    pub(super) fn from_adapter(
        linears: Vec<&mut Linear>,
        adapter: &Adapter,
        device: &Device,
    ) -> Result<Self> {
        let fill = |name: &str, slot: &AdapterSlot, values: &mut [f32]| {
            if let Some(weights) = adapter.modules.get(name) {
                values[slot.a.clone()].copy_from_slice(&weights.a);
                values[slot.b.clone()].copy_from_slice(&weights.b);
            }
        };
        AdapterLayout::of_adapter(&stacks(&linears), adapter)?.attach(linears, fill, device)
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
        let modules = modules.collect();
        Ok(Adapter { config, modules, replacements: BTreeMap::new(), tokens: BTreeMap::new() })
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
