//! What a checkpoint keeps of the logs, so that a resumed run writes those of a run that never stopped.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The logs of a run so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// The entries of transformers' `log_history`.
    pub log_history: Vec<Value>,
    /// The lines of `trainer_log.jsonl`.
    pub lines: Vec<Value>,
    /// The sum of the losses of all steps.
    #[serde(with = "bits")]
    pub loss_sum: f64,
    /// The number of tokens seen, prompts included.
    pub tokens_seen: u64,
    /// The losses of the steps since the last line was logged.
    #[serde(with = "list_of_bits")]
    pub pending: Vec<f64>,
}

impl History {
    /// The step and the held-out loss of every evaluation, in order.
    pub fn evaluations(&self) -> impl Iterator<Item = (u64, f64)> {
        let entries = self.log_history.iter();
        entries.filter_map(|entry| Some((entry["step"].as_u64()?, entry["eval_loss"].as_f64()?)))
    }
}

/// A number by its bits, so that it is read back exactly as it was.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// A list of numbers by their bits.
mod list_of_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| value.to_bits()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<u64>::deserialize(deserializer)?.into_iter().map(f64::from_bits).collect())
    }
}
