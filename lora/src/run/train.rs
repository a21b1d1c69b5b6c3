//! A training run, from the configuration to the adapter.

use std::path::PathBuf;
use std::time::Instant;

use common::adapter::{Adapter, AdapterConfig};
use common::checkpoint::check_unchanged;
use common::cli::{self, GrowingDirectory, Unit, interrupted, note};
use common::data::passes::{pack, passes};
use common::device::cuda::Float16;
use common::device::{Device, Vector};
use common::host_memory::peak_resident_memory;
use common::kernels::adamw::{Moments, clip_factor, gradient_norm};
use common::model::{Adapters, Loss, Model, Noise, PassPlan};
use common::text::Example;
use common::{Context, Error, Result, error};
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::every::Every;
use crate::data::store::Selection;
use crate::data::{Prepared, Texts};
use crate::logs::best::{self, Best};
use crate::logs::pace::Pace;
use crate::logs::plot;
use crate::logs::record::{History, Record, Step};
use crate::plan::order::Order;
use crate::run::checkpoint::{self, Progress, State};
use crate::run::health::Health;
use crate::run::output;
use crate::run::preview;
use crate::run::scaler::LossScaler;
use crate::run::setup::Setup;
use crate::schedule::Schedule;

/// Held-out examples that are in memory at a time.
const LOADED: usize = 256;

/// Everything a run needs, and where it stands.
struct Run {
    config: Config,
    model: Model,
    adapter: AdapterConfig,
    passes: PassPlan,
    training: Selection,
    validation: Selection,
    order: Order,
    schedule: Schedule,
    moments: Moments,
    record: Record,
    /// Of gradients in fp16.
    scaler: Option<LossScaler>,
    health: Health,
    recipe: Value,
    /// What the adapter's files say about its texts.
    texts: Texts,
    /// Where the run grows.
    directory: GrowingDirectory,
}

/// Trains and returns the directory of the adapter; nothing where no training was wanted.
pub fn train(config: Config) -> Result<Option<PathBuf>> {
    let destination = output::destination(&config)?;
    let Prepared { examples, held_out, texts } =
        config.data.prepare(&config.model.path, config.random.seed)?;
    let held_out_identity = held_out.as_ref().map(|examples| examples.summary().identity.clone());
    let recipe = config.recipe(&examples.summary().identity, held_out_identity.as_deref())?;
    if !config.dry_run && output::is_complete(&config, &destination, &recipe)? {
        return Ok(Some(config.output));
    }
    let setup = Setup::new(config, recipe, examples, held_out)?;
    if setup.config.dry_run {
        setup.header();
        preview::show(&setup);
        return Ok(None);
    }
    let directory = output::open(&setup.config, &destination)?;
    setup.header();
    let first_step = setup.first_step();
    let mut run = Run::load(setup, texts, directory)?;
    run.begin()?;
    let last_step = run.steps(first_step);
    // Also where the run was interrupted or has failed.
    run.plot();
    run.finish(last_step?).map(Some)
}

impl Run {
    /// Loads the model and puts it where the run begins, or continues.
    fn load(setup: Setup, texts: Texts, directory: GrowingDirectory) -> Result<Self> {
        let Setup { config, device, adapters, moments, mut memory, order, schedule, resumed, .. } = setup;
        let mut model = match config.model.quantization {
            Some(scheme) => Model::load_quantized(&config.model.path, scheme, &device)?,
            None => Model::load(&config.model.path, &device)?,
        };
        adapters.attach(&mut model)?;
        let mut moments = Moments::of(&moments, &device)?;
        let in_fp16 = matches!(&device, Device::Cuda(gpu) if gpu.float16() == Float16::Fp16);
        let scaler = in_fp16.then(LossScaler::default);
        let mut progress = Progress { step: 0, history: History::default(), scaler };
        if let Some((path, saved)) = resumed {
            checkpoint::load(&path, saved.step, &mut model, &mut moments)?;
            note(format_args!("continuing {} after step {}", path.display(), saved.step));
            progress = saved;
        }
        memory.settle(&mut model)?;
        let Progress { step: first, history, scaler } = progress;
        let embedding = model.config().vocabulary * model.config().width;
        let parameters = model.parameter_count().saturating_sub(embedding);
        let per_epoch = order.steps_per_epoch();
        let record = Record::new(schedule.total, first, per_epoch, parameters, history);
        Ok(Self {
            config,
            model,
            adapter: adapters.config,
            passes: memory.passes,
            training: setup.training,
            validation: setup.validation,
            order,
            schedule,
            moments,
            record,
            scaler,
            health: Health::default(),
            recipe: setup.recipe,
            texts,
            directory,
        })
    }

    /// Begins the files of the run.
    fn begin(&mut self) -> Result<()> {
        output::begin(&mut self.directory, &self.config, &self.recipe)?;
        // Where a run was killed between its last checkpoint and the end of an old one.
        self.rotate(self.best(None))?;
        let Self { config, directory, record, .. } = self;
        directory.write("training_args.yaml", &config.options.text(&config.model.path, &config.output)?)?;
        record.begin(directory, config.logging.tensorboard.as_deref())
    }

    /// Takes the steps behind `first` and returns the last one taken.
    fn steps(&mut self, first: u64) -> Result<u64> {
        let total = self.schedule.total;
        let per_epoch = self.order.steps_per_epoch();
        let is_due = |every: Every, step: u64| {
            every.steps(total, per_epoch).is_some_and(|steps| step.is_multiple_of(steps))
        };
        let bar = cli::Progress::new("training", total, Unit::Items("steps"));
        bar.set(first);
        if self.config.evaluation.at_start && first == 0 {
            self.evaluate(0)?;
        }
        let mut gradients = Vector::zeros(self.model.adapters().values.len(), self.model.device())?;
        let mut pace = Pace::new(self.model.device());
        for index in first..total {
            let Some(step) = self.step(index, &mut gradients)? else { return Err(self.interrupt(index)?) };
            self.record.step(step);
            // From here on there is something to be seen of the run, however it ends.
            self.directory.keep();
            if let Some(jump) = self.health.check_loss(step.number, step.loss) {
                cli::warn(jump);
            }
            let speed = pace.step(&step);
            bar.add(1);
            bar.message(format!("loss {:.4}, {speed}", step.loss));
            let number = step.number;
            let is_last = number == total;
            if is_due(self.config.logging.every, number)
                || (self.config.logging.first_step && number == 1)
                || is_last
            {
                let loss = self.record.log(step)?;
                note(format_args!(
                    "step {number}/{total}: loss {loss:.4}, gradient norm {:.4}, learning rate {:.3e}, {speed}, {} left",
                    step.grad_norm,
                    step.learning_rate,
                    self.record.remaining(number)
                ));
                pace.restart();
            }
            let mut stops_early = false;
            if (is_due(self.config.evaluation.every, number) || is_last) && !self.validation.is_empty() {
                self.evaluate(number)?;
                pace.restart();
                stops_early = self.has_lost_patience();
            }
            if is_due(self.config.saving.every, number) || is_last || stops_early {
                self.save(number)?;
            }
            if stops_early && !is_last {
                note(format_args!("step {number}: the held-out loss has not improved; stopping early"));
                return Ok(number);
            }
            if interrupted() && !is_last {
                return Err(self.interrupt(number)?);
            }
        }
        Ok(total)
    }

    /// Saves what `step` steps have come to, and says how to go on.
    fn interrupt(&mut self, step: u64) -> Result<Error> {
        if step == 0 {
            return Ok(Error::interrupted("interrupted before the end of the first step; nothing is saved")
                .hint("the same command begins again"));
        }
        let path = self.save(step)?;
        Ok(Error::interrupted(format!("interrupted; {} is saved", path.display()))
            .hint("the same command with --resume continues it"))
    }

    fn has_lost_patience(&self) -> bool {
        let since = best::evaluations_since_best(self.record.history(), self.config.best.greater_is_better);
        self.config.best.patience.is_some_and(|patience| since >= patience)
    }

    /// One optimizer step: an effective batch in as few passes as the plan allows. Nothing where a
    /// signal came between two passes: then nothing has changed.
    fn step(&mut self, index: u64, gradients: &mut Vector) -> Result<Option<Step>> {
        let number = index + 1;
        let examples = self.training.get(self.order.step(index))?;
        let supervised: usize = examples.iter().map(Example::supervised).sum();
        let hint = match self.scaler {
            Some(_) => "fp16 ends at 65,504, which some models exceed: leave --fp16 out",
            None => "the last checkpoint is untouched; try a smaller --learning-rate with --resume",
        };
        let (mean, norm, loss_scale) = loop {
            let loss_scale = self.scaler.map_or(1.0, LossScaler::scale);
            let scale = loss_scale / supervised.max(1) as f32;
            let Some(loss) = self.loss_and_gradients(index, &examples, scale, gradients)? else {
                return Ok(None);
            };
            let mean = if loss.tokens == 0 { 0.0 } else { loss.mean() };
            if !mean.is_finite() {
                return Err(error!("step {number}: the loss is {mean}").hint(hint));
            }
            let norm = gradient_norm(gradients)? / f64::from(loss_scale);
            match &mut self.scaler {
                Some(scaler) if !norm.is_finite() => {
                    scaler.overflow().with_context(|| format!("step {number}"))?;
                    let (scale, count) = (scaler.scale(), scaler.overflows());
                    note(format_args!(
                        "step {number}: gradients overflow fp16 ({count} so far); again at a loss scale of {scale}"
                    ));
                }
                _ => break (mean, norm, loss_scale),
            }
        };
        if !norm.is_finite() {
            let tensor = self.model.adapters().first_non_finite(gradients)?.map(|tensor| tensor.name.clone());
            let tensor = tensor.unwrap_or_else(|| "the sum of all".into());
            return Err(error!("step {number}: the gradient of {tensor} is not finite").hint(hint));
        }
        let learning_rate = self.schedule.rate(index);
        if self.health.wants_gradients() && supervised > 0 {
            let Adapters { tensors, values } = self.model.adapters();
            let (values, gradients) = (values.to_vec()?, gradients.to_vec()?);
            let moves = learning_rate > 0.0;
            self.health
                .check_gradients(tensors, &values, &gradients, moves)
                .context(format!("step {number}"))?;
        }
        check_unchanged()?;
        let clip = clip_factor(norm, self.config.optimizer.max_grad_norm);
        let optimizer = self.config.optimizer.adamw();
        let rates =
            self.model.adapters().learning_rates(learning_rate as f32, self.config.rates.ratio_of_b as f32);
        self.model.update_parameters(|parameters| {
            optimizer.step_at_rates(parameters, gradients, clip / loss_scale, &mut self.moments, &rates)
        })?;
        if let Some(scaler) = &mut self.scaler {
            scaler.succeed();
        }
        let tokens = examples.iter().map(|example| example.tokens.len()).sum();
        Ok(Some(Step { number, loss: mean, grad_norm: norm, learning_rate, tokens, supervised }))
    }

    /// The loss of a step, and the gradients of `scale` times its sum.
    fn loss_and_gradients(
        &self,
        index: u64,
        examples: &[Example],
        scale: f32,
        gradients: &mut Vector,
    ) -> Result<Option<Loss>> {
        gradients.fill_zero()?;
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        let mut noise = self.noise(index);
        for (count, pass) in passes(examples, self.passes.tokens).enumerate() {
            if count > 0 && interrupted() {
                return Ok(None);
            }
            let batch = pack(pass).with_noise(noise);
            noise.first_token += batch.len() as u32;
            let recomputed = self.passes.recomputed(batch.len());
            let found = self.model.loss_and_gradients(&batch, scale, recomputed, gradients)?;
            loss = Loss { sum: loss.sum + found.sum, tokens: loss.tokens + found.tokens };
        }
        Ok(Some(loss))
    }

    /// What the first pass of step `index` draws at random.
    fn noise(&self, index: u64) -> Noise {
        Noise {
            seed: self.config.random.seed,
            step: index as u32,
            first_token: 0,
            dropout: self.adapter.lora_dropout as f32,
            neftune_alpha: self.config.noise.neftune_alpha as f32,
        }
    }

    /// The mean loss over all supervised tokens of the held-out examples.
    fn evaluate(&mut self, step: u64) -> Result<()> {
        let begun = Instant::now();
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        let mut count = 0;
        let positions: Vec<usize> = (0..self.validation.len()).collect();
        for some in positions.chunks(LOADED) {
            for pass in passes(&self.validation.get(some.iter().copied())?, self.passes.tokens) {
                let found = self.model.loss(&pack(pass))?;
                loss = Loss { sum: loss.sum + found.sum, tokens: loss.tokens + found.tokens };
                count += 1;
            }
        }
        let (mean, seconds) = (loss.mean(), begun.elapsed().as_secs_f64());
        note(format_args!("step {step}: eval_loss {mean:.4} over {} examples", positions.len()));
        self.record.evaluation(step, mean, positions.len(), count, seconds)
    }

    fn save(&mut self, step: u64) -> Result<PathBuf> {
        let best = self.best(Some(step));
        let state = State {
            model: &self.model,
            adapter: &self.adapter,
            moments: &self.moments,
            progress: Progress { step, history: self.record.history().clone(), scaler: self.scaler },
            trainer_state: &self.record.trainer_state(step, &self.config, best.as_ref()),
            recipe: &self.recipe,
        };
        let path = checkpoint::save(&mut self.directory, &self.config.model.path, &self.texts, &state)
            .context("cannot save a checkpoint")?;
        self.rotate(best)?;
        Ok(path)
    }

    /// Removes checkpoints beyond the limit.
    fn rotate(&mut self, best: Option<Best>) -> Result<()> {
        let Some(limit) = self.config.saving.limit else { return Ok(()) };
        let kept = best.filter(|_| self.config.best.load).map(|best| best.step);
        checkpoint::rotate(&mut self.directory, &self.config.output, limit, kept)
            .context("cannot remove an old checkpoint")
    }

    fn plot(&mut self) {
        if self.config.logging.plot
            && let Err(problem) =
                plot::save(&mut self.directory, &self.config.output, &self.record.history().log_history)
        {
            cli::warn(problem);
        }
    }

    fn best(&self, being_saved: Option<u64>) -> Option<Best> {
        let Config { output, best, .. } = &self.config;
        best::best(output, self.record.history(), best.greater_is_better, being_saved)
    }

    /// Writes the adapter and the summaries, and marks the directory as complete after `last` steps.
    fn finish(mut self, last: u64) -> Result<PathBuf> {
        let best = self.best(None);
        if let Some(best) = best.as_ref().filter(|_| self.config.best.load) {
            self.model.set_adapter(&Adapter::load(&best.path)?)?;
        }
        let Self { config, model, mut record, adapter, texts, mut directory, .. } = self;
        let mut summary = record.summary(last, config.batch.effective());
        record.finish(last, &summary)?;
        let stage = directory.stage()?;
        let write = |name: &str, value: Value| checkpoint::write_json(&stage.join(name), &value);
        checkpoint::save_adapter(&stage, &config.model.path, &texts, &model, &adapter)?;
        write("train_results.json", json!(summary))?;
        let loss = summary["train_loss"].clone();
        if let Some(evaluation) = record.last_evaluation() {
            write("eval_results.json", json!(evaluation))?;
            summary.extend(evaluation);
        }
        write("all_results.json", json!(summary))?;
        write("trainer_state.json", record.trainer_state(last, &config, best.as_ref()))?;
        directory.place_files()?;
        directory.finish()?;
        let mut peak =
            peak_resident_memory().map_or(String::new(), |b| format!(", peak memory {} MiB", b >> 20));
        if let Device::Cuda(gpu) = model.device() {
            peak += &format!(", peak GPU memory {} MiB", gpu.memory()?.peak >> 20);
        }
        note(format_args!("train_loss {loss}{peak}"));
        if let Some(Best { eval_loss, path, .. }) = best {
            note(format_args!("the best checkpoint is {} with eval_loss {eval_loss:.4}", path.display()));
        }
        Ok(config.output)
    }
}
