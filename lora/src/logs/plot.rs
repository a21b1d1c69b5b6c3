//! `training_loss.png` and `training_eval_loss.png`, which LLaMA-Factory draws from the same logs.

use std::path::Path;

use common::Result;
use common::chart::{Line, LineChart};
use common::cli::GrowingDirectory;
use serde_json::Value;

/// The charts: the name of the file, and the field of the logs that it shows.
const CHARTS: [(&str, &str); 2] = [("training_loss.png", "loss"), ("training_eval_loss.png", "eval_loss")];
const RAW: [u8; 3] = [168, 201, 230];
const SMOOTHED: [u8; 3] = [26, 86, 158];

/// Draws the logs of a run into its directory, whose path is `output`. A field that was never logged has no
/// chart.
pub fn save(directory: &mut GrowingDirectory, output: &Path, log_history: &[Value]) -> Result<()> {
    for (file, field) in CHARTS {
        let point = |entry: &Value| Some((entry["step"].as_f64()?, entry[field].as_f64()?));
        let points: Vec<(f64, f64)> = log_history.iter().filter_map(point).collect();
        if points.is_empty() {
            continue;
        }
        let smoothed = smooth(&points.iter().map(|(_, y)| *y).collect::<Vec<_>>());
        let smoothed = points.iter().zip(smoothed).map(|((x, _), y)| (*x, y)).collect();
        let line = |label: &str, points, colour, width| Line { label: label.into(), points, colour, width };
        let chart = LineChart {
            title: format!("training {field} of {}", output.display()),
            x_label: "step".into(),
            y_label: field.into(),
            lines: vec![line("original", points, RAW, 2), line("smoothed", smoothed, SMOOTHED, 3)],
        };
        directory.fill(file, |path| chart.save(path))?;
    }
    Ok(())
}

/// LLaMA-Factory's running mean (`extras/ploting.py`), which is the smoother the more values there are.
fn smooth(values: &[f64]) -> Vec<f64> {
    let weight = 1.8 * (1.0 / (1.0 + (-0.05 * values.len() as f64).exp()) - 0.5);
    let mut last = values.first().copied().unwrap_or_default();
    values
        .iter()
        .map(|value| {
            last = last * weight + (1.0 - weight) * value;
            last
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `llamafactory.extras.ploting.smooth([4.0, 2.0, 3.0, 1.0])`.
    #[test]
    fn smoothing_is_llama_factorys() {
        let expected = [4.0, 2.179_402_390_324_920_4, 2.926_391_413_664_687, 1.172_799_612_156_424];
        let found = smooth(&[4.0, 2.0, 3.0, 1.0]);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
        }
        assert_eq!(found.len(), 4);
        assert!(smooth(&[]).is_empty());
    }
}
