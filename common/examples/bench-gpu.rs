//! Speed and memory of training, scoring and decoding on a GPU, for `make bench-gpu`.
//!
//! ```text
//! bench-gpu MODEL train LENGTHS VRAM_BUDGET_GIB [STEPS [TARGETS]]
//! bench-gpu MODEL score COUNTxTOKENS [VRAM_BUDGET_GIB]
//! bench-gpu MODEL decode TOKENS [VRAM_BUDGET_GIB]
//! bench-gpu MODEL together COUNTS [packed]
//! ```
//!
//! LENGTHS is `16x155` (sequences times tokens of a step), or a JSON list of lengths, of which each
//! step takes the next 16. Tokens are random, and every second half of a sequence is trained. TARGETS are those of
//! `lora-train`, without which all linear layers but experts have adapters. STEPS are measured after as many others, up
//! to three, that are not; of 0 the first is.
//! `together` decodes as many texts at a time as COUNTS say (`1,8,32`), each after a prompt of 500 tokens. Half of the free
//! memory is spent on weights in 16 bits, and nothing where they are to stay `packed`.
//!
//! Where the budget (0 for all that is free) has no room for the weights, blocks are streamed; `24resident` runs the passes
//! that are planned for 24 GiB with all weights on the GPU, to compare with, and `24sharded` divides blocks that have no
//! room among all GPUs, as `lora-train --shard-base` does. Prints one JSON object.
//!
//! Training runs on all GPUs that can be seen, each with a step of LENGTHS; `NPROC_PER_NODE=1` trains on one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use common::device::cuda::Gpu;
use common::device::{Device, DeviceChoice, Vector};
use common::host_memory::LockableMemory;
use common::kernels::adamw::{AdamW, Moments, MomentsSpec, clip_factor, gradient_norm};
use common::model::{
    AdapterSettings, Batch, Cache, InferenceRequest, KeyValueCache, Model, ModelSpec, PassRequest, Place,
    Placement, Places, Sequence,
};
use common::world::{self, World};
use common::{Error, Result, cli, error};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Examples of an effective batch: the yardstick's 1 × 16.
const BATCH: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let choice = if arguments.contains(&"train") { DeviceChoice::Auto } else { DeviceChoice::Cuda(0) };
    let outcome = world::run(choice, |world| {
        let result = run(&arguments, choice, world)?;
        if world.is_first() { cli::answer(result) } else { Ok(()) }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::warn(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn no_gpu() -> Error {
    error!("a GPU expected, found none").hint("nvidia-smi lists the GPUs of a machine")
}

fn run(arguments: &[&str], choice: DeviceChoice, world: &World) -> Result<Value> {
    let [model, what, rest @ ..] = arguments else {
        return Err(Error::usage("expected MODEL, then train, score, decode or together"));
    };
    let device = world.device(choice)?.open()?;
    let Device::Cuda(gpu) = &device else { return Err(no_gpu()) };
    world.connect(&device)?;
    let outline = ModelSpec::read(Path::new(model), None)?;
    let bench = Bench { model: model.into(), outline, device: &device, gpu, world };
    let mut result = match (*what, rest) {
        ("train", [lengths, budget, rest @ ..]) => {
            let steps = rest.first().map_or(10, |steps| steps.parse().unwrap_or(10));
            let targets =
                rest.get(1).map_or(Vec::new(), |names| names.split(',').map(str::to_owned).collect());
            let settings = AdapterSettings { targets, ..AdapterSettings::default() };
            let (budget, base) = match (budget.strip_suffix("resident"), budget.strip_suffix("sharded")) {
                (Some(budget), _) => (budget, Base::Resident),
                (_, Some(budget)) => (budget, Base::Sharded),
                (None, None) => (*budget, Base::Streamed),
            };
            bench.train(&settings, lengths, (bench.budget(budget)?, base), steps)?
        }
        ("score", [shape, rest @ ..]) => bench.score(shape, bench.budget(rest.first().unwrap_or(&"0"))?)?,
        ("decode", [tokens, rest @ ..]) => {
            let budget = bench.budget(rest.first().unwrap_or(&"0"))?;
            bench.decode(tokens.parse().unwrap_or(64), budget)?
        }
        ("together", [counts, rest @ ..]) => bench.together(counts, rest.contains(&"packed"))?,
        _ => {
            return Err(Error::usage(
                "expected train LENGTHS BUDGET [STEPS [TARGETS]], score COUNTxTOKENS [BUDGET], decode TOKENS [BUDGET] or together COUNTS [packed]",
            ));
        }
    };
    result["gpu"] = json!(gpu.name());
    result["gpus"] = json!(world.size());
    let memory = gpu.memory()?;
    result["peak_mib"] = json!(memory.peak >> 20);
    result["reserved_peak_mib"] = json!(memory.reserved_peak >> 20);
    Ok(result)
}

/// The lengths of each step's sequences, as often as asked for.
fn steps_of(lengths: &str, steps: usize) -> Result<Vec<Vec<usize>>> {
    if let Some((count, tokens)) = lengths.split_once('x') {
        let parse =
            |text: &str| text.parse::<usize>().map_err(|error| Error::usage(format!("{lengths}: {error}")));
        return Ok(vec![vec![parse(tokens)?; parse(count)?]; steps]);
    }
    let all: Vec<usize> = serde_json::from_str(&fs_err::read_to_string(lengths)?)?;
    let mut endless = all.iter().copied().cycle();
    Ok((0..steps).map(|_| endless.by_ref().take(BATCH).collect()).collect())
}

fn sequences(random: &mut ChaCha8Rng, vocabulary: usize, lengths: &[usize]) -> Vec<(Vec<u32>, Vec<bool>)> {
    let mut sequence = |len: usize| {
        let tokens = (0..len).map(|_| random.random_range(0..vocabulary as u32)).collect();
        (tokens, (0..len).map(|t| t >= len / 2).collect())
    };
    lengths.iter().map(|&len| sequence(len)).collect()
}

/// Where blocks lie that have no room on the GPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// On the host, from which they are streamed.
    Streamed,
    /// On the GPU all the same.
    Resident,
    /// In parts on all GPUs.
    Sharded,
}

/// A model and where it runs.
struct Bench<'a> {
    model: PathBuf,
    outline: ModelSpec,
    device: &'a Device,
    gpu: &'a Gpu,
    world: &'a World,
}

impl Bench<'_> {
    /// The bytes of a budget in GiB, which is 0 for all that is free less a margin.
    fn budget(&self, gib: &str) -> Result<u64> {
        let gib: f64 = gib.parse().map_err(|error| Error::usage(format!("{gib}: {error}")))?;
        let memory = self.gpu.memory()?;
        Ok(match gib > 0.0 {
            true => (gib * f64::from(1 << 30)) as u64,
            false => memory.used + memory.free - (1 << 30),
        })
    }

    /// The memory of the host that ranks may page-lock.
    fn on_host(&self) -> Result<LockableMemory> {
        self.world.lockable_memory(0)
    }

    /// The model with its weights in these places, and what is said of that.
    fn load(&self, places: &Places) -> Result<(Model, Value)> {
        let copy_rate = match places.streamed() {
            0 => 0.0,
            _ if places.is_sharded() => 0.0,
            _ => self.gpu.copy_rate()? / 1e9,
        };
        let begun = Instant::now();
        let place = |_: &_| Ok(places.clone());
        let model = Model::load_among(&self.model, None, self.device, place, self.world)?;
        self.gpu.synchronize()?;
        let load_seconds = begun.elapsed().as_secs_f64();
        let said = json!({"load_seconds": load_seconds, "streamed": places.streamed(),
            "sharded": places.count(Place::Sharded),
            "blocks": places.of_blocks().len(), "slots": places.slots(), "copy_gb_per_second": copy_rate,
            "copies": self.on_host()?.copies(),
            "page_locked_mib": places.bytes_in(Place::PageLocked, &self.outline.block_bytes()) >> 20});
        Ok((model, said))
    }

    /// Trains within a budget.
    fn train(
        &self,
        settings: &AdapterSettings,
        lengths: &str,
        (budget, base): (u64, Base),
        steps: usize,
    ) -> Result<Value> {
        let (warm_up, steps) = (steps.min(3), steps.max(1));
        let (gpu, device, world) = (self.gpu, self.device, self.world);
        let layout = self.outline.new_adapters(settings)?;
        let of_moments = MomentsSpec::exact(layout.len);
        let lengths = steps_of(lengths, steps + warm_up)?;
        let wanted = PassRequest {
            longest: lengths.iter().flatten().copied().max().unwrap_or(1),
            tokens: lengths.iter().map(|step| step.iter().sum()).max().unwrap_or(1),
            ranks: layout.ranks(),
            dropout: false,
        };
        let held = self.outline.resident_on_gpu(&layout, &of_moments);
        // All ranks keep the same blocks whole.
        let budget = world.least(budget)?;
        let Placement { mut places, resident: held, passes: plan } = match base {
            Base::Sharded => {
                self.outline.place_sharded(held, &wanted, (budget, self.on_host()?), world.size())
            }
            _ => self.outline.place(held, &wanted, budget, self.on_host()?),
        };
        if base == Base::Resident {
            places = Places::resident(places.of_blocks().len());
        }
        let (mut model, said) = self.load(&places)?;
        model.add_adapters(settings)?;
        let mut moments = Moments::of(&of_moments, device)?;
        let mut gradients = Vector::zeros(layout.len, device)?;
        gpu.synchronize()?;
        let memory = gpu.memory()?;
        let spent = if base == Base::Resident { 0 } else { model.cache_dequantized(plan.spare(), true)? };
        let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let mut random = ChaCha8Rng::seed_from_u64(1 + world.rank() as u64);
        let (mut seconds, mut tokens, mut losses) = (Vec::new(), 0, Vec::new());
        for (step, lengths) in lengths.iter().enumerate() {
            let examples = sequences(&mut random, model.config().vocabulary, lengths);
            let supervised: usize =
                examples.iter().map(|(_, trained)| trained.iter().skip(1).filter(|t| **t).count()).sum();
            // Every rank has as many.
            let supervised = world.size() * supervised;
            let begun = Instant::now();
            gradients.fill_zero()?;
            let (mut loss, mut first) = (0.0, 0);
            while first < examples.len() {
                let mut last = first + 1;
                while last < examples.len()
                    && examples[first..=last].iter().map(|e| e.0.len()).sum::<usize>() <= plan.tokens
                {
                    last += 1;
                }
                let pass = examples[first..last].iter().map(|(tokens, trained)| Sequence { tokens, trained });
                let batch = Batch::pack(pass, 0);
                let scale = 1.0 / supervised as f32;
                let tape = plan.tape(batch.len());
                loss += model.loss_and_gradients(&batch, scale, tape, &mut gradients)?.sum;
                first = last;
            }
            let [loss] = world.sums([loss])?;
            world.add_up(&mut gradients)?;
            let clip = clip_factor(gradient_norm(&gradients)?, 1.0);
            model.update_parameters(|parameters| {
                optimizer.step(parameters, &gradients, clip, &mut moments, 1e-4)
            })?;
            gpu.synchronize()?;
            losses.push(loss / supervised as f64);
            if step >= warm_up {
                seconds.push(begun.elapsed().as_secs_f64());
                tokens += world.size() * lengths.iter().sum::<usize>();
            }
        }
        let total: f64 = seconds.iter().sum();
        let tape = plan.tape(plan.most_tokens());
        let result = json!({
            "what": "train", "tokens_per_second": tokens as f64 / total,
            "step_seconds": median(&mut seconds), "pass_tokens": plan.tokens, "spent_mib": spent >> 20, "recomputed": tape.recomputed, "offloaded": tape.offloaded, "offloaded_mib": plan.offloaded_bytes() >> 20,
            "slice": tape.slice,
            "planned_held_mib": held.total() >> 20, "held_mib": memory.used >> 20,
            "planned_mib": (held.total() + plan.activations()) >> 20, "first_loss": losses[0], "last_loss": losses.last(),
        });
        Ok(merged(result, said))
    }

    fn score(&self, shape: &str, budget: u64) -> Result<Value> {
        let gpu = self.gpu;
        let lengths = steps_of(shape, 1)?.remove(0);
        let tokens = lengths.iter().sum();
        let request = InferenceRequest { tokens, cached: 0, adapters: 0 };
        let places = self.outline.place_for_inference(&request, budget, self.on_host()?.beside_inputs(0));
        let (mut model, said) = self.load(&places)?;
        if places.streamed() == 0 {
            model.cache_dequantized(gpu.memory()?.free / 2, true)?;
        }
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut seconds = Vec::new();
        for step in 0..8 {
            let examples = sequences(&mut random, model.config().vocabulary, &lengths);
            let batch = Batch::pack(examples.iter().map(|(tokens, _)| Sequence { tokens, trained: &[] }), 0);
            let begun = Instant::now();
            model.logits(&batch, &batch.last_rows(), Cache::None)?;
            gpu.synchronize()?;
            if step > 1 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        let median = median(&mut seconds);
        let result = json!({"what": "score", "tokens_per_second": tokens as f64 / median, "seconds": median});
        Ok(merged(result, said))
    }

    fn together(&self, counts: &str, is_packed: bool) -> Result<Value> {
        const PROMPT: usize = 500;
        const STEPS: usize = 40;
        const WARM_UP: usize = 8;
        let (mut model, said) = self.load(&Places::resident(self.outline.config().layers.len()))?;
        let left = self.gpu.memory()?.free.saturating_sub(3 << 29);
        let spent = if is_packed { 0 } else { model.cache_dequantized(left / 2, false)? };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (prompt, _) = sequences(&mut random, model.config().vocabulary, &[PROMPT]).remove(0);
        let (mut first, mut seconds) = (KeyValueCache::new(), Vec::new());
        for _ in 0..5 {
            first.truncate(0);
            let begun = Instant::now();
            model.continue_texts(&mut [(&prompt, &mut first)], true)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let mut result = json!({"what": "together", "spent_mib": spent >> 20,
            "prompt_tokens": PROMPT, "prompt_seconds": median(&mut seconds[1..])});
        for count in counts.split(',') {
            let count = count.parse().map_err(|error| Error::usage(format!("{count}: {error}")))?;
            let mut caches = Vec::new();
            for _ in 0..count {
                let mut cache = KeyValueCache::new();
                cache.reserve(PROMPT + WARM_UP + STEPS, model.config(), self.device)?;
                cache.copy_prefix(&first, PROMPT)?;
                caches.push(cache);
            }
            let (mut next, mut passes, mut choices) = (vec![1; count], Vec::new(), Vec::new());
            for step in 0..WARM_UP + STEPS {
                let begun = Instant::now();
                let mut texts: Vec<(&[u32], &mut KeyValueCache)> =
                    next.iter().map(std::slice::from_ref).zip(&mut caches).collect();
                let logits = model.continue_texts(&mut texts, true)?;
                let passed = begun.elapsed().as_secs_f64();
                next = logits.rows().collect::<Vec<_>>().into_par_iter().map(likeliest).collect();
                if step >= WARM_UP {
                    passes.push(passed);
                    choices.push(begun.elapsed().as_secs_f64() - passed);
                }
            }
            let (pass, choice) = (median(&mut passes), median(&mut choices));
            result[format!("{count}")] = json!({"tokens_per_second": count as f64 / (pass + choice),
                "pass_seconds": pass, "choice_seconds": choice});
        }
        Ok(merged(result, said))
    }

    fn decode(&self, tokens: usize, budget: u64) -> Result<Value> {
        let request = InferenceRequest { tokens: 64, cached: 64 + tokens, adapters: 0 };
        let places = self.outline.place_for_inference(&request, budget, self.on_host()?.beside_inputs(0));
        let (model, said) = self.load(&places)?;
        let mut cache = KeyValueCache::new();
        let prompt: Vec<u32> = (0..64).collect();
        model.logits(&Batch::prompt(&prompt, 0), &[63], Cache::Extend(&mut cache))?;
        let (mut next, mut seconds) = (1, Vec::new());
        for step in 0..tokens + 8 {
            let begun = Instant::now();
            let logits =
                model.logits(&Batch::prompt(&[next], cache.len()), &[0], Cache::Extend(&mut cache))?;
            next = likeliest(&logits);
            if step >= 8 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        let median = median(&mut seconds);
        let result = json!({"what": "decode", "tokens_per_second": 1.0 / median, "seconds": median});
        Ok(merged(result, said))
    }
}

/// The likeliest token.
fn likeliest(logits: &[f32]) -> u32 {
    let best = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, best) as u32
}

/// An object with the keys of both.
fn merged(mut result: Value, said: Value) -> Value {
    if let (Some(result), Value::Object(said)) = (result.as_object_mut(), said) {
        result.extend(said);
    }
    result
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
