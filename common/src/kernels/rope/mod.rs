//! Rotary position embedding (Su et al. 2021) of the first R elements of each head, in pairs; the elements
//! after them are copied.

mod cpu;
pub(super) mod cuda;

use crate::device::{Device, Tensor, Vector};
use crate::{Result, error};

/// The heads that are rotated: the first columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotatedHeads {
    /// Number of heads.
    pub count: usize,
    /// D, elements of a head.
    pub size: usize,
    /// Which elements of a head are rotated together.
    pub pairs: Pairs,
}

/// Which of the R rotated elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Element d with element d + R/2, as Llama's checkpoints on the hub have them.
    Halves,
    /// Element 2d with element 2d + 1, as GLM's have them.
    Neighbours,
}

/// Cosines and sines of a batch's angles, [T, R/2] each.
pub struct Angles {
    cos: Vector,
    sin: Vector,
    half: usize,
}

impl Angles {
    /// Angles `positions[t] · frequencies[d]`, in f32 as transformers computes them; `scale`
    /// multiplies cosines and sines (1 but for YaRN).
    pub fn new(positions: &[u32], frequencies: &[f32], scale: f32, device: &Device) -> Result<Self> {
        Self::of_parts(&[(positions, frequencies)], scale, device)
    }

    /// As [`Angles::new`], for tokens of which each part has frequencies of its own, as many as the others.
    pub fn of_parts(parts: &[(&[u32], &[f32])], scale: f32, device: &Device) -> Result<Self> {
        let half = parts.first().map_or(0, |(_, frequencies)| frequencies.len());
        if parts.iter().any(|(_, frequencies)| frequencies.len() != half) {
            return Err(error!(Bug, "rope: parts with {half} frequencies expected"));
        }
        match device {
            Device::Cpu => {
                let angles = parts.iter().flat_map(|(positions, frequencies)| {
                    positions.iter().flat_map(move |&p| frequencies.iter().map(move |f| p as f32 * f))
                });
                let (cos, sin) = angles.map(|angle| (angle.cos() * scale, angle.sin() * scale)).unzip();
                Ok(Self { cos: Vector::Cpu(cos), sin: Vector::Cpu(sin), half })
            }
            Device::Cuda(gpu) => {
                let tokens: usize = parts.iter().map(|(positions, _)| positions.len()).sum();
                let [cos, sin] = [(); 2].map(|()| Vector::zeros(tokens * half, device));
                let (mut cos, mut sin) = (cos?, sin?);
                let mut first = 0;
                for (positions, frequencies) in parts {
                    let rows = first..first + positions.len() * half;
                    let outputs = [cos.gpu_mut()?, sin.gpu_mut()?];
                    cuda::angles(gpu, outputs, rows.clone(), positions, frequencies, scale)?;
                    first = rows.end;
                }
                Ok(Self { cos, sin, half })
            }
        }
    }
}

/// Rotates the first heads of the rows of x [T, ≥ count·D]; the columns after them (the values) are copied.
pub fn forward(x: &Tensor, heads: RotatedHeads, angles: &Angles) -> Result<Tensor> {
    rotate(x, heads, angles, 1.0)
}

/// The backward of a rotation is the opposite rotation.
pub fn backward(dy: &Tensor, heads: RotatedHeads, angles: &Angles) -> Result<Tensor> {
    rotate(dy, heads, angles, -1.0)
}

fn rotate(x: &Tensor, heads: RotatedHeads, angles: &Angles, direction: f32) -> Result<Tensor> {
    let (t, width) = x.matrix("rope: x")?;
    let RotatedHeads { count, size, .. } = heads;
    if angles.half == 0 || count == 0 || 2 * angles.half > size || count * size > width {
        return Err(error!(
            Bug,
            "rope: heads of {} or more elements within {width} expected, found {count} of {size}",
            2 * angles.half
        ));
    }
    if angles.cos.len() != t * angles.half {
        return Err(error!(
            Bug,
            "rope: angles of {t} tokens expected, found {}",
            angles.cos.len() / angles.half
        ));
    }
    match x {
        Tensor::Cpu(_) => {
            Tensor::from_vec(cpu::rotate(&x.host()?, width, heads, angles, direction)?, x.shape())
        }
        Tensor::Cuda(x) => cuda::rotate(x, heads, angles, direction).map(Tensor::Cuda),
    }
}

#[cfg(test)]
mod tests;
