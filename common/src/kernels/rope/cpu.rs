//! The reference: `y₁ = x₁·cos − x₂·sin`, `y₂ = x₂·cos + x₁·sin`.

use rayon::prelude::*;

use super::Angles;
use crate::Result;
use crate::kernels::simd::vectorized;

pub(super) fn rotate(
    x: &[f32],
    width: usize,
    columns: usize,
    angles: &Angles,
    direction: f32,
) -> Result<Vec<f32>> {
    let (half, all_cos, all_sin) = (angles.half, angles.cos.host()?, angles.sin.host()?);
    let mut y = x.to_vec();
    y.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
        let (cos, sin) = (&all_cos[t * half..][..half], &all_sin[t * half..][..half]);
        vectorized(|| {
            for head in row[..columns].chunks_exact_mut(2 * half) {
                let (y1, y2) = head.split_at_mut(half);
                for d in 0..half {
                    let (x1, x2, sin) = (y1[d], y2[d], direction * sin[d]);
                    y1[d] = x1 * cos[d] - x2 * sin;
                    y2[d] = x2 * cos[d] + x1 * sin;
                }
            }
        });
    });
    Ok(y)
}
