//! NEFTune (Jain et al. 2023, arXiv:2310.05914), as transformers adds it (`neftune_post_forward_hook`):
//! uniform noise within ±alpha / √(L·C) on the embeddings of a sequence of L tokens.
//!
//! L is each sequence's own length, also where sequences are packed: the noise of a sequence has the
//! size that the paper gives it, whatever it shares a pass with.

use crate::device::cuda::Float16;
use crate::kernels::philox::Draws;

/// The noise of a pass.
#[derive(Debug, Clone)]
pub struct Noise {
    /// The largest noise of each row, [T].
    bounds: Vec<f32>,
    draws: Draws,
}

impl Noise {
    /// Noise for sequences with these bounds (0, …, T) in embeddings of `width` columns.
    pub fn new(alpha: f32, starts: &[usize], width: usize, draws: Draws) -> Self {
        let lengths = starts.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let bounds = lengths.flat_map(|length| {
            let bound = alpha / ((length * width) as f32).sqrt();
            std::iter::repeat_n(bound, length)
        });
        Self { bounds: bounds.collect(), draws }
    }

    /// Adds to a row of f32.
    pub(super) fn add(&self, row: usize, x: &mut [f32]) {
        self.of_row(row, x.len(), |column, noise| x[column] += noise);
    }

    /// Adds to a row of 16-bit numbers, rounding once.
    pub(super) fn add_float16(&self, row: usize, float16: Float16, x: &mut [u16]) {
        self.of_row(row, x.len(), |column, noise| {
            x[column] = float16.bits(float16.value(x[column]) + noise);
        });
    }

    /// Each column with its noise: 24 bits of its number as a fraction, moved to ±1 and scaled.
    fn of_row(&self, row: usize, columns: usize, mut add: impl FnMut(usize, f32)) {
        let bound = self.bounds.get(row).copied().unwrap_or(0.0);
        self.draws.row(row, columns, |column, number| {
            add(column, bound * ((number >> 8) as f32 / (1 << 23) as f32 - 1.0));
        });
    }
}
