//! The sigmoid on a GPU: a thread takes a token.

use crate::Result;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::device::{GpuVector, Vector};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("sigmoid", include_str!("sigmoid.cu"));

const THREADS: usize = 256;

pub(super) fn forward(logits: &GpuTensor, tokens: usize) -> Result<Vector> {
    let mut weights = Vector::on_gpu(logits.gpu(), tokens)?;
    let [t] = Argument::ints([tokens])?;
    let arguments = [weights.gpu_mut()?.view_mut(0..tokens)?.into(), logits.view()?.into(), t];
    // SAFETY: `sigmoid_forward(weights [T], logits [T], T)` with a thread for each token.
    #[allow(unsafe_code)]
    unsafe {
        logits.gpu().launch(&SOURCE, "sigmoid_forward", Grid::cover(tokens, THREADS), &arguments)?
    };
    Ok(weights)
}

pub(super) fn backward(dweights: &GpuVector, weights: &GpuVector) -> Result<GpuTensor> {
    let (gpu, tokens) = (weights.gpu(), weights.len());
    let mut dlogits = GpuTensor::new(gpu, &[tokens, 1])?;
    let [t] = Argument::ints([tokens])?;
    let (dweights, weights) = (dweights.view(0..tokens)?, weights.view(0..tokens)?);
    let arguments = [dlogits.view_mut()?.into(), dweights.into(), weights.into(), t];
    // SAFETY: `sigmoid_backward(dlogits [T], dweights [T], weights [T], T)` with a thread for each token.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "sigmoid_backward", Grid::cover(tokens, THREADS), &arguments)?
    };
    Ok(dlogits)
}
