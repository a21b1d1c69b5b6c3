//! `--report`: the error of each weight after quantization.

use std::path::Path;

use common::Result;
use common::checkpoint::{Checkpoint, Tensor};
use common::cli::{self, Progress, Unit};
use common::nf4::Quantized;
use rayon::prelude::*;
use serde::Serialize;

use crate::config::open_weights;

/// Elements that a thread compares at a time.
const BLOCK: usize = 1 << 18;
/// The number of weights with the largest error that are named on stderr.
const WORST: usize = 5;

/// The error of one weight, a line of the report.
#[derive(Debug, Serialize)]
struct Line {
    tensor: String,
    shape: [usize; 2],
    /// The root mean square of the differences.
    rms: f64,
    /// The largest difference.
    max: f64,
    /// The signal-to-noise ratio: 10 · log10(Σ weight² / Σ difference²).
    snr_db: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    signal: f64,
    noise: f64,
    max: f64,
}

/// The errors of all quantized weights as JSON lines. Prints those with the largest error.
pub(crate) fn text(source: &Path, result: &Path) -> Result<String> {
    let source = open_weights(source)?;
    let result = Checkpoint::open(result)?;
    let progress = Progress::new("report", source.names().count() as u64, Unit::Items("tensors"));
    let mut lines = Vec::new();
    for tensor in source.tensors() {
        cli::check_interrupted()?;
        if let Some(quantized) = Quantized::load(&result, &tensor.name)? {
            lines.push(line(&tensor, &quantized)?);
            tensor.bytes.release();
        }
        progress.add(1);
    }
    let mut text = String::new();
    for line in &lines {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    drop(progress);
    lines.sort_by(|left, right| left.snr_db.total_cmp(&right.snr_db));
    for line in lines.iter().take(WORST) {
        cli::note(format_args!("{:.2} dB, largest error {:.4}: {}", line.snr_db, line.max, line.tensor));
    }
    Ok(text)
}

fn line(tensor: &Tensor, quantized: &Quantized) -> Result<Line> {
    let [rows, columns] = quantized.shape();
    let rows_each = (BLOCK / columns.max(1)).max(1);
    let rows = if columns == 0 { 0 } else { rows };
    let blocks: Result<Vec<Sums>> = (0..rows.div_ceil(rows_each))
        .into_par_iter()
        .map(|block| {
            let range = block * rows_each..rows.min((block + 1) * rows_each);
            let mut before = vec![0.0; range.len() * columns];
            let mut after = vec![0.0; range.len() * columns];
            tensor.read_f32(range.start * columns..range.end * columns, &mut before)?;
            quantized.dequantize_rows(range, &mut after);
            Ok(before.iter().zip(&after).fold(Sums::default(), |sums, (before, after)| {
                let difference = f64::from(before - after);
                Sums {
                    signal: sums.signal + f64::from(*before).powi(2),
                    noise: sums.noise + difference.powi(2),
                    max: sums.max.max(difference.abs()),
                }
            }))
        })
        .collect();
    // In order, so that the last digits do not depend on the threads.
    let sums = blocks?.into_iter().fold(Sums::default(), |all, block| Sums {
        signal: all.signal + block.signal,
        noise: all.noise + block.noise,
        max: all.max.max(block.max),
    });
    Ok(Line {
        tensor: tensor.name.clone(),
        shape: quantized.shape(),
        rms: (sums.noise / ((rows * columns).max(1) as f64)).sqrt(),
        max: sums.max,
        // A weight without noise has no finite ratio, which JSON could not hold.
        snr_db: 10.0 * (sums.signal.max(f64::MIN_POSITIVE) / sums.noise.max(f64::MIN_POSITIVE)).log10(),
    })
}
