//! The reference.

use rayon::prelude::*;

use super::Dropout;
use crate::kernels::Write;
use crate::kernels::simd::vectorized;

/// Writes mask·x / (1 − p) to y; both have rows of `columns`.
pub(in crate::kernels) fn apply(y: &mut [f32], x: &[f32], columns: usize, dropout: &Dropout, write: Write) {
    match write {
        Write::Overwrite => for_elements(y, x, columns, dropout, |y, dropped| *y = dropped),
        Write::Add => for_elements(y, x, columns, dropout, |y, dropped| *y += dropped),
    }
}

fn for_elements(
    out: &mut [f32],
    x: &[f32],
    columns: usize,
    dropout: &Dropout,
    put: impl Fn(&mut f32, f32) + Sync,
) {
    let (threshold, scale) = (dropout.threshold(), dropout.scale());
    let rows = out.par_chunks_mut(columns.max(1)).zip(x.par_chunks(columns.max(1)));
    rows.enumerate().for_each(|(row, (out, x))| {
        vectorized(
            #[inline(always)]
            || {
                dropout.draws.row(row, x.len(), |column, number| {
                    let kept = if number < threshold { 0.0 } else { scale };
                    put(&mut out[column], x[column] * kept);
                });
            },
        );
    });
}
