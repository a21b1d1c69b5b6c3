//! A training run, from its settings to the adapter.

use std::path::PathBuf;

use common::adapter::AdapterConfig;
use common::cli::{self, GrowingDirectory, Unit, note};
use common::device::cuda::Float16;
use common::device::{Device, Vector};
use common::kernels::adamw::Moments;
use common::model::{self, Model, Noise};
use common::world::World;
use common::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::config::every::Every;
use crate::config::model::ModelSettings;
use crate::data::store::Selection;
use crate::data::{Prepared, Texts};
use crate::logs::best;
use crate::logs::history::History;
use crate::logs::loss_watch::LossWatch;
use crate::logs::pace::{Pace, Speed};
use crate::logs::step::StepReport;
use crate::logs::trainer_log::TrainerLog;
use crate::plan::order::Order;
use crate::run::checkpoint::{self, Progress};
use crate::run::gradient_check::GradientCheck;
use crate::run::output;
use crate::run::preview;
use crate::run::scaler::LossScaler;
use crate::run::setup::Setup;
use crate::run::share::Share;
use crate::run::trainer::Trainer;
use crate::schedule::Schedule;

/// Everything a run needs, and where it stands.
pub(super) struct Run<'a> {
    /// The ranks that train together.
    pub(super) world: &'a World,
    pub(super) config: Config,
    pub(super) trainer: Trainer<'a>,
    /// PEFT's configuration of the adapters.
    pub(super) adapter: AdapterConfig,
    training: Selection,
    validation: Selection,
    order: Order,
    schedule: Schedule,
    pub(super) log: TrainerLog,
    loss_watch: LossWatch,
    pub(super) recipe: Value,
    /// What the adapter's files say about its texts.
    pub(super) texts: Texts,
    /// The directory that the run grows in, on rank 0, which alone writes.
    pub(super) directory: Option<GrowingDirectory>,
}

/// Trains and returns the directory of the adapter; `None` for a dry run, and on every rank but 0.
pub fn train(config: Config, world: &World) -> Result<Option<PathBuf>> {
    world.expect_same(|| config.shared())?;
    let destination = if world.is_first() { Some(output::destination(&config)?) } else { None };
    // A model that is not supported is refused before its data is encoded.
    model::Config::read(&config.model.path)?;
    let Prepared { examples, held_out, texts } =
        Prepared::on_all_ranks(world, || config.data.prepare(&config.model.path, config.random.seed))?;
    let held_out_identity = held_out.as_ref().map(|examples| examples.summary().identity.clone());
    let recipe = config.recipe(&examples.summary().identity, held_out_identity.as_deref())?;
    let is_complete = world.from_first(|| match &destination {
        Some(destination) if !config.dry_run => output::is_complete(&config, destination, &recipe),
        _ => Ok(false),
    })?;
    if is_complete {
        return Ok(world.is_first().then_some(config.output));
    }
    let setup = Setup::new(config, recipe, examples, held_out, world)?;
    if setup.config.dry_run {
        setup.header();
        preview::show(&setup);
        return Ok(None);
    }
    let directory = destination.map(|destination| output::open(&setup.config, &destination)).transpose()?;
    setup.header();
    let first_step = setup.first_step();
    let mut run = Run::load(setup, texts, directory, world)?;
    run.begin()?;
    let last_step = run.steps(first_step);
    // An interrupted or failed run is drawn too.
    run.plot();
    run.finish(last_step?)
}

impl<'a> Run<'a> {
    /// Loads the model and puts it where the run begins or continues.
    fn load(
        setup: Setup,
        texts: Texts,
        directory: Option<GrowingDirectory>,
        world: &'a World,
    ) -> Result<Self> {
        let Setup { config, device, adapters, moments, mut memory, order, schedule, resumed, .. } = setup;
        let ModelSettings { path, quantization, .. } = &config.model;
        let mut model =
            Model::load_among(path, *quantization, &device, |_| Ok(memory.places.clone()), world)?;
        if let Some(coefficient) = config.model.router_loss {
            model.set_router_loss(coefficient);
        }
        adapters.attach(&mut model)?;
        let mut moments = Moments::of(&moments, &device)?;
        let in_fp16 = matches!(&device, Device::Cuda(gpu) if gpu.float16() == Float16::Fp16);
        let scaler = in_fp16.then(LossScaler::default);
        let mut progress =
            Progress { step: 0, history: History::default(), scaler, ranks: config.batch.ranks };
        if let Some((directory, saved)) = resumed {
            let path = directory.path();
            checkpoint::load(path, saved.step, &mut model, &mut moments)?;
            note(format_args!("continuing {} after step {}", path.display(), saved.step));
            if saved.ranks != config.batch.ranks {
                note(format_args!(
                    "it was trained by {}, and now by {}: the losses are the same but for rounding",
                    checkpoint::devices(saved.ranks),
                    checkpoint::devices(config.batch.ranks)
                ));
            }
            progress = saved;
        }
        memory.settle(&mut model)?;
        let Progress { step: first, history, scaler, .. } = progress;
        let embedding = model.config().vocabulary * model.config().width;
        let parameters = model.parameter_count().saturating_sub(embedding);
        let log = TrainerLog::new(schedule.total, first, order.steps_per_epoch(), parameters, history);
        let gradients = Vector::zeros(model.adapters().values.len(), model.device())?;
        let noise = Noise {
            seed: config.random.seed,
            step: 0,
            first_token: 0,
            dropout: adapters.config.lora_dropout as f32,
            neftune_alpha: config.noise.neftune_alpha as f32,
        };
        let trainer = Trainer {
            world,
            model,
            moments,
            scaler,
            passes: memory.passes,
            gradients,
            noise,
            optimizer: config.optimizer,
            rates: config.rates,
            gradient_check: GradientCheck::default(),
        };
        Ok(Self {
            world,
            config,
            trainer,
            adapter: adapters.config,
            training: setup.training,
            validation: setup.validation,
            order,
            schedule,
            log,
            loss_watch: LossWatch::default(),
            recipe: setup.recipe,
            texts,
            directory,
        })
    }

    /// Begins the files of the run.
    fn begin(&mut self) -> Result<()> {
        let Some(directory) = &mut self.directory else { return Ok(()) };
        output::begin(directory, &self.config, &self.recipe)?;
        // A run that was killed between its last checkpoint and the removal of an old one has one too many.
        self.rotate(self.best(None))?;
        let Self { config, directory: Some(directory), log, .. } = self else { return Ok(()) };
        directory.write("training_args.yaml", &config.options.text(&config.model.path, &config.output)?)?;
        log.begin(directory, config.logging.tensorboard.as_deref())
    }

    /// Takes the steps after `first`, and returns the number of the last one taken.
    fn steps(&mut self, first: u64) -> Result<u64> {
        let total = self.schedule.total;
        let bar = cli::Progress::new("training", total, Unit::Items("steps"));
        bar.set(first);
        if self.config.evaluation.at_start && first == 0 {
            self.evaluate(0)?;
        }
        let mut pace = Pace::new(self.trainer.model.device());
        for index in first..total {
            let examples = self.training.get(self.order.step(index))?;
            let share = Share::of(examples, self.world, self.trainer.has_noise());
            let learning_rate = self.schedule.rate(index);
            let Some(step) = self.trainer.step(index, &share, learning_rate)? else {
                return Err(self.interrupt(index)?);
            };
            self.log.step(step);
            // From here on the run has something to show, however it ends.
            self.directory.iter_mut().for_each(GrowingDirectory::keep);
            if let Some(jump) = self.loss_watch.check(step.number, step.loss) {
                cli::warn(jump);
            }
            let speed = pace.step(&step);
            bar.add(1);
            bar.message(format!("loss {:.4}, {speed}", step.loss));
            let number = step.number;
            let is_last = number == total;
            let is_first = self.config.logging.first_step && number == 1;
            if self.is_due(self.config.logging.every, number) || is_first || is_last {
                self.report(step, speed)?;
                pace.restart();
            }
            let mut stops_early = false;
            let evaluates = self.is_due(self.config.evaluation.every, number) || is_last;
            if evaluates && !self.validation.is_empty() {
                self.evaluate(number)?;
                pace.restart();
                stops_early = self.has_lost_patience();
            }
            if self.is_due(self.config.saving.every, number) || is_last || stops_early {
                self.save(number)?;
            }
            if stops_early && !is_last {
                note(format_args!("step {number}: the held-out loss has not improved; stopping early"));
                return Ok(number);
            }
            if self.world.stops() && !is_last {
                return Err(self.interrupt(number)?);
            }
        }
        Ok(total)
    }

    /// Whether something that is done so often is done after `step`.
    fn is_due(&self, every: Every, step: u64) -> bool {
        let steps = every.steps(self.schedule.total, self.order.steps_per_epoch());
        steps.is_some_and(|steps| step.is_multiple_of(steps))
    }

    /// Logs a step and shows it.
    fn report(&mut self, step: StepReport, speed: Speed) -> Result<()> {
        let loss = self.log.log(step)?;
        let (number, total) = (step.number, self.schedule.total);
        note(format_args!(
            "step {number}/{total}: loss {loss:.4}, gradient norm {:.4}, learning rate {:.3e}, {speed}, {} left",
            step.grad_norm,
            step.learning_rate,
            self.log.remaining(number)
        ));
        Ok(())
    }

    /// Evaluates the held-out examples after `step` steps, logs their loss and shows it.
    fn evaluate(&mut self, step: u64) -> Result<()> {
        let evaluation = self.trainer.evaluate(&self.validation)?;
        let (loss, examples) = (evaluation.loss, evaluation.examples);
        note(format_args!("step {step}: eval_loss {loss:.4} over {examples} examples"));
        self.log.evaluation(step, &evaluation)
    }

    /// Whether the run stops early, because too many evaluations in a row were not the best.
    fn has_lost_patience(&self) -> bool {
        let since = best::evaluations_since_best(self.log.history(), self.config.best.greater_is_better);
        self.config.best.patience.is_some_and(|patience| since >= patience)
    }

    /// Saves a checkpoint after `step` steps, and returns the error that says how to continue.
    fn interrupt(&mut self, step: u64) -> Result<Error> {
        if step == 0 {
            return Ok(Error::interrupted("interrupted before the end of the first step; nothing is saved")
                .hint("the same command begins again"));
        }
        let saved = match self.save(step)? {
            Some(path) => format!("interrupted; {} is saved", path.display()),
            None => "interrupted".to_owned(),
        };
        Ok(Error::interrupted(saved).hint("the same command with --resume continues it"))
    }
}
