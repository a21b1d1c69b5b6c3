//! Rotary embedding on a GPU.

use std::ops::Range;
use std::sync::Arc;

use super::Angles;
use crate::device::GpuVector;
use crate::device::cuda::{Gpu, GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("rope", include_str!("rope.cu"));

/// Writes the angles of tokens into the values `values` of cosines and sines.
pub(super) fn angles(
    gpu: &Arc<Gpu>,
    [cos, sin]: [&GpuVector; 2],
    values: Range<usize>,
    positions: &[u32],
    frequencies: &[f32],
    scale: f32,
) -> Result<()> {
    let (places, rates) = (gpu.upload(positions)?, gpu.upload(frequencies)?);
    let half = frequencies.len() as i32;
    let (cos, sin) = (cos.address_of(&values)?, sin.address_of(&values)?);
    let arguments = [cos.into(), sin.into(), (&places).into(), (&rates).into(), half.into(), scale.into()];
    gpu.launch(&SOURCE, "rope_angles", Grid::new(positions.len(), 64), &arguments)
}

pub(super) fn turn(x: &GpuTensor, columns: usize, angles: &Angles, direction: f32) -> Result<GpuTensor> {
    let (t, width) = (x.shape()[0], x.shape()[1]);
    if !angles.half.is_multiple_of(2) || !width.is_multiple_of(2) {
        return Err(error!(
            Unsupported,
            "rope on a GPU: heads of a multiple of 4 expected, found {}",
            2 * angles.half
        ));
    }
    let y = GpuTensor::new(x.gpu(), x.shape())?;
    let sizes = [angles.half, columns, width].map(|size| (size as i32).into());
    let inputs = [(&y).into(), x.into(), angles.cos.gpu()?.into(), angles.sin.gpu()?.into()];
    let arguments = [&inputs[..], &sizes, &[direction.into()]].concat();
    x.gpu().launch(&SOURCE, "rope_turn", Grid::new(t, 256), &arguments)?;
    Ok(y)
}
