//! The best checkpoint so far: the one with the lowest loss on the held-out examples, unless a greater loss is
//! asked for.

use std::path::{Path, PathBuf};

use crate::logs::history::History;

/// The checkpoint with the best loss on the held-out examples.
#[derive(Debug, Clone, PartialEq)]
pub struct BestCheckpoint {
    /// The number of steps it was saved after.
    pub step: u64,
    /// The loss on the held-out examples after that step.
    pub eval_loss: f64,
    /// The directory of the checkpoint.
    pub path: PathBuf,
}

/// The best of the checkpoints in `output` and of the one that is `being_saved`, or the first of several
/// equal ones; `None` before a checkpoint has been evaluated. `greater` says whether a greater loss is the
/// better one.
pub fn best(
    output: &Path,
    history: &History,
    greater: bool,
    being_saved: Option<u64>,
) -> Option<BestCheckpoint> {
    let mut best: Option<BestCheckpoint> = None;
    for (step, eval_loss) in history.evaluations() {
        let path = output.join(format!("checkpoint-{step}"));
        let better = best.as_ref().is_none_or(|best| is_better(eval_loss, best.eval_loss, greater));
        if better && (being_saved == Some(step) || path.exists()) {
            best = Some(BestCheckpoint { step, eval_loss, path });
        }
    }
    best
}

/// The number of evaluations since the best one.
pub fn evaluations_since_best(history: &History, greater: bool) -> usize {
    let mut best: Option<f64> = None;
    let mut since = 0;
    for (_, eval_loss) in history.evaluations() {
        if best.is_none_or(|best| is_better(eval_loss, best, greater)) {
            (best, since) = (Some(eval_loss), 0);
        } else {
            since += 1;
        }
    }
    since
}

fn is_better(a: f64, b: f64, greater: bool) -> bool {
    if greater { a > b } else { a < b }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_saved_can_be_the_best() {
        let output = tempfile::tempdir().unwrap();
        for step in [4, 6] {
            fs_err::create_dir(output.path().join(format!("checkpoint-{step}"))).unwrap();
        }
        let losses = [(2, 0.5), (4, 0.9), (6, 0.7), (8, 0.6), (10, 0.8)];
        let entries = losses.iter().map(|(step, loss)| json!({"step": step, "eval_loss": loss}));
        let log_history = std::iter::once(json!({"step": 1, "loss": 0.1})).chain(entries).collect();
        let history = History { log_history, ..History::default() };
        let step = |greater, being_saved| best(output.path(), &history, greater, being_saved).map(|b| b.step);
        assert_eq!(step(false, None), Some(6));
        assert_eq!(step(false, Some(8)), Some(8));
        assert_eq!(step(true, None), Some(4));
        assert_eq!(best(output.path(), &History::default(), false, Some(8)), None);
        assert_eq!(evaluations_since_best(&history, false), 4);
        assert_eq!(evaluations_since_best(&history, true), 3);
    }
}
