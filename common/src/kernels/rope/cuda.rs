//! Rotary embedding on a GPU.

use std::ops::Range;
use std::sync::Arc;

use super::Angles;
use crate::device::GpuVector;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("rope", include_str!("rope.cu"));

/// Writes the angles of tokens to the values in `values` of cosines and sines.
pub(super) fn angles(
    gpu: &Arc<Gpu>,
    [cos, sin]: [&mut GpuVector; 2],
    values: Range<usize>,
    positions: &[u32],
    frequencies: &[f32],
    scale: f32,
) -> Result<()> {
    let (places, rates) = (gpu.upload(positions)?, gpu.upload(frequencies)?);
    let shape = [positions.len(), frequencies.len()];
    let [cos, sin] = [cos.view_mut(values.clone())?, sin.view_mut(values)?]
        .map(|values| values.matrix(shape[0], shape[1]));
    let half = Argument::int(frequencies.len())?;
    let arguments = [cos?.into(), sin?.into(), (&places).into(), (&rates).into(), half, scale.into()];
    // SAFETY: `rope_angles(cos [T, half], sin [T, half], positions [T], frequencies [half], half, scale)` with a
    // block for each of the T tokens.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "rope_angles", Grid::new(positions.len(), 64), &arguments)
    }
}

pub(super) fn rotate(x: &GpuTensor, columns: usize, angles: &Angles, direction: f32) -> Result<GpuTensor> {
    let [t, width] = x.view()?.shape();
    if !angles.half.is_multiple_of(2) || !width.is_multiple_of(2) {
        return Err(error!(
            Unsupported,
            "rope on a GPU: heads of a multiple of 4 expected, found {}",
            2 * angles.half
        ));
    }
    let mut y = GpuTensor::new(x.gpu(), x.shape())?;
    let of_all = 0..t * angles.half;
    let matrices = [
        y.view_mut()?.into(),
        x.view()?.into(),
        angles.cos.gpu()?.view(of_all.clone())?.into(),
        angles.sin.gpu()?.view(of_all)?.into(),
    ];
    let sizes = Argument::ints([angles.half, columns, width])?;
    let arguments = [&matrices[..], &sizes, &[direction.into()]].concat();
    // SAFETY: `rope_rotate(y [T, width], x [T, width], cos [T, half], sin [T, half], half, columns, width, direction)`
    // with a block for each of the T rows. `columns` are whole heads of 2·half within `width`, as `rotate` in
    // mod.rs has checked, and a thread moves pairs of columns, which all three are made of.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "rope_rotate", Grid::new(t, 256), &arguments)?
    };
    Ok(y)
}
