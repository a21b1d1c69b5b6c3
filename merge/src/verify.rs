//! `--verify`: computes a sample of rows in another way, and compares it with the written files.

use std::ops::Range;
use std::path::Path;

use common::checkpoint::{Checkpoint, Tensor, cast_from_f32};
use common::{Result, bail};

use crate::plan::{MergePlan, OutputTensor};

/// The number of rows of each weight that are compared.
const ROWS: usize = 4;

/// Compares rows of every tensor, and returns their number. They are computed in f64, element by element,
/// so that neither the products nor the order of additions are those that wrote the file. A result may
/// differ by one step of its dtype, and by the rounding of f32 in terms that cancel each other.
pub(crate) fn rows(plan: &MergePlan<'_>, directory: &Path) -> Result<usize> {
    let written = Checkpoint::open(directory)?;
    let mut compared = 0;
    for planned in plan.tensors().filter(|planned| !planned.requantize) {
        let tensor = written.tensor(&planned.spec.name)?;
        if tensor.shape != planned.spec.shape || tensor.dtype != planned.spec.dtype {
            bail!(Malformed, "tensor {} was written as {} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
        let (rows, columns) = planned.rows_and_columns();
        if columns == 0 {
            continue;
        }
        for sample in 0..ROWS.min(rows) {
            // Spread over the whole, at a place that differs from tensor to tensor.
            let row = (sample * rows / ROWS.min(rows) + planned.spec.name.len() * 7) % rows;
            match planned.unchanged() {
                Some(copied) => compare_bytes(copied, &tensor, row..row + 1, rows)?,
                None => compare(planned, &tensor, row)?,
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// Compares the bytes of the rows `rows` of `count`. Rows of dtypes smaller than a byte may begin within
/// one, which then counts for the row before.
fn compare_bytes(copied: &Tensor, written: &Tensor, rows: Range<usize>, count: usize) -> Result<()> {
    let at = |row: usize| (written.bytes.len() as u128 * row as u128 / count as u128) as usize;
    let bytes = at(rows.start)..at(rows.end);
    if copied.bytes[bytes.clone()] != written.bytes[bytes] {
        bail!(Malformed, "tensor {} differs from the base in row {}", written.name, rows.start);
    }
    Ok(())
}

fn compare(planned: &OutputTensor<'_>, written: &Tensor, row: usize) -> Result<()> {
    let (_, columns) = planned.rows_and_columns();
    let size = planned.row_size();
    let found = &written.bytes[row * size..(row + 1) * size];
    let mut values = vec![0.0; columns];
    written.read_f32(row * columns..(row + 1) * columns, &mut values)?;
    let sums = sums(planned, row)?;
    let totals: Vec<f32> = sums.iter().map(|sum| sum.total as f32).collect();
    let mut expected = vec![0; size];
    cast_from_f32(planned.spec.dtype, &totals, &mut expected)?;
    let width = size / columns.max(1);
    for (column, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
        let is_near = ordered(found).abs_diff(ordered(expected)) <= 1
            || (f64::from(values[column]) - sums[column].total).abs() <= sums[column].lost;
        if !is_near {
            bail!(
                Malformed,
                "tensor {} has {} at [{row}, {column}], {} was expected",
                written.name,
                values[column],
                sums[column].total
            );
        }
    }
    Ok(())
}

/// A folded element, and the rounding error that a sum of its terms in f32 may have.
struct Sum {
    total: f64,
    lost: f64,
}

/// The folded elements of a row.
fn sums(planned: &OutputTensor<'_>, row: usize) -> Result<Vec<Sum>> {
    let (_, columns) = planned.rows_and_columns();
    let mut plain = vec![0.0; columns];
    let bare = OutputTensor {
        updates: Vec::new(),
        spec: planned.spec.clone(),
        weight: planned.weight.clone(),
        rows: planned.rows,
        requantize: false,
    };
    bare.fold(row..row + 1, &mut plain)?;
    let number = |(column, value): (usize, f32)| {
        let terms = planned.updates.iter().flat_map(|(lora, counts)| {
            let scale = f64::from(lora.scale) * f64::from(*counts);
            (0..lora.rank).map(move |k| {
                let (b, a) = (lora.b[row * lora.rank + k], lora.a[k * columns + column]);
                scale * f64::from(b) * f64::from(a)
            })
        });
        let start = (f64::from(value), f64::from(value).abs(), 2);
        let (total, size, count) =
            terms.fold(start, |(total, size, count), term| (total + term, size + term.abs(), count + 1));
        // Each addition rounds by half a step of f32 at most.
        Sum { total, lost: f64::from(count) * f64::from(f32::EPSILON) * size }
    };
    Ok(plain.into_iter().enumerate().map(number).collect())
}

/// The bits of a float as an integer of the same order, so that neighbouring floats differ by one.
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
