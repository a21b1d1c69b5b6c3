//! The reference: `y₁ = x₁·cos − x₂·sin`, `y₂ = x₂·cos + x₁·sin`.

use rayon::prelude::*;

use super::{Angles, Pairs, RotatedHeads};
use crate::Result;
use crate::kernels::simd::vectorized;

pub(super) fn rotate(
    x: &[f32],
    width: usize,
    heads: RotatedHeads,
    angles: &Angles,
    direction: f32,
) -> Result<Vec<f32>> {
    let (half, all_cos, all_sin) = (angles.half, angles.cos.host()?, angles.sin.host()?);
    let mut y = x.to_vec();
    y.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
        let (cos, sin) = (&all_cos[t * half..][..half], &all_sin[t * half..][..half]);
        vectorized(
            #[inline(always)]
            || {
                for head in row[..heads.count * heads.size].chunks_exact_mut(heads.size) {
                    let rotated = &mut head[..2 * half];
                    match heads.pairs {
                        Pairs::Halves => {
                            let (y1, y2) = rotated.split_at_mut(half);
                            for d in 0..half {
                                let (x1, x2, sin) = (y1[d], y2[d], direction * sin[d]);
                                y1[d] = x1 * cos[d] - x2 * sin;
                                y2[d] = x2 * cos[d] + x1 * sin;
                            }
                        }
                        Pairs::Neighbours => {
                            for (pair, (cos, sin)) in
                                rotated.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin))
                            {
                                let ([x1, x2], sin) = (*pair, direction * sin);
                                *pair = [x1 * cos - x2 * sin, x2 * cos + x1 * sin];
                            }
                        }
                    }
                }
            },
        );
    });
    Ok(y)
}
