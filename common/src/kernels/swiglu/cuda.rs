//! SwiGLU on a GPU: a thread takes eight columns of a row.

use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("swiglu", include_str!("swiglu.cu"));

const THREADS: usize = 256;

pub(super) fn forward(gate_up: &GpuTensor, f: usize) -> Result<GpuTensor> {
    let h = GpuTensor::new(gate_up.gpu(), &[gate_up.shape()[0], f])?;
    let arguments = [(&h).into(), gate_up.into(), (f as i32).into()];
    gate_up.gpu().launch(&SOURCE, "swiglu_forward", grid(gate_up, f)?, &arguments)?;
    Ok(h)
}

/// dgate_up and h.
pub(super) fn backward(dh: GpuTensor, gate_up: GpuTensor, f: usize) -> Result<(GpuTensor, GpuTensor)> {
    let (dgate_up, h) = (gate_up.successor()?, dh.successor()?);
    let arguments = [&dgate_up, &h, &dh, &gate_up].map(Argument::from);
    let arguments = [&arguments[..], &[(f as i32).into()]].concat();
    gate_up.gpu().launch(&SOURCE, "swiglu_backward", grid(&gate_up, f)?, &arguments)?;
    Ok((dgate_up, h))
}

fn grid(gate_up: &GpuTensor, f: usize) -> Result<Grid> {
    if !f.is_multiple_of(8) {
        return Err(error!(
            Unsupported,
            "swiglu on a GPU: a feed-forward width in eights expected, found {f}"
        ));
    }
    Ok(Grid { blocks: ((f / 8).div_ceil(THREADS), gate_up.shape()[0], 1), threads: THREADS, shared: 0 })
}
