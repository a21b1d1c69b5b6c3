//! The length of a run, and its learning rates as transformers' schedulers give them
//! (`transformers/optimization.py`).
//!
//! A new schedule is a variant of [`SchedulerType`], its formula in [`Schedule::rate`], its settings in
//! [`SchedulerParameters`] where it has any, and a case of `scripts/golden/schedules.py`.

use std::f64::consts::PI;

use clap::ValueEnum;
use common::{Error, Result};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// The most steps a run may have: a year of 30 steps per second.
const MOST_STEPS: u64 = 1_000_000_000;

/// Returns `total`, the number of steps of a run; more than 10⁹ are refused.
pub fn check_steps(total: u64) -> Result<u64> {
    match total > MOST_STEPS {
        true => Err(Error::usage(format!("a run of at most {MOST_STEPS} steps expected, found {total}"))
            .hint("lower --max-steps or --num-train-epochs, or make the batches larger")),
        false => Ok(total),
    }
}

/// The length of a run, as asked for. It serializes as the options `num_train_epochs` and `max_steps`, of
/// which one is null.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// A number of passes over the data, which need not be whole.
    Epochs(f64),
    /// A number of optimizer steps.
    Steps(u64),
}

impl Length {
    /// The keys of the serialized length.
    pub const KEYS: [&str; 2] = ["num_train_epochs", "max_steps"];

    /// The number of optimizer steps, rounded up as transformers does
    /// (`Trainer.set_initial_training_values`).
    pub fn steps(self, steps_per_epoch: u64) -> Result<u64> {
        check_steps(match self {
            Self::Steps(steps) => steps,
            Self::Epochs(epochs) => (epochs * steps_per_epoch as f64).ceil() as u64,
        })
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (epochs, steps) = match *self {
            Self::Epochs(epochs) => (Some(epochs), None),
            Self::Steps(steps) => (None, Some(steps)),
        };
        let mut length = serializer.serialize_struct("Length", 2)?;
        length.serialize_field(Self::KEYS[0], &epochs)?;
        length.serialize_field(Self::KEYS[1], &steps)?;
        length.end()
    }
}

/// How the learning rate falls after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SchedulerType {
    /// In a straight line to 0.
    Linear,
    /// Along half a cosine to 0.
    Cosine,
    /// Along half a cosine to 0, again and again.
    CosineWithRestarts,
    /// Along a power of what is left.
    Polynomial,
    /// Not at all, and without a warm-up.
    Constant,
    /// Not at all, after a warm-up.
    ConstantWithWarmup,
}

/// transformers' `lr_scheduler_kwargs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerParameters {
    /// The waves of `cosine` [default: 0.5], or the falls of `cosine_with_restarts` [default: 1].
    pub num_cycles: Option<f64>,
    /// The exponent of `polynomial` [default: 1].
    pub power: Option<f64>,
    /// The learning rate at which `polynomial` ends [default: 1e-7].
    pub lr_end: Option<f64>,
}

impl SchedulerParameters {
    /// Reads JSON. Names that the scheduler does not have are refused, and so are values that it cannot have
    /// under the highest rate `peak`.
    pub fn parse(text: Option<&str>, kind: SchedulerType, peak: f64) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let option = "--lr-scheduler-kwargs";
        let problem = |problem: String| Error::usage(format!("{option}: {problem}"));
        let parameters: Self = serde_json::from_str(text).map_err(|error| problem(error.to_string()))?;
        let cosine = matches!(kind, SchedulerType::Cosine | SchedulerType::CosineWithRestarts);
        let polynomial = kind == SchedulerType::Polynomial;
        for (name, value, fits) in [
            ("num_cycles", parameters.num_cycles, cosine),
            ("power", parameters.power, polynomial),
            ("lr_end", parameters.lr_end, polynomial),
        ] {
            match value {
                Some(_) if !fits => return Err(problem(format!("the chosen scheduler has no {name}"))),
                Some(found) if found < 0.0 || !(found as f32).is_finite() => {
                    let most = f32::MAX;
                    return Err(problem(format!(
                        "{name}: a number from 0 to {most:e} expected, found {found:e}"
                    )));
                }
                _ => {}
            }
        }
        match parameters.lr_end {
            Some(end) if end >= peak => {
                Err(problem(format!("lr_end: less than the learning rate {peak} expected, found {end}")))
            }
            _ => Ok(parameters),
        }
    }
}

/// The settings of a schedule, which serialize under the names of their options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScheduleSettings {
    /// How the learning rate falls.
    #[serde(rename = "lr_scheduler_type")]
    pub kind: SchedulerType,
    /// The settings of that kind.
    #[serde(rename = "lr_scheduler_kwargs")]
    pub parameters: SchedulerParameters,
    /// The share of the steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// The number of steps in which the learning rate rises, or below 1 their share; unless 0, it is used in
    /// place of the ratio.
    pub warmup_steps: f64,
}

/// The learning rate of every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// How the learning rate falls.
    pub kind: SchedulerType,
    /// The settings of that kind.
    pub parameters: SchedulerParameters,
    /// The highest learning rate.
    pub peak: f64,
    /// The number of steps in which the learning rate rises from 0.
    pub warmup: u64,
    /// The number of steps of the run.
    pub total: u64,
}

impl Schedule {
    /// The schedule of a run of `total` steps with the highest rate `peak`. The number of warm-up steps is
    /// transformers' (`TrainingArguments.get_warmup_steps`).
    pub fn new(settings: ScheduleSettings, peak: f64, total: u64) -> Self {
        let ScheduleSettings { kind, parameters, warmup_ratio, warmup_steps } = settings;
        let share = |share: f64| (share * total as f64).ceil() as u64;
        let warmup = match warmup_steps {
            0.0 => share(warmup_ratio),
            steps if steps < 1.0 => share(steps),
            steps => steps as u64,
        };
        Self { kind, parameters, peak, warmup, total }
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if self.kind == SchedulerType::Constant {
            return self.peak;
        }
        if step < self.warmup {
            return self.peak * (step as f64 / self.warmup as f64);
        }
        let falling = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / falling;
        let SchedulerParameters { num_cycles, power, lr_end } = self.parameters;
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => self.peak,
            SchedulerType::Linear => self.peak * (self.total.saturating_sub(step) as f64 / falling).max(0.0),
            SchedulerType::Cosine => {
                let turns = num_cycles.unwrap_or(0.5) * 2.0;
                self.peak * (0.5 * (1.0 + (PI * turns * progress).cos())).max(0.0)
            }
            SchedulerType::CosineWithRestarts if progress >= 1.0 => 0.0,
            SchedulerType::CosineWithRestarts => {
                let within = (num_cycles.unwrap_or(1.0) * progress) % 1.0;
                self.peak * (0.5 * (1.0 + (PI * within).cos())).max(0.0)
            }
            SchedulerType::Polynomial => {
                let end = lr_end.unwrap_or(1e-7);
                let left = (1.0 - progress).max(0.0);
                (self.peak - end) * left.powf(power.unwrap_or(1.0)) + end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of transformers' `get_scheduler`, by `scripts/golden/schedules.py`.
    #[test]
    fn rates_are_transformers() {
        #[derive(Deserialize)]
        struct Golden {
            name: String,
            kwargs: serde_json::Value,
            peak: f64,
            warmup: u64,
            total: u64,
            rates: Vec<f64>,
        }
        let text = include_str!("../../tests/golden/schedules.json");
        let golden: Vec<Golden> = serde_json::from_str(text).unwrap();
        let mut kinds = std::collections::BTreeSet::new();
        for Golden { name, kwargs, peak, warmup, total, rates } in golden {
            let kind = SchedulerType::from_str(&name, false).unwrap();
            let parameters = SchedulerParameters::parse(Some(&kwargs.to_string()), kind, peak).unwrap();
            let schedule = Schedule { kind, parameters, peak, warmup, total };
            for (step, expected) in rates.iter().enumerate() {
                let found = schedule.rate(step as u64);
                assert!(
                    (found - expected).abs() <= 1e-12 * peak,
                    "{name} at {step}: {found}, not {expected}"
                );
            }
            kinds.insert(name);
        }
        assert_eq!(kinds.len(), SchedulerType::value_variants().len());
    }

    #[test]
    fn settings_of_another_scheduler_are_refused() {
        let parse =
            |text, kind| SchedulerParameters::parse(Some(text), kind, 1e-4).map_err(|e| e.to_string());
        assert!(parse(r#"{"power": 2}"#, SchedulerType::Polynomial).is_ok());
        let error = parse(r#"{"power": 2}"#, SchedulerType::Cosine).unwrap_err();
        assert!(error.contains("no power"), "{error}");
        assert!(parse(r#"{"gamma": 2}"#, SchedulerType::Cosine).unwrap_err().contains("gamma"));
        let polynomial = |text| parse(text, SchedulerType::Polynomial).unwrap_err();
        assert!(polynomial(r#"{"power": -1}"#).contains("power: a number from 0 to"));
        assert!(polynomial(r#"{"lr_end": 1e-4}"#).contains("lr_end: less than the learning rate"));
    }
}
