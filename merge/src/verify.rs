//! `--verify`: a sample of rows again, another way, against what was written.

use std::path::Path;

use common::checkpoint::{Checkpoint, Tensor, narrow};
use common::{Result, bail};

use crate::plan::{Piece, Plan};

/// Rows of each weight that are compared.
const ROWS: usize = 4;

/// Compares rows of every tensor; returns how many. In f64 and one number at a time, so that
/// neither the products nor the order of additions are those that wrote the file: a result may
/// differ by one step of its dtype.
pub fn rows(plan: &Plan<'_>, directory: &Path) -> Result<usize> {
    let written = Checkpoint::open(directory)?;
    let mut compared = 0;
    for piece in plan.pieces().filter(|piece| !piece.requantize) {
        let tensor = written.tensor(&piece.spec.name)?;
        if tensor.shape != piece.spec.shape || tensor.dtype != piece.spec.dtype {
            bail!("tensor {} was written as {} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
        let (rows, _) = piece.rows_and_columns();
        for sample in 0..ROWS.min(rows) {
            // Spread over the whole, at a place that differs from tensor to tensor.
            let row = (sample * rows / ROWS.min(rows) + piece.spec.name.len() * 7) % rows;
            compare(piece, &tensor, row)?;
            compared += 1;
        }
    }
    Ok(compared)
}

fn compare(piece: &Piece<'_>, written: &Tensor, row: usize) -> Result<()> {
    let (_, columns) = piece.rows_and_columns();
    let size = piece.row_size();
    let found = &written.bytes[row * size..(row + 1) * size];
    if let Some(tensor) = piece.unchanged() {
        if tensor.bytes[row * size..(row + 1) * size] != *found {
            bail!("tensor {} differs from the base in row {row}", written.name);
        }
        return Ok(());
    }
    let expected = expected(piece, row)?;
    let mut bytes = vec![0; size];
    narrow(piece.spec.dtype, &expected, &mut bytes)?;
    let width = size / columns.max(1);
    for (column, (found, expected)) in found.chunks(width).zip(bytes.chunks(width)).enumerate() {
        if ordered(found).abs_diff(ordered(expected)) > 1 {
            bail!(
                "tensor {} has {found:02x?} at [{row}, {column}], {expected:02x?} was expected",
                written.name
            );
        }
    }
    Ok(())
}

/// A row in f64, rounded to f32.
fn expected(piece: &Piece<'_>, row: usize) -> Result<Vec<f32>> {
    let (_, columns) = piece.rows_and_columns();
    let mut plain = vec![0.0; columns];
    let bare = Piece {
        updates: Vec::new(),
        spec: piece.spec.clone(),
        weight: piece.weight.clone(),
        requantize: false,
    };
    bare.fold(row..row + 1, &mut plain)?;
    let number = |(column, value): (usize, f32)| {
        let update = |(lora, counts): &(&common::adapter::Lora, f32)| {
            let product = (0..lora.rank)
                .map(|k| f64::from(lora.b[row * lora.rank + k]) * f64::from(lora.a[k * columns + column]));
            f64::from(lora.scale) * f64::from(*counts) * product.sum::<f64>()
        };
        (f64::from(value) + piece.updates.iter().map(update).sum::<f64>()) as f32
    };
    Ok(plain.into_iter().enumerate().map(number).collect())
}

/// The bits of a float as an integer with the same order, so that neighbours differ by one.
fn ordered(bytes: &[u8]) -> i64 {
    let bits = bytes.iter().rev().fold(0_i64, |bits, &byte| bits << 8 | i64::from(byte));
    let sign = 1_i64 << (8 * bytes.len() - 1);
    if bits & sign == 0 { bits } else { sign - bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_by_one() {
        let of = |value: f32| ordered(&value.to_le_bytes());
        assert_eq!(of(1.0_f32.next_up()) - of(1.0), 1);
        assert_eq!(of(-1.0) - of((-1.0_f32).next_down()), 1);
        assert_eq!(of(0.0), of(-0.0));
        assert_eq!(of(f32::from_bits(1)) - of(-f32::from_bits(1)), 2);
    }
}
