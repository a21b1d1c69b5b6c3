//! Products of a few rows with quantized weights as they are, which are fewer rows than are worth dequantizing a weight for.

use std::sync::OnceLock;

use cudarc::driver::CudaSlice;

use super::SOURCE;
use crate::device::cuda::{Argument, Gpu, Grid, View};
use crate::{Result, error};

/// The most rows of x.
pub(super) const MOST_ROWS: usize = 64;
/// The columns of which each group is of one block of a weight: K is a multiple of it, and so is the size of a block.
pub(super) const GROUP: usize = 64;
/// The fewest warps of a thread block.
const LEAST_WARPS: usize = 6;
/// The fewest steps through the columns of a weight that a thread block takes.
const LEAST_STEPS: usize = 2;
/// The most parts that the columns of a weight are split into.
const MOST_SPLITS: usize = 16;

/// The kernels, the most rows of x that each takes at a time, and how many times that many.
const KERNELS: [(&str, usize, usize); 4] = [
    ("quantized_product_8", 8, 1),
    ("quantized_product_16", 16, 1),
    ("quantized_product_32", 32, 1),
    ("quantized_product_32", 32, MOST_ROWS / 32),
];

/// Quantized weights of a stack as they are.
pub(super) struct Packed {
    /// The addresses of their parts.
    parts: CudaSlice<u64>,
    /// The rows of each.
    rows: Vec<usize>,
    /// How each of the kernels is launched, once it was needed.
    launches: [OnceLock<Launch>; KERNELS.len()],
}

impl Packed {
    /// Weights of `rows` rows, whose `parts` lie one after the other.
    pub(super) fn new(parts: CudaSlice<u64>, rows: Vec<usize>) -> Self {
        Self { parts, rows, launches: Default::default() }
    }

    /// Writes x [T, K]·Wᵀ and the bias to y [T, ΣN], plus `added` [T, ΣN], whose rows lie as far apart as those of y.
    ///
    /// # Safety
    /// y is `out`, a matrix [T, ΣN], or `added` too; the parts are weights [N, K] whose columns of y end with ΣN; the bias
    /// has ΣN numbers; and K and the size of a block are multiples of [`GROUP`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn multiply(
        &self,
        gpu: &Gpu,
        ([out, added], y_stride): ([Argument<'_>; 2], usize),
        x: View<'_, u16>,
        bias: Argument<'_>,
    ) -> Result<()> {
        let ([t, k], n) = (x.shape(), self.rows.iter().sum::<usize>());
        if t == 0 {
            return Ok(());
        }
        let mut kernels = KERNELS.iter().zip(&self.launches);
        let Some((&(kernel, rows, times), launch)) = kernels.find(|((_, rows, times), _)| t <= rows * times)
        else {
            return Err(error!(Bug, "at most {MOST_ROWS} rows expected, found {t}"));
        };
        let Launch { grid, splits, steps_of_split } = match launch.get() {
            Some(launch) => *launch,
            None => {
                let found = Launch::new(gpu, &self.rows, k, (rows, times))?;
                *launch.get_or_init(|| found)
            }
        };
        let mut partial = if splits > 1 { Some(gpu.allocate::<f32>(splits * t * n)?) } else { None };
        let sums = partial.as_mut().map_or(Argument::null(), Argument::from);
        let [x_stride, y_stride, tokens] = Argument::ints([x.stride(), y_stride, t])?;
        let [columns, k, splits, steps_of_split] = Argument::ints([n, k, splits, steps_of_split])?;
        let (x, parts) = (x.into(), (&self.parts).into());
        let arguments = [
            out,
            y_stride,
            added,
            bias,
            sums,
            columns,
            x,
            x_stride,
            parts,
            tokens,
            k,
            splits,
            steps_of_split,
        ];
        // SAFETY: `quantized_product_R(y [T, ΣN], stride, added [T, ΣN] with y's stride or null, bias [ΣN] or null, partial
        // [splits, T, ΣN] or null, ΣN, x [T, K], stride, parts, T, K, splits, steps of a split) with the blocks of all
        // parts for each split of each R rows. A thread has read what it adds to before it writes. The caller promises the
        // rest.
        unsafe { gpu.launch(&SOURCE, kernel, grid, &arguments)? };
        let Some(partial) = &partial else { return Ok(()) };
        let arguments = [out, y_stride, added, partial.into(), bias, tokens, columns, splits];
        // SAFETY: `quantized_product_sum(y [T, ΣN], stride, added [T, ΣN] with y's stride or null, partial [splits, T, ΣN],
        // bias [ΣN] or null, T, ΣN, splits)` with a thread for each number of y.
        unsafe { gpu.launch(&SOURCE, "quantized_product_sum", Grid::cover(t * n, 256), &arguments) }
    }
}

/// How a kernel is launched for a number of rows of x.
#[derive(Debug, Clone, Copy)]
struct Launch {
    grid: Grid,
    /// The parts that the columns are split into.
    splits: usize,
    steps_of_split: usize,
}

impl Launch {
    /// The launch of the kernel that takes `kernel_rows` rows of x at a time, `token_blocks` times, for weights of `rows`
    /// rows and K columns.
    fn new(gpu: &Gpu, rows: &[usize], k: usize, (kernel_rows, token_blocks): (usize, usize)) -> Result<Self> {
        let constant =
            |name| gpu.constant(&SOURCE, name).map(|value| usize::try_from(value).unwrap_or(0).max(1));
        let most_warps = constant("quantized_product_warps")?;
        let work = Work {
            tokens: token_blocks * kernel_rows,
            token_blocks,
            rows,
            warp_rows: constant("quantized_product_rows")?,
            steps: k.div_ceil(constant("quantized_product_step")?),
        };
        let Division { warps, splits } = work.divide(gpu.multiprocessors(), most_warps);
        let grid = Grid {
            blocks: (work.blocks(warps), splits * token_blocks, 1),
            threads: 32 * warps,
            // As much as for the most warps: a kernel is loaded for one size.
            shared: constant("quantized_product_table_bytes")?
                + kernel_rows * constant("quantized_product_x_row_bytes")?
                + most_warps * constant("quantized_product_warp_bytes")?,
        };
        Ok(Self { grid, splits, steps_of_split: work.steps.div_ceil(splits) })
    }
}

/// What thread blocks divide among them.
struct Work<'a> {
    /// The rows of x.
    tokens: usize,
    /// How often the rows of all weights are gone through, each time for other rows of x.
    token_blocks: usize,
    /// The rows of each weight.
    rows: &'a [usize],
    /// The rows that a warp takes.
    warp_rows: usize,
    /// The steps through the columns.
    steps: usize,
}

/// How work is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Division {
    /// The warps of a thread block.
    warps: usize,
    /// The parts that the columns are split into.
    splits: usize,
}

impl Work<'_> {
    /// The thread blocks of so many warps that all rows are for, of which each weight has its own.
    fn blocks(&self, warps: usize) -> usize {
        self.rows.iter().map(|rows| rows.div_ceil(warps * self.warp_rows)).sum()
    }

    /// Returns the division among the multiprocessors of a GPU that ends first.
    fn divide(&self, multiprocessors: usize, most_warps: usize) -> Division {
        let most_splits = (self.steps / LEAST_STEPS).clamp(1, MOST_SPLITS);
        let all = (LEAST_WARPS..=most_warps).rev().flat_map(|warps| {
            // With fewer splits, a split takes more steps.
            (1..=most_splits)
                .filter(|splits| self.steps.div_ceil(self.steps.div_ceil(*splits)) == *splits)
                .map(move |splits| Division { warps, splits })
        });
        all.min_by_key(|division| self.time(*division, multiprocessors, most_warps))
            .unwrap_or(Division { warps: most_warps, splits: 1 })
    }

    /// The time that a division takes, in steps of a warp that has many beside it. A multiprocessor takes the steps of its
    /// warps by turns, and each time also waits for memory, for about [`WAIT`] steps; it has room for the blocks of
    /// 2 · `most_warps` warps. Sums of several splits are written and read, [`SUMS`] of them in the time of a step.
    fn time(&self, division: Division, multiprocessors: usize, most_warps: usize) -> usize {
        /// Measured on an H100.
        const WAIT: usize = 6;
        /// Measured on an H100.
        const SUMS: usize = 1 << 15;
        let Division { warps, splits } = division;
        let blocks = (self.blocks(warps) * self.token_blocks * splits).div_ceil(multiprocessors);
        let rounds = blocks.div_ceil(2 * most_warps / warps);
        let steps = (blocks * warps + rounds * WAIT) * self.steps.div_ceil(splits);
        let sums = if splits > 1 { splits * self.tokens * self.rows.iter().sum::<usize>() } else { 0 };
        steps + sums / SUMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(tokens: usize, rows: &[usize], k: usize) -> Work<'_> {
        let token_blocks = tokens.div_ceil(32);
        Work { tokens, token_blocks, rows, warp_rows: 16, steps: k.div_ceil(128) }
    }

    #[test]
    fn all_multiprocessors_have_as_much_to_do() {
        for (tokens, rows, k) in [
            (1, &[18944, 18944][..], 3584),
            (32, &[18944, 18944], 3584),
            (64, &[18944, 18944], 3584),
            (1, &[3584], 18944),
            (32, &[3584], 18944),
            (32, &[3584, 512, 512], 3584),
            (32, &[3584], 3584),
            (64, &[3584], 3584),
        ] {
            let work = work(tokens, rows, k);
            let Division { warps, splits } = work.divide(132, 10);
            let busiest = (work.blocks(warps) * work.token_blocks * splits).div_ceil(132) * warps * 16;
            let steps = work.steps.div_ceil(splits);
            let needed = rows.iter().sum::<usize>() * work.token_blocks * work.steps;
            let share = needed as f64 / (132 * busiest * steps) as f64;
            assert!(
                share > 0.8,
                "{share:.2} of {rows:?} by {k}, {tokens} rows: {warps} warps, {splits} splits"
            );
        }
    }

    #[test]
    fn many_rows_are_not_split() {
        assert_eq!(work(32, &[18944, 18944], 3584).divide(132, 10), Division { warps: 9, splits: 1 });
        assert_eq!(work(32, &[3584], 18944).divide(132, 10), Division { warps: 9, splits: 10 });
    }

    #[test]
    fn little_is_not_split() {
        assert_eq!(work(1, &[16], 128).divide(132, 10).splits, 1);
        assert_eq!(work(1, &[16], 64).divide(132, 10).splits, 1);
    }
}
