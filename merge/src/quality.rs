//! What quantization moved, against what was learnt: `‖W − dequantized‖ / ‖ΔW‖`.
//!
//! An adapter that was trained over 4-bit weights has learnt to live with their error. Folded into
//! the original weights it finds that error gone, which is harmless while the error is small beside
//! the update and a change of model where it is not.

use std::path::{Path, PathBuf};

use common::adapter::{AdapterConfig, find_base};
use common::checkpoint::{Tensor, narrow};
use common::kernels::linear::Weight;
use common::nf4::{Quantized, Scheme};
use common::{Result, files};
use serde_json::Value;

use crate::base::{Base, release};
use crate::plan::{Piece, Plan};

/// Rows of each weight that are looked at.
const ROWS: usize = 16;

/// Sums of squares over sampled rows.
#[derive(Debug, Default)]
pub struct Moved {
    error: f64,
    update: f64,
}

impl Moved {
    /// The root of the quotient; `None` where no update is.
    pub fn ratio(&self) -> Option<f64> {
        (self.update > 0.0).then(|| (self.error / self.update).sqrt())
    }

    fn add(&mut self, error: impl Iterator<Item = f32>, update: impl Iterator<Item = f32>) {
        let squares =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        self.error += squares(&mut { error });
        self.update += squares(&mut { update });
    }
}

/// The other of the two models, original and 4-bit, that an adapter has to do with: the original
/// that a 4-bit base was made from, or the 4-bit model that the adapter names where another base is
/// used. `None` where it is not known or gone.
pub fn counterpart(base: &Base, adapter: &Path) -> Option<Base> {
    let directory = match is_quantized(base) {
        true => made_from(&base.directory)?,
        false => find_base(adapter, &AdapterConfig::read(adapter).ok()?).ok()?,
    };
    let other = Base::open(&directory).ok()?;
    (is_quantized(&other) != is_quantized(base)).then_some(other)
}

/// Whether a model's weights are in 4 bits.
pub fn is_quantized(base: &Base) -> bool {
    base.config.get("quantization_config").is_some_and(|value| !value.is_null())
}

/// The model that `quantize` made a directory from.
fn made_from(directory: &Path) -> Option<PathBuf> {
    let made_by: Value = files::read_json(&directory.join("made-by.json"), files::CONFIG).ok()?;
    Some(PathBuf::from(made_by["recipe"]["model"].as_str()?))
}

/// Compares the base with its counterpart on the weights that adapters change.
pub fn of_bases(plan: &Plan<'_>, counterpart: &Base) -> Result<Moved> {
    let mut moved = Moved::default();
    for piece in plan.pieces().filter(|piece| !piece.updates.is_empty()) {
        if !counterpart.contains(&piece.spec.name) {
            continue;
        }
        let (spec, weight) = counterpart.weight(&piece.spec.name)?;
        let other = Piece { spec, weight, updates: Vec::new(), rows: None, requantize: false };
        if other.spec.shape != piece.spec.shape {
            continue;
        }
        for row in sample(piece) {
            let (plain, folded, counterpart) = (plain(piece, row)?, rows(piece, row)?, rows(&other, row)?);
            moved.add(differences(&plain, &counterpart), differences(&folded, &plain));
        }
        release(&piece.weight);
        release(&other.weight);
    }
    Ok(moved)
}

/// Compares the weights of an original base with what they are in NF4, as if the adapter had been
/// trained over that.
pub fn of_quantizing(plan: &Plan<'_>) -> Result<Moved> {
    let mut moved = Moved::default();
    for piece in plan.pieces().filter(|piece| !piece.updates.is_empty()) {
        for row in sample(piece) {
            let plain = plain(piece, row)?;
            if plain.iter().any(|value| !value.is_finite()) {
                // Whoever writes it names it.
                continue;
            }
            let dequantized = through_4_bits(piece, &plain, Scheme::default())?;
            moved.add(differences(&plain, &dequantized), differences(&rows(piece, row)?, &plain));
        }
        release(&piece.weight);
    }
    Ok(moved)
}

/// Compares the folded weights with what they are after they have been quantized again.
pub fn of_requantizing(plan: &Plan<'_>) -> Result<Moved> {
    let mut moved = Moved::default();
    for piece in plan.pieces().filter(|piece| piece.requantize && !piece.updates.is_empty()) {
        let Weight::Quantized(quantized) = &piece.weight else { continue };
        for row in sample(piece) {
            let folded = rows(piece, row)?;
            let again = through_4_bits(piece, &folded, quantized.scheme())?;
            moved.add(differences(&folded, &again), differences(&folded, &plain(piece, row)?));
        }
    }
    Ok(moved)
}

/// A row quantized and dequantized. By itself: its blocks may begin elsewhere than in the whole,
/// which changes single numbers and not their spread.
fn through_4_bits(piece: &Piece<'_>, row: &[f32], scheme: Scheme) -> Result<Vec<f32>> {
    let mut bytes = vec![0; piece.row_size()];
    narrow(piece.spec.dtype, row, &mut bytes)?;
    let (name, shape) = (piece.spec.name.clone(), vec![1, row.len()]);
    let tensor = Tensor { name, dtype: piece.spec.dtype, shape, bytes: bytes.into() };
    Ok(Quantized::quantize(&tensor, scheme)?.dequantize())
}

fn differences<'a>(left: &'a [f32], right: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    left.iter().zip(right).map(|(left, right)| left - right)
}

/// Rows at even distances.
fn sample(piece: &Piece<'_>) -> impl Iterator<Item = usize> {
    let (rows, _) = piece.rows_and_columns();
    (0..rows).step_by(rows.div_ceil(ROWS).max(1))
}

fn rows(piece: &Piece<'_>, row: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; piece.rows_and_columns().1];
    piece.fold(row..row + 1, &mut values)?;
    Ok(values)
}

/// A row before anything is added.
fn plain(piece: &Piece<'_>, row: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; piece.rows_and_columns().1];
    match &piece.weight {
        Weight::Dense(tensor) => {
            tensor.read_f32(row * values.len()..(row + 1) * values.len(), &mut values)?
        }
        Weight::Quantized(quantized) => quantized.dequantize_rows(row..row + 1, &mut values),
    }
    Ok(values)
}
