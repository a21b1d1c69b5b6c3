//! Rotary embedding on a GPU.

use std::ops::Range;
use std::sync::Arc;

use super::{Angles, Pairs, RotatedHeads};
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

pub(super) fn rotate(
    x: &GpuTensor,
    heads: RotatedHeads,
    angles: &Angles,
    direction: f32,
) -> Result<GpuTensor> {
    let [t, width] = x.view()?.shape();
    let half = angles.half;
    if !half.is_multiple_of(2) || !heads.size.is_multiple_of(2) || !width.is_multiple_of(2) {
        return Err(error!(
            Unsupported,
            "rope on a GPU: a multiple of 4 rotated elements in even heads expected, found {} of {}",
            2 * half,
            heads.size
        ));
    }
    let name = match heads.pairs {
        Pairs::Halves => "rope_rotate_halves",
        Pairs::Neighbours => "rope_rotate_neighbours",
    };
    let mut y = GpuTensor::new(x.gpu(), x.shape())?;
    let of_all = 0..t * half;
    let matrices = [
        y.view_mut()?.into(),
        x.view()?.into(),
        angles.cos.gpu()?.view(of_all.clone())?.into(),
        angles.sin.gpu()?.view(of_all)?.into(),
    ];
    let sizes = Argument::ints([half, heads.count, heads.size, width])?;
    let arguments = [&matrices[..], &sizes, &[direction.into()]].concat();
    // SAFETY: either kernel takes `(y [T, width], x [T, width], cos [T, half], sin [T, half], half, heads, D, width,
    // direction)` with a block for each of the T rows. The heads lie within `width` and 2·half within D, as
    // `rotate` in mod.rs has checked, and a thread moves pairs of columns, which all of them are made of.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, name, Grid::new(t, 256), &arguments)?
    };
    Ok(y)
}
