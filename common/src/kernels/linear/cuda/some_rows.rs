//! Products of some rows with quantized weights as they are: more rows than are multiplied as vectors, and fewer than are
//! worth dequantizing a weight.

use super::SOURCE;
use super::stack::Packed;
use crate::Result;
use crate::device::cuda::{Argument, Gpu, Grid, View};

/// The most rows of x.
pub(super) const MOST_ROWS: usize = 64;
/// The fewest steps through the columns of a weight that a block takes.
const LEAST_STEPS: usize = 4;
/// The most parts that the columns of a weight are split into.
const MOST_SPLITS: usize = 16;

/// Writes x [T, K]·Wᵀ and the bias to y [T, ΣN], plus `added` [T, ΣN], whose rows lie as far apart as those of y.
///
/// # Safety
/// y is `out`, a matrix [T, ΣN], or `added` too; the parts are weights [N, K] whose columns of y end with ΣN; the bias has
/// ΣN numbers; and K is a multiple of 32.
#[allow(unsafe_code)]
pub(super) unsafe fn multiply(
    gpu: &Gpu,
    ([out, added], y_stride): ([Argument<'_>; 2], usize),
    x: View<'_, u16>,
    weights: &Packed,
    bias: Argument<'_>,
) -> Result<()> {
    let ([t, k], n) = (x.shape(), weights.rows.iter().sum::<usize>());
    let constant = |name| gpu.constant(&SOURCE, name).map(|value| usize::try_from(value).unwrap_or(0).max(1));
    let threads = constant("quantized_product_threads")?;
    let steps = k.div_ceil(constant("quantized_product_columns")?);
    let block_rows = constant("quantized_product_rows")?;
    let blocks = |rows: &usize| rows.div_ceil(block_rows);
    // The rows that the kernel is for, and the blocks of it that a processor has registers for.
    let (kernel, kernel_rows, by_processor) = match t {
        ..=16 => ("quantized_product_16", 16, 4),
        17..=32 => ("quantized_product_32", 32, 4),
        _ => ("quantized_product_64", MOST_ROWS, 2),
    };
    let room = gpu.multiprocessors() * by_processor;
    let steps_of_split = split(weights.rows.iter().map(blocks).sum(), steps, room);
    let splits = steps.div_ceil(steps_of_split);
    let mut partial = gpu.allocate::<f32>(splits * t * n)?;
    let [x_stride, tokens, k, columns, of_split] = Argument::ints([x.stride(), t, k, n, steps_of_split])?;
    let arguments =
        [(&mut partial).into(), x.into(), x_stride, weights.parts.into(), tokens, k, columns, of_split];
    let grid = Grid {
        blocks: (weights.rows.iter().map(blocks).max().unwrap_or(0), weights.rows.len(), splits),
        threads,
        shared: kernel_rows * constant("quantized_product_row_bytes")?,
    };
    // SAFETY: `quantized_product_R(partial [splits, T, ΣN], x [T, K], stride, parts, T, K, ΣN, steps of a split)` for up to R
    // rows, with the blocks of the largest part for each of the parts and splits. The caller promises the rest.
    unsafe { gpu.launch(&SOURCE, kernel, grid, &arguments)? };
    let [y_stride, splits] = Argument::ints([y_stride, splits])?;
    let arguments = [out, y_stride, added, (&partial).into(), bias, tokens, columns, splits];
    // SAFETY: `quantized_product_sum(y [T, ΣN], stride, added [T, ΣN] with y's stride or null, partial [splits, T, ΣN],
    // bias [ΣN] or null, T, ΣN, splits)` with a thread for each number of y.
    unsafe { gpu.launch(&SOURCE, "quantized_product_sum", Grid::cover(t * n, 256), &arguments) }
}

/// Returns how many of the `steps` through a weight's columns a block takes, where the rows are `blocks` blocks and
/// `room` of them run at a time: with which the last blocks to run leave the least of the GPU idle.
fn split(blocks: usize, steps: usize, room: usize) -> usize {
    let most = (steps / LEAST_STEPS).clamp(1, MOST_SPLITS);
    let time = |splits: usize| (blocks * splits).div_ceil(room) * steps.div_ceil(splits);
    let splits = (1..=most).min_by_key(|&splits| time(splits)).unwrap_or(1);
    steps.div_ceil(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_split_where_rows_are_few() {
        assert_eq!(split(28, 28, 396), 4, "seven splits, each of few steps");
        assert_eq!(split(28, 148, 396), 11, "fourteen, in one turn");
        assert_eq!(split(396, 28, 396), 28, "one, in one turn");
        assert_eq!(split(296, 28, 396), 7, "four, in three turns");
        assert_eq!(split(1, 2, 396), 2, "nothing to split");
    }
}
