//! A run before its model is loaded: everything that is decided by then, and the header that shows it.

use std::sync::Arc;

use common::cli::note;
use common::device::Device;
use common::device::cuda::Gpu;
use common::kernels::adamw::MomentsSpec;
use common::model::ModelSpec;
use common::world::{DirectoryOfFirst, World};
use common::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::config::optimization::BatchSettings;
use crate::data::store::{Examples, Selection, Summary};
use crate::plan::memory::{MemoryPlan, pass_request};
use crate::plan::order::{Order, split};
use crate::plan::packs::packs;
use crate::run::adapters::InitialAdapters;
use crate::run::checkpoint::Progress;
use crate::run::resume;
use crate::schedule::Schedule;

/// Everything that is known about a run before its model is loaded.
pub struct Setup {
    /// The settings of the run.
    pub config: Config,
    /// The device that computes.
    pub device: Device,
    /// The adapters that the run begins with.
    pub adapters: InitialAdapters,
    /// The number of trainable parameters.
    pub parameters: usize,
    /// The form of the optimizer's moments.
    pub moments: MomentsSpec,
    /// The plan of the run's memory.
    pub memory: MemoryPlan,
    /// The examples to train on.
    pub training: Selection,
    /// The held-out examples.
    pub validation: Selection,
    /// The examples of each step.
    pub order: Order,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// The recipe of the run.
    pub recipe: Value,
    /// The checkpoint that the run continues, and its progress; `None` where it begins at step 0.
    pub resumed: Option<(DirectoryOfFirst, Progress)>,
}

impl Setup {
    /// Decides everything, and refuses what cannot be done. Only the headers of the model's files are read.
    pub fn new(
        config: Config,
        recipe: Value,
        examples: Arc<Examples>,
        held_out: Option<Arc<Examples>>,
        world: &World,
    ) -> Result<Self> {
        let spec = ModelSpec::read(&config.model.path, config.model.quantization)?;
        spec.config().note_unused(&config.model.path);
        if config.model.router_loss.is_some() && spec.config().experts().next().is_none() {
            return Err(Error::usage(format!(
                "--moe-aux-loss-coef: {} has no experts",
                config.model.path.display()
            ))
            .hint("leave --moe-aux-loss-coef out"));
        }
        for examples in [Some(&examples), held_out.as_ref()].into_iter().flatten() {
            examples.summary().demands.check(spec.config())?;
        }
        let (training, validation) =
            split(examples.summary().examples, config.data.val_size, config.random.seed)?;
        let training = Selection { examples: examples.clone(), indices: training };
        let validation = match held_out {
            Some(held_out) => Selection::all(held_out),
            None => Selection { examples, indices: validation },
        };
        let seed = config.random.shuffle.then_some(config.random.data_seed);
        let batch = config.batch.effective();
        let order = match config.data.packs() {
            true => Order::of_packs(packs(&training.lengths(), config.data.longest()), batch, seed),
            false => Order::new(training.len(), batch, seed),
        };
        let schedule =
            Schedule::new(config.schedule, config.rates.peak, config.length.steps(order.steps_per_epoch())?);
        let resumed = match world.from_first(|| resume::checkpoint(&config))? {
            Some(path) => {
                let directory = world.directory(&path)?;
                let progress = resume::progress(directory.path(), &recipe, schedule.total)?;
                Some((directory, progress))
            }
            None => None,
        };
        let adapters = InitialAdapters::new(&config, &spec)?;
        let layout = adapters.layout(&spec)?;
        let mut moments = match config.optimizer.name.is_in_8_bits() {
            true => MomentsSpec::in_8_bits(layout.tensors.iter().map(|tensor| tensor.range.clone())),
            false => MomentsSpec::exact(layout.len),
        };
        if config.optimizer.name.is_paged() {
            moments = moments.paged();
        }
        let device = world.device(config.device.choice)?.open_in(config.model.float16)?;
        world.connect(&device)?;
        let dropout = adapters.config.lora_dropout > 0.0;
        let request = pass_request(&config, &training, &order, &layout, dropout, &device);
        let memory = MemoryPlan::new(&config, spec, &layout, &moments, request, &device, world)?;
        let parameters = layout.len;
        Ok(Self {
            config,
            device,
            adapters,
            parameters,
            moments,
            memory,
            training,
            validation,
            order,
            schedule,
            recipe,
            resumed,
        })
    }

    /// The number of steps that were taken before.
    pub fn first_step(&self) -> u64 {
        self.resumed.as_ref().map_or(0, |(_, progress)| progress.step)
    }

    /// Shows the lines that users of LLaMA-Factory look for, and the plan of the memory.
    pub fn header(&self) {
        let BatchSettings { micro_batch, accumulation, ranks } = self.config.batch;
        let neftune_alpha = self.config.noise.neftune_alpha;
        note("***** Running training *****");
        note(format_args!("  Num examples = {}", self.order.len()));
        if self.config.data.packs() {
            let examples = self.training.len();
            note(format_args!("  Each is a pack, of {examples} examples in all that do not see each other"));
        }
        let epochs = self.schedule.total.div_ceil(self.order.steps_per_epoch());
        let Summary { tokens, trained, .. } = self.training.examples.summary();
        note(format_args!("  Num tokens = {tokens}, of which {trained} are trained"));
        note(format_args!("  Num Epochs = {epochs}"));
        note(format_args!("  Instantaneous batch size per device = {micro_batch}"));
        note(format_args!("  Gradient Accumulation steps = {accumulation}"));
        if ranks > 1 {
            note(format_args!("  Number of devices = {ranks}, each with its part of every step"));
        }
        note(format_args!("  Total train batch size = {}", self.config.batch.effective()));
        note(format_args!("  Total optimization steps = {}", self.schedule.total));
        note(format_args!("  Number of trainable parameters = {}", self.parameters));
        let dropout = self.adapters.config.lora_dropout;
        if dropout > 0.0 {
            note(format_args!("  LoRA dropout = {dropout}"));
        }
        if neftune_alpha > 0.0 {
            note(format_args!("  NEFTune noise alpha = {neftune_alpha}"));
        }
        if let Device::Cuda(gpu) = &self.device {
            let (architecture, driver) = (gpu.architecture(), Gpu::driver_version());
            note(format_args!(
                "  GPU = {}, compute capability {}.{}, driver for CUDA {}.{}",
                gpu.name(),
                architecture / 10,
                architecture % 10,
                driver / 1000,
                driver % 1000 / 10
            ));
        }
        self.memory.show();
    }
}
