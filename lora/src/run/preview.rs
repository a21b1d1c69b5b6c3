//! What `--dry-run` shows beyond the header: the schedule, and how often logs, evaluations and checkpoints
//! come.

use common::cli::note;

use crate::config::every::Every;
use crate::run::setup::Setup;

/// The steps whose learning rates are shown, as shares of the run.
const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Shows the learning rates of a run, and how often it logs, evaluates and saves.
pub fn show(setup: &Setup) {
    let Setup { config, schedule, .. } = setup;
    let (steps_per_epoch, first) = (setup.order.steps_per_epoch(), setup.first_step());
    let total = schedule.total;
    note("***** Schedule *****");
    note(format_args!("  Steps per epoch = {steps_per_epoch}"));
    note(format_args!("  Warm-up steps = {}", schedule.warmup));
    let rates = SHARES.map(|share| {
        let step = (share * total.saturating_sub(1) as f64).round() as u64;
        format!("{:.3e} at step {}", schedule.rate(step), step + 1)
    });
    note(format_args!("  Learning rate = {}", rates.join(", ")));
    for (what, every) in [
        ("Logs", config.logging.every),
        ("Evaluations", config.evaluation.every),
        ("Checkpoints", config.saving.every),
    ] {
        match (every, every.steps(total, steps_per_epoch)) {
            (Every::Never, _) | (_, None) => note(format_args!("  {what} = at the end")),
            (_, Some(steps)) => note(format_args!("  {what} = every {steps} steps and at the end")),
        }
    }
    if first > 0 {
        note(format_args!("  Continues after step {first}"));
    }
    note(format_args!(
        "  Nothing is trained (--dry-run); the result would be in {}",
        config.output.display()
    ));
}
