//! Linear layers of experts on a GPU: forward and backward of frozen weights and adapters. Each is one launch over the
//! slots of all experts, whose number stays on the GPU.

mod adapters;
mod bytes;
mod products;
mod weights;

use cudarc::driver::CudaSlice;

use super::{GroupedLinear, Routing, Rows, Weight};
use crate::device::GpuVector;
use crate::device::cuda::{Gpu, GpuMemory, GpuTensor, View, ViewMut, WeightId, buffer_bytes};
use crate::{Result, error};

pub(super) use adapters::Adapters16;
use products::{Direction, Factor, Product};
pub(in crate::kernels) use products::{GRADIENTS, HOPPER, SOURCE};
pub(in crate::kernels) use weights::SOURCE as QUANTIZED;
use weights::Weights;

/// Up to this many tokens, quantized weights are multiplied as they are: only those of the experts that are chosen.
const FEW_TOKENS: usize = 8;

/// The frozen weights of a layer on a GPU, and its adapter in 16 bits.
pub(super) struct Experts {
    id: WeightId,
    weights: Weights,
    is_streamed: bool,
    /// Quantized weights in 16 bits, where memory is left for that.
    dequantized: Option<CudaSlice<u16>>,
    /// The adapter in 16 bits, as it was when [`Experts::refresh_adapters`] was called last.
    adapters: Option<Adapters16>,
}

impl Experts {
    pub(super) fn new(memory: GpuMemory, name: &str, weights: &[Vec<Weight>]) -> Result<Self> {
        let weights = Weights::load(memory, name, weights)?;
        if weights.is_quantized() {
            memory.gpu().reserve_scratch(weights.len())?;
        }
        let is_streamed = memory.is_streamed();
        Ok(Self { id: WeightId::new(), weights, is_streamed, dequantized: None, adapters: None })
    }

    /// Copies the adapter of `linear`, to which these experts belong, to 16 bits.
    pub(super) fn refresh_adapters(&mut self, linear: &GroupedLinear, parameters: &GpuVector) -> Result<()> {
        match (&linear.adapter, &mut self.adapters) {
            (None, _) => self.adapters = None,
            (Some(slot), Some(adapters)) if adapters.are_of(linear) => adapters.refresh(slot, parameters)?,
            (Some(slot), _) => {
                // The memory of an adapter that was there before serves this one.
                self.adapters = None;
                self.adapters = Some(Adapters16::new(linear, slot, parameters)?);
            }
        }
        Ok(())
    }

    /// Takes the adapter in 16 bits off the experts.
    pub(super) fn detach_adapters(&mut self) -> Option<Adapters16> {
        self.adapters.take()
    }

    /// Puts an adapter in 16 bits on the experts, in the place of any there is.
    pub(super) fn attach_adapters(&mut self, adapters: Option<Adapters16>) {
        self.adapters = adapters;
    }

    /// Dequantizes quantized weights that are not streamed for good, where that takes no more than `budget` bytes; returns
    /// the bytes.
    pub(super) fn cache_dequantized(&mut self, gpu: &Gpu, budget: u64) -> Result<u64> {
        let bytes = buffer_bytes::<u16>(self.weights.len());
        let can_keep = self.weights.is_quantized() && !self.is_streamed;
        if !can_keep || self.dequantized.is_some() || bytes > budget {
            return Ok(0);
        }
        let mut dequantized = gpu.allocate(self.weights.len())?;
        self.weights.dequantize(gpu, gpu.stream(), ViewMut::from(&mut dequantized))?;
        self.dequantized = Some(dequantized);
        Ok(bytes)
    }

    /// Gives `multiply` the weights [E·N, K] in 16 bits.
    fn dequantized(&self, gpu: &Gpu, multiply: impl FnOnce(View<'_, u16>) -> Result<()>) -> Result<()> {
        let ([rows, k], len) = (self.weights.shape(), self.weights.len());
        if let Some(weights) = self.weights.dense()?.or(self.dequantized.as_ref().map(View::from)) {
            return multiply(weights.columns(0..len)?.matrix(rows, k)?);
        }
        gpu.with_dequantized(
            (&self.id, len),
            |stream, scratch| self.weights.dequantize(gpu, stream, scratch),
            |scratch| multiply(scratch.matrix(rows, k)?),
        )
    }

    /// The adapter of `linear` in 16 bits, where it has one.
    fn adapters(&self, linear: &GroupedLinear) -> Result<Option<&Adapters16>> {
        if linear.adapter.is_none() {
            return Ok(None);
        }
        let adapters = self.adapters.as_ref().filter(|adapters| adapters.are_of(linear));
        adapters
            .map(Some)
            .ok_or_else(|| error!(Bug, "the adapter of {} is not refreshed on the GPU", linear.name))
    }
}

fn experts(linear: &GroupedLinear) -> Result<&Experts> {
    let Some(experts) = &linear.on_gpu else {
        return Err(error!(Bug, "the weights of {} are not on the GPU", linear.name));
    };
    Ok(experts)
}

/// y [S, N] and, with the adapter, x·Aᵀ [S, R].
pub(super) fn forward(
    (x, rows): (&GpuTensor, Rows),
    linear: &GroupedLinear,
    routing: &Routing,
    has_adapter: bool,
) -> Result<(GpuTensor, Option<GpuTensor>)> {
    let (experts, gpu) = (experts(linear)?, x.gpu());
    let adapters = if has_adapter { experts.adapters(linear)? } else { None };
    let lora_hidden = adapters.map(|adapters| adapters.lora_hidden((x, rows), routing)).transpose()?;
    let of_adapter = match (&lora_hidden, adapters) {
        (Some(lora_hidden), Some(adapters)) => Some(adapters.outputs(lora_hidden)?),
        _ => None,
    };
    let mut y = GpuTensor::new(gpu, &[routing.slots(), linear.outputs])?;
    if routing.tokens() <= FEW_TOKENS && experts.weights.has_few_rows() {
        let adds = of_adapter.is_some();
        if let Some(of_adapter) = of_adapter {
            let product = Product { direction: Direction::Forward, x: None, hidden: Some(of_adapter) };
            product.launch(gpu, y.view_mut()?, routing)?;
        }
        experts.weights.multiply_rows(gpu, y.view_mut()?, (x.view()?, rows), routing, adds)?;
        return Ok((y, lora_hidden));
    }
    experts.dequantized(gpu, |weights| {
        let x = Factor { left: x.view()?, rows, right: weights };
        let product = Product { direction: Direction::Forward, x: Some(x), hidden: of_adapter };
        product.launch(gpu, y.view_mut()?, routing)
    })?;
    Ok((y, lora_hidden))
}

/// dx [S, K] and, where there is an adapter, scale·dy·B [S, R].
pub(super) fn backward(
    (dy, rows): (&GpuTensor, Rows),
    linear: &GroupedLinear,
    routing: &Routing,
) -> Result<(GpuTensor, Option<GpuTensor>)> {
    let (experts, gpu) = (experts(linear)?, dy.gpu());
    let adapters = experts.adapters(linear)?;
    let d_lora_hidden = adapters.map(|adapters| adapters.backward((dy, rows), routing)).transpose()?;
    let of_adapter = match (&d_lora_hidden, adapters) {
        (Some(d_lora_hidden), Some(adapters)) => Some(adapters.inputs(d_lora_hidden)?),
        _ => None,
    };
    let mut dx = GpuTensor::new(gpu, &[routing.slots(), linear.inputs])?;
    experts.dequantized(gpu, |weights| {
        let dy = Factor { left: dy.view()?, rows, right: weights };
        let product = Product { direction: Direction::Backward, x: Some(dy), hidden: of_adapter };
        product.launch(gpu, dx.view_mut()?, routing)
    })?;
    Ok((dx, d_lora_hidden))
}

/// Adds the gradients of A and B to `gradients`; x·Aᵀ is computed where it is not given.
pub(super) fn adapter_gradients(
    (dy, dy_rows, d_lora_hidden): (&GpuTensor, Rows, &GpuTensor),
    (x, x_rows, lora_hidden): (&GpuTensor, Rows, Option<&GpuTensor>),
    linear: &GroupedLinear,
    routing: &Routing,
    gradients: &mut GpuVector,
) -> Result<()> {
    let Some(slot) = &linear.adapter else { return Ok(()) };
    let Some(adapters) = experts(linear)?.adapters(linear)? else { return Ok(()) };
    let computed = match lora_hidden {
        Some(_) => None,
        None => Some(adapters.lora_hidden((x, x_rows), routing)?),
    };
    let Some(lora_hidden) = lora_hidden.or(computed.as_ref()) else { return Ok(()) };
    let (k, n, rank) = (linear.inputs, linear.outputs, slot.rank);
    let da = products::Gradient { columns: k, rank, rank_stride: k, column_stride: 1, scale: 1.0 };
    da.add(gradients.view_mut(slot.a.clone())?, d_lora_hidden, (x, x_rows), routing)?;
    let db = products::Gradient { columns: n, rank, rank_stride: 1, column_stride: rank, scale: slot.scale };
    db.add(gradients.view_mut(slot.b.clone())?, lora_hidden, (dy, dy_rows), routing)
}
