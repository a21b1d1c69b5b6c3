//! Products of few rows with quantized weights as they are: each row of a weight is multiplied with them as vectors.

use super::SOURCE;
use super::stack::Packed;
use crate::device::cuda::{Argument, Gpu, Grid, View};
use crate::{Result, error};

/// The most rows of x.
pub(super) const MOST_ROWS: usize = 2;
/// Warps of a block.
const WARPS_OF_BLOCK: usize = 4;

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
    let [tokens, k] = x.shape();
    // Rows of the weight that a warp takes, and the kernel that does.
    let (by_warp, kernel) = match tokens {
        1 => (2, "quantized_rows_1"),
        2 => (1, "quantized_rows_2"),
        _ => return Err(error!(Bug, "1 or {MOST_ROWS} rows expected, found {tokens}")),
    };
    let [y_stride, x_stride, k] = Argument::ints([y_stride, x.stride(), k])?;
    let arguments = [out, y_stride, added, x.into(), x_stride, weights.parts.into(), bias, k];
    let largest = weights.rows.iter().copied().max().unwrap_or(0);
    let blocks = (largest.div_ceil(WARPS_OF_BLOCK * by_warp), weights.rows.len(), 1);
    let grid = Grid { blocks, threads: 32 * WARPS_OF_BLOCK, shared: 0 };
    // SAFETY: `quantized_rows_R(y [R, ΣN], stride, added [R, ΣN] with y's stride or null, x [R, K], stride, parts,
    // bias [ΣN] or null, K)` with the blocks of the largest part for each of the parts. A warp has read what it adds to
    // before it writes. The caller promises the rest.
    unsafe { gpu.launch(&SOURCE, kernel, grid, &arguments) }
}
