//! The plan of a run's memory, made before anything of the model is loaded, shown, and compared with what
//! loading took.

#[cfg(test)]
mod tests;

use common::cli::{Size, note, verbose};
use common::device::Device;
use common::device::cuda::Gpu;
use common::host_memory::{LockableMemory, available_memory};
use common::kernels::adamw::MomentsSpec;
use common::model::{
    AdapterLayout, Model, ModelSpec, PassPlan, PassRequest, Place, Placement, Places, ResidentBytes,
};
use common::nf4::Scheme;
use common::world::World;
use common::{Result, error};

use crate::config::Config;
use crate::data::store::Selection;
use crate::plan::order::Order;

/// Tokens of a pass on the host: enough that dequantizing the weights is a small part of the work.
const HOST_PASS_TOKENS: usize = 1024;
/// The share of available host memory that activations may take.
const ACTIVATION_SHARE: u64 = 4;
/// The most tokens of a pass on a GPU: more do not make its products faster.
const GPU_PASS_TOKENS: usize = 16384;
/// The bytes of GPU memory that are left alone, for the context, kernels, and what the pool cannot use.
const GPU_MARGIN: u64 = 1 << 30;

/// The memory that a run takes, and how its passes are cut to fit beside it.
#[derive(Debug, Clone)]
pub struct MemoryPlan {
    /// Passes that fit beside everything that stays in memory.
    pub passes: PassPlan,
    /// Where the frozen weights of each block lie.
    pub places: Places,
    resident: ResidentBytes,
    spec: ModelSpec,
    request: PassRequest,
    /// The memory of the GPU that the run may take; `None` on the host.
    budget: Option<Budget>,
    /// The bytes of moments in unified memory.
    paged: u64,
    /// The bytes that the GPU copies from page-locked memory in a second, where blocks are streamed.
    copy_rate: Option<f64>,
    /// Whether blocks that have no room are divided among the GPUs of all ranks.
    shard_base: bool,
    /// Whether passes would read the embedding table on a GPU if it were there.
    reads_table: bool,
    is_quantized_by_loading: bool,
}

/// GPU memory that a run may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget {
    /// The bytes that are asked for, or those that are free less a margin; never more than there are.
    bytes: u64,
    /// The bytes that this process could take.
    available: u64,
    /// Whether `bytes` are those of `--vram-budget`, which are available.
    is_asked: bool,
    /// The memory of the host that may be page-locked, for weights and for inputs of blocks.
    on_host: LockableMemory,
}

impl Budget {
    /// The memory that a run may take on every GPU: what the GPU with the least has.
    fn of(gpu: &Gpu, asked: Option<u64>, on_host: LockableMemory, world: &World) -> Result<Self> {
        let memory = gpu.memory()?;
        let available = world.least(memory.used + memory.free)?;
        let bytes = asked.unwrap_or(available.saturating_sub(GPU_MARGIN)).min(available);
        Ok(Self { bytes, available, is_asked: asked.is_some_and(|asked| asked <= available), on_host })
    }
}

/// What is asked of the passes of a run. On a GPU a pass should hold all that a device has of an effective batch.
pub fn pass_request(
    config: &Config,
    training: &Selection,
    order: &Order,
    layout: &AdapterLayout,
    dropout: bool,
    device: &Device,
) -> PassRequest {
    let lengths = training.lengths();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let tokens = match device {
        Device::Cpu => HOST_PASS_TOKENS,
        Device::Cuda(_) => {
            // Half as much again as a batch has on average.
            let all: usize = lengths.into_iter().sum();
            let batch = config.batch.effective().div_ceil(config.batch.ranks);
            let batch = (all / order.len().max(1)).saturating_mul(batch);
            (batch.saturating_mul(3) / 2).min(GPU_PASS_TOKENS).max(longest)
        }
    };
    PassRequest { longest, tokens, ranks: layout.ranks(), dropout }
}

impl MemoryPlan {
    /// The plan of a run; a model that cannot be trained within the budget of a GPU, even with its blocks streamed from
    /// the host, is refused.
    pub fn new(
        config: &Config,
        spec: ModelSpec,
        layout: &AdapterLayout,
        moments: &MomentsSpec,
        request: PassRequest,
        device: &Device,
        world: &World,
    ) -> Result<Self> {
        let is_quantized_by_loading = config.model.quantization.is_some();
        let shard_base = config.device.shard_base;
        let (placed, budget) = match device {
            Device::Cpu => {
                if shard_base {
                    note(
                        "--shard-base changes nothing on the CPU: the base stays in the memory maps of its files, which all \
                         processes of a machine share",
                    );
                }
                let budget = available_memory().unwrap_or(4 << 30) / ACTIVATION_SHARE;
                let passes = spec.config().plan_on_host(&request, budget);
                let places = Places::resident(spec.config().layers.len());
                (Placement { places, resident: spec.resident_on_host(layout, moments), passes }, None)
            }
            Device::Cuda(gpu) => {
                let resident = spec.resident_on_gpu(layout, moments);
                // Weights that are quantized by loading lie in the memory of each rank besides.
                let quantized = match is_quantized_by_loading {
                    true => spec.resident_on_host(layout, moments).weights,
                    false => 0,
                };
                let on_host = world.lockable_memory(quantized)?;
                let budget = Budget::of(gpu, config.device.vram_budget, on_host, world)?;
                let placement = match shard_base {
                    true => spec.place_sharded(resident, &request, (budget.bytes, on_host), world.size()),
                    false => spec.place(resident, &request, budget.bytes, on_host),
                };
                fit(&spec, &placement.places, &placement.resident, &request, budget)?;
                (placement, Some(budget))
            }
        };
        let Placement { places, resident, passes } = placed;
        let copy_rate = match device {
            // Without page-locked memory there is no rate, and blocks are read from their files.
            Device::Cuda(gpu) if places.streamed() > 0 && !shard_base => gpu.copy_rate().ok(),
            _ => None,
        };
        Ok(Self {
            passes,
            places,
            resident,
            spec,
            request,
            budget,
            paged: if moments.is_paged { moments.bytes() } else { 0 },
            copy_rate,
            shard_base,
            reads_table: config.noise.neftune_alpha == 0.0,
            is_quantized_by_loading,
        })
    }

    /// Compares the plan with what the loaded model took: passes get less where that was more than planned,
    /// and memory that is left over keeps weights dequantized.
    pub fn settle(&mut self, model: &mut Model) -> Result<()> {
        let (Device::Cuda(gpu), Some(budget)) = (model.device(), self.budget) else { return Ok(()) };
        gpu.synchronize()?;
        let (planned, took) = (self.resident.loaded(), gpu.memory()?.used);
        verbose(format_args!(
            "weights, adapters, optimizer and scratch: planned {}, took {}",
            size(planned),
            size(took)
        ));
        if took > planned {
            self.resident.scratch += took - planned;
            let passes = fit(&self.spec, &self.places, &self.resident, &self.request, budget)?;
            let of = |passes: &PassPlan| (passes.tokens, passes.tape(passes.most_tokens()));
            let is_other = of(&passes) != of(&self.passes);
            self.passes = passes;
            if is_other {
                note(format_args!("loading took {} more than planned", size(took - planned)));
                note(self.activations());
            }
        }
        let spent = model.cache_dequantized(self.passes.spare(), self.reads_table)?;
        verbose(format_args!("spare memory: {} spent on weights in bf16", size(spent)));
        Ok(())
    }

    /// Shows the plan.
    pub fn show(&self) {
        let ResidentBytes { weights, adapters, moments, scratch, gradients } = self.resident;
        note("***** Memory *****");
        let (weights, adapters) = (size(weights), size(adapters + gradients));
        match (self.budget, self.is_quantized_by_loading) {
            (Some(_), _) => note(format_args!("  Weights = {weights} on the GPU")),
            (None, false) => note(format_args!("  Weights = {weights}, mapped from the model's files")),
            (None, true) => note(format_args!("  Weights = {weights}, in 4 bits when they are loaded")),
        }
        let summary = || self.places.summary(&self.spec.block_bytes());
        match (self.shard_base && self.budget.is_some(), self.places.streamed()) {
            (false, 0) => {}
            (false, _) => {
                note(format_args!("  Streamed = {}", summary()));
                self.copies().into_iter().for_each(note);
            }
            (true, 0) => note("  Sharded = nothing: every GPU has room for all blocks"),
            (true, _) => note(format_args!("  Sharded = {}", summary())),
        }
        self.offloaded().into_iter().for_each(note);
        if let Some(rate) = self.copy_rate {
            let copied = self.places.bytes_copied(&self.spec.block_bytes());
            let seconds = copied as f64 / rate;
            note(format_args!(
                "  Copies = {} in each pass, {seconds:.2} s at the measured {:.1} GB/s, beside the computations: at most {:.0} \
                 tokens/s",
                size(copied),
                rate / 1e9,
                self.passes.most_tokens() as f64 / seconds
            ));
        }
        note(format_args!("  Adapters and their gradients = {adapters}, optimizer = {}", size(moments)));
        match (self.paged, self.budget) {
            (0, _) => {}
            (bytes, None) => {
                note(format_args!("  Nothing is paged on the host: the moments take {}", size(bytes)));
            }
            (bytes, Some(_)) => {
                note(format_args!("  Unified memory for the moments = {}", size(bytes)));
            }
        }
        if let Some(budget) = self.budget {
            note(format_args!("  Scratch for products and weights that are widened = {}", size(scratch)));
            note(self.activations());
            let spare = self.spare();
            if spare > 0 {
                note(format_args!("  Spare = up to {} keep weights in bf16", size(spare)));
            }
            let total = self.resident.total() + self.passes.activations() + spare;
            note(format_args!(
                "  In all = {} of {} ({})",
                size(total),
                size(budget.bytes),
                if budget.is_asked { "--vram-budget" } else { "what is free" }
            ));
        } else {
            note(self.activations());
        }
    }

    /// How often streamed weights lie in the memory of a machine that has several processes.
    fn copies(&self) -> Option<String> {
        let bytes = self.places.bytes_in(Place::PageLocked, &self.spec.block_bytes());
        let copies = self.budget.filter(|_| bytes > 0)?.on_host.copies()?;
        Some(format!("  Host memory = {} of streamed weights, {copies}", size(bytes)))
    }

    fn offloaded(&self) -> Option<String> {
        let (passes, layers) = (&self.passes, self.spec.config().layers.len());
        let offloaded = passes.tape(passes.most_tokens()).offloaded;
        (offloaded > 0).then(|| {
            format!(
                "  Offloaded = inputs of {offloaded} of {layers} blocks, in {} of page-locked host memory between their \
                 forward and their backward",
                size(passes.offloaded_bytes())
            )
        })
    }

    fn activations(&self) -> String {
        let (passes, layers) = (&self.passes, self.spec.config().layers.len());
        let tape = passes.tape(passes.most_tokens());
        let sliced = match tape.slice {
            Some(rows) => format!(", feed-forward and head in slices of {rows} tokens"),
            None => String::new(),
        };
        format!(
            "  Activations = {}: passes of up to {} tokens at {} a token, {} of {layers} blocks recomputed{sliced}",
            size(passes.activations()),
            passes.most_tokens(),
            size(passes.per_token(tape)),
            tape.recomputed,
        )
    }

    /// The most bytes that are left over and can keep dequantized weights.
    fn spare(&self) -> u64 {
        self.passes.spare().min(self.spec.cacheable(self.reads_table))
    }
}

/// The passes that fit into the budget beside what stays in memory, or the error that says what would help.
fn fit(
    spec: &ModelSpec,
    places: &Places,
    resident: &ResidentBytes,
    request: &PassRequest,
    budget: Budget,
) -> Result<PassPlan> {
    let left = budget.bytes.saturating_sub(resident.total());
    let on_host = budget.on_host.beside_weights(places.bytes_in(Place::PageLocked, &spec.block_bytes()));
    let passes = spec.config().plan_on_gpu_and_host(request, left, on_host);
    let needed = resident.total() + passes.least();
    if needed <= budget.bytes {
        return Ok(passes);
    }
    let quantized = spec.quantized(Scheme::default());
    let saved = spec.gpu_bytes_at(places).saturating_sub(quantized.gpu_bytes_at(places));
    let mut hints = Vec::new();
    match needed <= budget.available {
        true => hints.push(format!("--vram-budget {}MiB would do", needed.div_ceil(1 << 20))),
        false => hints.push("other programs may hold GPU memory (nvidia-smi)".into()),
    }
    if saved > 0 {
        hints.push(format!(
            "--quantization-bit 4, or a model out of quantize, would take {} less",
            size(saved)
        ));
    }
    if places.is_sharded() {
        hints.push("more GPUs leave less to each; without --shard-base, blocks lie on the host".into());
    }
    hints.push("a shorter --cutoff-len or a smaller --lora-rank takes less".into());
    let ResidentBytes { weights, adapters, moments, scratch, gradients } = *resident;
    Err(error!(
        "training takes {} of GPU memory or more, and {} are {}: {} of weights, {} of adapters with \
         gradients and optimizer, {} of scratch, and {} of activations for the longest example of {} tokens",
        size(needed),
        size(budget.bytes),
        if budget.is_asked { "allowed" } else { "free" },
        size(weights),
        size(adapters + gradients + moments),
        size(scratch),
        size(passes.least()),
        request.longest
    )
    .hint(hints.join("; ")))
}

/// A size as it is shown.
fn size(bytes: u64) -> String {
    Size(bytes).rounded_up()
}
