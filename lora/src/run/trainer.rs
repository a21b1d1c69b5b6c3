//! An optimizer step: the passes over an effective batch, and the update of the adapters.

use common::checkpoint::check_unchanged;
use common::cli::{interrupted, note};
use common::data::passes::{pack, passes};
use common::device::Vector;
use common::error::Kind;
use common::kernels::adamw::{Moments, clip_factor, gradient_norm};
use common::model::{Adapters, Batch, Loss, Model, Noise, PassPlan, Supervised};
use common::world::World;
use common::{Context, Error, Result, error};

use crate::config::optimization::{LearningRates, OptimizerSettings};
use crate::logs::step::StepReport;
use crate::run::gradient_check::GradientCheck;
use crate::run::scaler::LossScaler;
use crate::run::share::Share;

/// The model and everything else that an optimizer step changes.
pub struct Trainer<'a> {
    /// The ranks that train together.
    pub(super) world: &'a World,
    /// The frozen model with the adapters that are trained.
    pub model: Model,
    /// The moments of the optimizer.
    pub moments: Moments,
    /// The loss scale, where gradients are in fp16.
    pub scaler: Option<LossScaler>,
    /// How the examples of a step are cut into passes.
    pub(super) passes: PassPlan,
    /// The gradients of a step, in the layout of the adapters' values.
    pub(super) gradients: Vector,
    /// The noise of the first pass of step 0.
    pub(super) noise: Noise,
    pub(super) optimizer: OptimizerSettings,
    pub(super) rates: LearningRates,
    pub(super) gradient_check: GradientCheck,
}

/// The mean loss over the supervised tokens of a step; 0 where there are none.
fn mean(loss: Loss) -> f64 {
    if loss.tokens == 0 { 0.0 } else { loss.mean() }
}

impl Trainer<'_> {
    /// Takes step `index`, counted from 0, on an effective batch of which this rank has `share`. `None` where a
    /// signal came between two passes of a rank, or where a rank was lost: then nothing has changed.
    pub fn step(&mut self, index: u64, share: &Share, learning_rate: f64) -> Result<Option<StepReport>> {
        let number = index + 1;
        let (loss, norm) = match self.finite_gradients(index, share) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == Kind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.gradient_check.is_needed() && share.supervised > 0 {
            let Adapters { tensors, values } = self.model.adapters();
            let (values, gradients) = (values.to_vec()?, self.gradients.to_vec()?);
            self.gradient_check
                .check(tensors, &values, &gradients, learning_rate > 0.0)
                .context(format!("step {number}"))?;
        }
        check_unchanged()?;
        self.update(norm, learning_rate)?;
        Ok(Some(StepReport {
            number,
            loss: mean(loss),
            grad_norm: norm,
            learning_rate,
            tokens: share.tokens,
            supervised: share.supervised,
        }))
    }

    /// Computes the gradients of a step, again at a lower loss scale for as long as they overflow fp16, and
    /// returns the loss of the step and the norm of its gradient.
    fn finite_gradients(&mut self, index: u64, share: &Share) -> Result<Option<(Loss, f64)>> {
        let number = index + 1;
        loop {
            let Some(loss) = self.accumulate(index, share)? else { return Ok(None) };
            let mean = mean(loss);
            if !mean.is_finite() {
                return Err(error!("step {number}: the loss is {mean}").hint(self.hint_of_infinity()));
            }
            let norm = gradient_norm(&self.gradients)? / f64::from(self.loss_scale());
            match &mut self.scaler {
                Some(scaler) if !norm.is_finite() => {
                    scaler.overflow().with_context(|| format!("step {number}"))?;
                    let (scale, count) = (scaler.scale(), scaler.overflows());
                    note(format_args!(
                        "step {number}: gradients overflow fp16 ({count} so far); again at a loss scale of {scale}"
                    ));
                }
                _ if norm.is_finite() => return Ok(Some((loss, norm))),
                _ => return Err(self.not_finite(number)?),
            }
        }
    }

    /// Runs all passes of a step and adds up their gradients and losses, over the ranks too: the one place where
    /// the sums over an effective batch come together. The gradients are those of the mean loss over its
    /// supervised tokens, times the loss scale. `None` where a signal came between two passes of a rank.
    fn accumulate(&mut self, index: u64, share: &Share) -> Result<Option<Loss>> {
        let scale = self.loss_scale() / share.supervised.max(1) as f32;
        self.gradients.fill_zero()?;
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        let mut noise = Noise { step: index as u32, first_token: share.first_token, ..self.noise };
        let mut stops = false;
        for (count, pass) in passes(&share.examples, self.passes.tokens).enumerate() {
            stops = count > 0 && interrupted();
            if stops {
                break;
            }
            self.any_has_pass(true)?;
            let batch = pack(pass).with_noise(noise);
            noise.first_token += batch.len() as u32;
            let found = self.pass(&batch, scale);
            // Where another rank was lost, its parts of a sharded base are missing in what was computed.
            self.world.check()?;
            loss += found?;
        }
        while self.any_has_pass(false)? {
            self.model.accompany_training()?;
        }
        let own = [loss.sum, loss.tokens as f64, f64::from(u8::from(stops))];
        let [sum, tokens, stopping] = self.world.sums(own)?;
        if stopping > 0.0 {
            return Ok(None);
        }
        self.world.add_up(&mut self.gradients)?;
        Ok(Some(Loss { sum, tokens: tokens as usize }))
    }

    /// Whether there is another pass, of which this rank says whether it has one. Ranks that share the base run all of
    /// their passes together, and others run their own alone.
    pub(super) fn any_has_pass(&self, has_pass: bool) -> Result<bool> {
        if self.model.is_sharded() { self.world.any(has_pass) } else { Ok(has_pass) }
    }

    /// Runs one pass forward and backward: adds the gradients of `scale` times the sum of its loss, and
    /// returns the loss.
    fn pass(&mut self, batch: &Batch, scale: f32) -> Result<Loss> {
        let tape = self.model.forward(batch, self.passes.tape(batch.len()))?;
        self.model.backward(tape, &Supervised { scale }, &mut self.gradients)
    }

    /// Updates the adapters by their gradients, whose norm is `norm`.
    fn update(&mut self, norm: f64, learning_rate: f64) -> Result<()> {
        let scale = clip_factor(norm, self.optimizer.max_grad_norm) / self.loss_scale();
        let ratio_of_b = self.rates.ratio_of_b as f32;
        let rates = self.model.adapters().learning_rates(learning_rate as f32, ratio_of_b);
        let (optimizer, gradients, moments) = (self.optimizer.adamw(), &self.gradients, &mut self.moments);
        self.model.update_parameters(|parameters| {
            optimizer.step_at_rates(parameters, gradients, scale, moments, &rates)
        })?;
        if let Some(scaler) = &mut self.scaler {
            scaler.succeed();
        }
        Ok(())
    }

    /// Whether random values are drawn in training.
    pub(super) fn has_noise(&self) -> bool {
        self.noise.dropout > 0.0 || self.noise.neftune_alpha > 0.0
    }

    fn loss_scale(&self) -> f32 {
        self.scaler.map_or(1.0, LossScaler::scale)
    }

    /// The error of gradients that are not finite, which names the tensor.
    fn not_finite(&self, number: u64) -> Result<Error> {
        let tensor = self.model.adapters().first_non_finite(&self.gradients)?;
        let tensor = tensor.map_or("the sum of all", |tensor| &tensor.name);
        Ok(error!("step {number}: the gradient of {tensor} is not finite").hint(self.hint_of_infinity()))
    }

    /// What to do about numbers that are not finite.
    fn hint_of_infinity(&self) -> &'static str {
        match self.scaler {
            Some(_) => "fp16 ends at 65,504, which some models exceed: leave --fp16 out",
            None => "the last checkpoint is untouched; try a smaller --learning-rate with --resume",
        }
    }
}
