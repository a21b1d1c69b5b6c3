//! Linear layers on a GPU: forward and backward of frozen weights and adapters.

mod bytes;
mod dropped;
mod lora;
mod packed;
mod stack;
mod weight;

use super::{Linear, Parameters};
use crate::device::cuda::{Gpu, GpuTensor, KernelSource, Number, Product, View, ViewMut};
use crate::device::{GpuVector, PendingValues};
use crate::kernels::Write;
use crate::{Result, error};

pub(super) use stack::Stack;
pub(in crate::kernels) use weight::{
    DEQUANTIZED_BY_BLOCK, PART, dense_bytes, float16_bytes, part, shift, upload,
};

pub(super) use lora::Adapters16;
pub(in crate::kernels) use lora::SOURCE as LORA;

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new(
    "quantized",
    concat!(
        include_str!("../../instructions.cuh"),
        include_str!("../quantized.cuh"),
        include_str!("../quantized.cu"),
        include_str!("../quantized_product.cu"),
    ),
);

/// The most bytes of projected rows that pass through page-locked memory: those of 128 rows of the largest vocabularies.
const MOST_PAGE_LOCKED: usize = 128 << 20;

fn stack(linear: &Linear) -> Result<&Stack> {
    linear
        .on_gpu
        .as_ref()
        .ok_or_else(|| error!(Bug, "the weights of {} are not on the GPU", linear.projections[0].name))
}

/// y [T, ΣN] and x·Aᵀ [T, ΣR].
pub(super) fn forward(
    x: &GpuTensor,
    linear: &Linear,
    parameters: Option<Parameters>,
    residual: Option<&GpuTensor>,
) -> Result<(GpuTensor, Option<GpuTensor>)> {
    let (stack, gpu) = (stack(linear)?, x.gpu());
    let mut y = GpuTensor::new(gpu, &[x.shape()[0], linear.outputs])?;
    let Some(parameters) = parameters else {
        let residual = residual.map(GpuTensor::view).transpose()?;
        stack.multiply(gpu, y.view_mut()?, x.view()?, Write::Overwrite, residual)?;
        return Ok((y, None));
    };
    // The adapters' part is written first: the product then adds to it what is rounded once. A residual
    // comes last: in 16 bits, what adapters add to it would mostly be rounded away.
    let adapters = stack.adapters(linear)?;
    let lora_hidden = adapters.lora_hidden(x, linear, parameters.dropout)?;
    adapters.outputs(&mut y, &lora_hidden, Write::Overwrite)?;
    stack.multiply(gpu, y.view_mut()?, x.view()?, Write::Add, None)?;
    let y = match residual {
        Some(residual) => residual.add(&y)?,
        None => y,
    };
    Ok((y, Some(lora_hidden)))
}

/// `dx = dy·W` and the adapters' part of it where it is needed, and scale·dy·B [T, ΣR].
pub(super) fn backward(
    dy: &GpuTensor,
    linear: &Linear,
    parameters: Parameters,
    needs_dx: bool,
) -> Result<(Option<GpuTensor>, Option<GpuTensor>)> {
    let t = dy.shape()[0];
    let mut adapters = None;
    if linear.has_adapter() && t > 0 {
        adapters = Some(stack(linear)?.adapters(linear)?);
    }
    let d_lora_hidden = adapters.map(|adapters| adapters.backward(dy)).transpose()?;
    if !needs_dx {
        return Ok((None, d_lora_hidden));
    }
    let mut dx = GpuTensor::new(dy.gpu(), &[t, linear.inputs])?;
    let mut write = Write::Overwrite;
    if let (Some(adapters), Some(d_lora_hidden)) = (adapters, &d_lora_hidden) {
        adapters.inputs(&mut dx, d_lora_hidden, linear, parameters.dropout, write)?;
        write = Write::Add;
    }
    multiply_transposed(dy.gpu(), dx.view_mut()?, dy.view()?, linear, write)?;
    Ok((Some(dx), d_lora_hidden))
}

/// Adds the gradients of A and B to `gradients`; x·Aᵀ is computed where it is not given.
pub(super) fn adapter_gradients(
    dy: (&GpuTensor, &GpuTensor),
    (x, lora_hidden): (&GpuTensor, Option<&GpuTensor>),
    linear: &Linear,
    parameters: Parameters,
    gradients: &mut GpuVector,
) -> Result<()> {
    match lora_hidden {
        Some(lora_hidden) => lora::gradients(dy, (x, lora_hidden), linear, parameters.dropout, gradients),
        None => {
            let lora_hidden = stack(linear)?.adapters(linear)?.lora_hidden(x, linear, parameters.dropout)?;
            lora::gradients(dy, (x, &lora_hidden), linear, parameters.dropout, gradients)
        }
    }
}

/// Writes dy [T, ΣN]·W to dx [T, K].
pub(in crate::kernels) fn multiply_transposed(
    gpu: &Gpu,
    mut dx: ViewMut<'_, u16>,
    dy: View<'_, u16>,
    linear: &Linear,
    mut write: Write,
) -> Result<()> {
    stack(linear)?.dequantized(gpu, |columns, weights| {
        gpu.product(Product::new(dy.columns(columns)?, weights), dx.reborrow(), write)?;
        write = Write::Add;
        Ok(())
    })
}

/// Writes x [T, K]·Wᵀ, without the bias, to y [T, ΣN].
pub(in crate::kernels) fn multiply<T: Number>(
    gpu: &Gpu,
    y: ViewMut<'_, T>,
    x: View<'_, u16>,
    linear: &Linear,
) -> Result<()> {
    stack(linear)?.multiply_dequantized(gpu, y, x, Write::Overwrite, None, None)
}

/// y [T, ΣN] in f32 on their way to the host.
pub(super) fn project(x: &GpuTensor, linear: &Linear) -> Result<PendingValues> {
    let (gpu, shape) = (x.gpu(), [x.shape()[0], linear.outputs]);
    let len = shape[0] * shape[1];
    let mut y = gpu.allocate::<f32>(len)?;
    let out = ViewMut::from(&mut y).columns(0..len)?.matrix(shape[0], shape[1])?;
    multiply(gpu, out, x.view()?, linear)?;
    match len * size_of::<f32>() <= MOST_PAGE_LOCKED {
        true => gpu.download_page_locked(&y, len).map(PendingValues::Download),
        false => gpu.download(&y, len).map(PendingValues::Owned),
    }
}
