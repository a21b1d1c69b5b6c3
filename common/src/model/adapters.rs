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

use super::stack::{Stack, StackMut, Target};
use crate::adapter::{self, Adapter, AdapterConfig};
use crate::device::{Device, Vector};
use crate::kernels::linear::AdapterSlot;
use crate::{Error, Result, error};

/// The name of all linear layers of blocks but those of a mixture's experts, as adapters are targeted.
pub const ALL: &str = "all";
/// The name of the projections of attention, as adapters are targeted.
pub const ATTENTION: &str = "attention";
/// The name of the layers of a mixture's experts, as adapters are targeted.
pub const EXPERTS: &str = "experts";

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
    /// The modules that get an adapter, as `q_proj`, and `experts` for those of a mixture; empty means every linear
    /// layer of the blocks but those of experts.
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
    /// The place of the matrix in the buffer.
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

/// Where the adapters of a model lie in the buffer of their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterLayout {
    /// Number of values.
    pub len: usize,
    /// The matrices, in the order of their values.
    pub tensors: Vec<AdapterTensor>,
    /// The adapter of every target, stack by stack; `None` where it has none.
    slots: Vec<Vec<Option<AdapterSlot>>>,
}

impl AdapterLayout {
    /// New adapters on the targeted layers of `stacks`.
    pub(super) fn new(stacks: &[Vec<Target>], options: &AdapterSettings) -> Result<Self> {
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
            for target in stack {
                if is_targeted(&options.targets, &mut met, target) {
                    full = full.max(target.shape[0].min(target.shape[1]));
                }
            }
            layout.place(stack, |target| {
                is_targeted(&options.targets, &mut met, target).then_some((options.rank, scale))
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
    pub(super) fn of_adapter(stacks: &[Vec<Target>], adapter: &Adapter) -> Result<Self> {
        if let Some(name) = adapter.replacements.keys().chain(adapter.tokens.keys()).next() {
            return Err(error!("the adapter replaces {name} of its base, which only merge supports")
                .hint("merge the adapter and use the merged model"));
        }
        let mut layout = Self::default();
        let mut used = 0;
        for stack in stacks {
            for target in stack {
                let Some(found) = Found::of(adapter, target) else { continue };
                let [n, k] = target.shape;
                let expected = (target.experts, k, n);
                let is = (found.experts, found.inputs, found.outputs);
                if is != expected {
                    return Err(error!(
                        Mismatch,
                        "adapter of {}: experts, inputs and outputs {expected:?} expected, found {is:?}",
                        target.name
                    ));
                }
                used += 1;
            }
            layout.place(stack, |target| Found::of(adapter, target).map(|found| (found.rank, found.scale)));
        }
        let all = adapter.modules.len() + adapter.experts.len();
        if used != all {
            return Err(error!(Mismatch, "the adapter has {all} modules, the model knows {used} of them"));
        }
        Ok(layout)
    }

    /// Gives each chosen target of a stack, with its rank and scale, its place: all A's of the stack,
    /// then all B's.
    fn place(&mut self, stack: &[Target], mut choose: impl FnMut(&Target) -> Option<(usize, f32)>) {
        let chosen: Vec<Option<(usize, f32)>> = stack.iter().map(&mut choose).collect();
        let mut place = |name: String, shape: [usize; 2]| {
            let range = self.len..self.len + shape[0] * shape[1];
            self.len = range.end;
            self.tensors.push(AdapterTensor { name, shape, range: range.clone() });
            range
        };
        // Those of experts lie one after the other.
        let rows = |target: &Target, rows: usize| target.experts.unwrap_or(1) * rows;
        let a: Vec<Option<Range<usize>>> = stack
            .iter()
            .zip(&chosen)
            .map(|(target, chosen)| {
                let name = format!("{}.lora_A.weight", target.name);
                chosen.map(|(rank, _)| place(name, [rows(target, rank), target.shape[1]]))
            })
            .collect();
        let slots = stack.iter().zip(chosen).zip(a).map(|((target, chosen), a)| {
            let (rank, scale) = chosen?;
            let b = place(format!("{}.lora_B.weight", target.name), [rows(target, target.shape[0]), rank]);
            Some(AdapterSlot { rank, scale, a: a?, b })
        });
        self.slots.push(slots.collect());
    }

    /// The names that `target_modules` and `target_parameters` of PEFT have for these adapters: the short names of
    /// modules, and the last parts of the paths of experts' parameters, each once.
    pub fn peft_targets(&self) -> [Vec<String>; 2] {
        let [mut modules, mut parameters] = [Vec::new(), Vec::new()];
        for tensor in &self.tensors {
            let Some(name) = tensor.name.strip_suffix(".lora_A.weight") else { continue };
            let (names, parts) = match name.contains(".experts.") {
                true => (&mut parameters, 3),
                false => (&mut modules, 1),
            };
            let start = name.rmatch_indices('.').nth(parts - 1).map_or(0, |(place, _)| place + 1);
            let name = name[start..].to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        [modules, parameters]
    }

    /// ΣR of each stack of linear layers, in the order of the forward.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks = |stack: &Vec<Option<AdapterSlot>>| stack.iter().flatten().map(|slot| slot.rank).sum();
        self.slots.iter().map(ranks).collect()
    }

    /// Gives the targets their places, and the values to begin with.
    fn attach(
        self,
        stacks: Vec<StackMut>,
        mut fill: impl FnMut(&Target, &AdapterSlot, &mut [f32]),
        device: &Device,
    ) -> Result<Adapters> {
        let mut values = vec![0.0; self.len];
        for (mut stack, slots) in stacks.into_iter().zip(self.slots) {
            for ((target, _), slot) in stack.as_ref().targets().iter().zip(&slots) {
                if let Some(slot) = slot {
                    fill(target, slot, &mut values);
                }
            }
            stack.attach(slots);
        }
        Ok(Adapters { values: Vector::from_vec(values, device)?, tensors: self.tensors })
    }
}

/// What an adapter has for a target.
struct Found<'a> {
    a: &'a [f32],
    b: &'a [f32],
    experts: Option<usize>,
    rank: usize,
    inputs: usize,
    outputs: usize,
    scale: f32,
}

impl<'a> Found<'a> {
    fn of(adapter: &'a Adapter, target: &Target) -> Option<Self> {
        match target.experts {
            None => adapter.modules.get(target.name).map(|lora| {
                let adapter::Lora { a, b, rank, inputs, outputs, scale } = lora;
                Self { a, b, experts: None, rank: *rank, inputs: *inputs, outputs: *outputs, scale: *scale }
            }),
            Some(_) => adapter.experts.get(target.name).map(|lora| {
                let adapter::ExpertsLora { a, b, experts, rank, inputs, outputs, scale } = lora;
                let experts = Some(*experts);
                Self { a, b, experts, rank: *rank, inputs: *inputs, outputs: *outputs, scale: *scale }
            }),
        }
    }
}

/// The names by which the layers of `stacks` are targeted, as a sentence lists them.
fn all_targets(stacks: &[Vec<Target>]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for target in stacks.iter().flatten() {
        let name = match target.experts {
            Some(_) => EXPERTS,
            None => target.name.rsplit('.').next().unwrap_or(target.name),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// The targets of stacks, as an [`AdapterLayout`] takes them.
fn targets_of<'a>(stacks: &'a [StackMut]) -> Vec<Vec<Target<'a>>> {
    let targets =
        |stack: &'a StackMut| stack.as_ref().targets().into_iter().map(|(target, _)| target).collect();
    stacks.iter().map(targets).collect()
}

impl Adapters {
    /// No adapters.
    pub(super) fn none() -> Self {
        Self { values: Vector::Cpu(Vec::new()), tensors: Vec::new() }
    }

    /// New adapters on the targeted layers of `stacks`.
    pub(super) fn new(stacks: Vec<StackMut>, options: &AdapterSettings, device: &Device) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let fill = |target: &Target, slot: &AdapterSlot, values: &mut [f32]| {
            options.initialization.fill(&mut values[slot.a.clone()], target.shape[1], slot.rank, &mut random);
        };
        AdapterLayout::new(&targets_of(&stacks), options)?.attach(stacks, fill, device)
    }

    /// The adapters of a PEFT directory.
    pub(super) fn from_adapter(stacks: Vec<StackMut>, adapter: &Adapter, device: &Device) -> Result<Self> {
        let fill = |target: &Target, slot: &AdapterSlot, values: &mut [f32]| {
            if let Some(found) = Found::of(adapter, target) {
                values[slot.a.clone()].copy_from_slice(found.a);
                values[slot.b.clone()].copy_from_slice(found.b);
            }
        };
        AdapterLayout::of_adapter(&targets_of(&stacks), adapter)?.attach(stacks, fill, device)
    }

    /// The values as a PEFT adapter.
    pub(super) fn to_adapter<'a>(
        &self,
        stacks: impl Iterator<Item = Stack<'a>>,
        config: AdapterConfig,
    ) -> Result<Adapter> {
        let values = self.values.to_vec()?;
        let (mut modules, mut experts) = (BTreeMap::new(), BTreeMap::new());
        for (target, slot) in stacks.flat_map(Stack::targets) {
            let Some(AdapterSlot { rank, scale, a, b }) = slot else { continue };
            let (a, b) = (values[a.clone()].to_vec(), values[b.clone()].to_vec());
            let ([outputs, inputs], rank, scale) = (target.shape, *rank, *scale);
            match target.experts {
                None => {
                    let lora = adapter::Lora { a, b, rank, inputs, outputs, scale };
                    modules.insert(target.name.to_owned(), lora);
                }
                Some(count) => {
                    let lora = adapter::ExpertsLora { a, b, experts: count, rank, inputs, outputs, scale };
                    experts.insert(target.name.to_owned(), lora);
                }
            }
        }
        let (replacements, tokens) = (BTreeMap::new(), BTreeMap::new());
        Ok(Adapter { config, modules, experts, replacements, tokens })
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

/// Whether the names of targets name this one; marks them as met. No name at all means every layer but those of
/// experts, as LLaMA-Factory's `all` does.
fn is_targeted(names: &[String], met: &mut [bool], target: &Target) -> bool {
    if names.is_empty() {
        return target.experts.is_none();
    }
    let mut any = false;
    for (name, met) in names.iter().zip(met) {
        let is_all = match target.experts {
            Some(_) => name == EXPERTS,
            None => name == ALL,
        };
        if is_all || target.name == name || target.name.ends_with(&format!(".{name}")) {
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
