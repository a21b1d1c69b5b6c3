//! Linear layers of the experts of a mixture: each group of rows of x is multiplied with the weight of its own
//! expert, `y = x·W[e]ᵀ + scale·(x·A[e]ᵀ)·B[e]ᵀ`. The weights are frozen; the adapter beside them (LoRA, Hu et al.
//! 2021) has an A and a B for each expert, as PEFT has it for parameters of three dimensions.

mod cpu;
pub(super) mod cuda;
mod spec;

use super::linear::{AdapterSlot, Parameters, Weight};
use super::routing::{Routing, Rows};
use crate::device::cuda::{GpuMemory, StreamedBlock};
use crate::device::{Device, Tensor, Vector};
use crate::{Result, error};

pub(crate) use spec::GroupedLinearSpec;

/// The weights of all experts of a layer for one product.
pub struct GroupedLinear {
    /// Path of the layer in transformers, as `model.layers.0.mlp.experts.gate_up_proj`.
    pub name: String,
    /// Where the adapter lies in the parameter buffer: A [E, R, K] and B [E, N, R].
    pub adapter: Option<AdapterSlot>,
    /// The weights of each expert [Nᵢ, K], stacked along their outputs to [N, K].
    weights: Vec<Vec<Weight>>,
    inputs: usize,
    outputs: usize,
    /// The weights on a GPU, where the layer has been moved to one.
    on_gpu: Option<cuda::Experts>,
}

/// The adapter of a layer that has been taken off it.
pub struct DetachedAdapter {
    slot: Option<AdapterSlot>,
    on_gpu: Option<cuda::Adapters16>,
}

impl GroupedLinear {
    /// A layer from the weights of each expert, all of the same shapes.
    pub fn new(name: String, weights: Vec<Vec<Weight>>) -> Result<Self> {
        let shapes = |weights: &[Weight]| weights.iter().map(Weight::shape).collect::<Vec<_>>();
        let first = weights.first().map(|weights| shapes(weights)).unwrap_or_default();
        let inputs = first.first().map_or(0, |[_, k]| *k);
        if let Some(other) = weights.iter().map(|weights| shapes(weights)).find(|shapes| *shapes != first) {
            return Err(error!(Malformed, "{name}: experts of {first:?} expected, found {other:?}"));
        }
        if first.iter().any(|[_, k]| *k != inputs) {
            return Err(error!(Malformed, "{name}: weights of {inputs} columns expected, found {first:?}"));
        }
        let outputs = first.iter().map(|[n, _]| n).sum();
        Ok(Self { name, adapter: None, weights, inputs, outputs, on_gpu: None })
    }

    /// Copies the weights to where they are multiplied; on the host they stay as they are mapped.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        self.into_block(device, None)
    }

    /// As [`GroupedLinear::to_device`]; on a GPU the weights become part of the block where one is given, and are
    /// streamed with it.
    pub(crate) fn into_block(mut self, device: &Device, block: Option<&StreamedBlock>) -> Result<Self> {
        if let Device::Cuda(gpu) = device {
            self.on_gpu = Some(cuda::Experts::new(GpuMemory::new(gpu, block), &self.name, &self.weights)?);
        }
        Ok(self)
    }

    /// Copies the adapter to where a GPU multiplies it in 16 bits: to be called after each change of the parameters,
    /// and before the first forward with the adapter.
    pub fn refresh_adapters(&mut self, parameters: &Vector) -> Result<()> {
        let Some(mut experts) = self.on_gpu.take() else { return Ok(()) };
        let refreshed = check_adapter(self, parameters.into())
            .and_then(|()| experts.refresh_adapters(self, parameters.gpu()?));
        self.on_gpu = Some(experts);
        refreshed
    }

    /// Takes the adapter off the layer, without copying it.
    pub fn detach_adapter(&mut self) -> DetachedAdapter {
        let on_gpu = self.on_gpu.as_mut().and_then(cuda::Experts::detach_adapters);
        DetachedAdapter { slot: self.adapter.take(), on_gpu }
    }

    /// Puts an adapter that was taken off this layer back on it, in the place of any there is.
    pub fn attach_adapter(&mut self, detached: DetachedAdapter) {
        self.adapter = detached.slot;
        if let Some(experts) = &mut self.on_gpu {
            experts.attach_adapters(detached.on_gpu);
        }
    }

    /// On a GPU, keeps 16-bit copies of quantized weights where that takes no more than `budget` bytes, so
    /// that no product has to dequantize them; returns the bytes.
    pub fn cache_dequantized(&mut self, budget: u64, device: &Device) -> Result<u64> {
        match (&mut self.on_gpu, device) {
            (Some(experts), Device::Cuda(gpu)) => experts.cache_dequantized(gpu, budget),
            _ => Ok(0),
        }
    }

    /// E
    pub fn experts(&self) -> usize {
        self.weights.len()
    }

    /// K
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// N
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Every weight of every expert.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.weights.iter().flatten()
    }

    /// R; 0 without an adapter.
    pub fn rank(&self) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.rank)
    }
}

/// What a forward gives.
pub struct Output {
    /// y [S, N]
    pub y: Tensor,
    /// x·Aᵀ [S, R], which the backward needs; nothing without an adapter. On a GPU R is rounded up to a multiple
    /// of 8.
    pub lora_hidden: Option<Tensor>,
}

/// y [S, N] from x, whose rows are those of tokens or of slots. Without `parameters` the adapter is left out.
pub fn forward(
    (x, rows): (&Tensor, Rows),
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Option<Parameters>,
) -> Result<Output> {
    check((x, rows), linear.inputs, linear, routing, "grouped linear: x")?;
    let parameters = parameters.filter(|_| linear.adapter.is_some() && routing.slots() > 0);
    if let Some(parameters) = parameters {
        check_adapter(linear, parameters)?;
    }
    match x {
        Tensor::Cpu(_) => {
            let x = x.host()?;
            let x = cpu::slots(&x, rows, linear.inputs, routing)?;
            let (y, lora_hidden) = cpu::forward(&x, linear, routing, parameters)?;
            let slots = routing.slots();
            Ok(Output {
                y: Tensor::from_vec(y, &[slots, linear.outputs])?,
                lora_hidden: lora_hidden
                    .map(|hidden| Tensor::from_vec(hidden, &[slots, linear.rank()]))
                    .transpose()?,
            })
        }
        Tensor::Cuda(x) => {
            let (y, lora_hidden) = cuda::forward((x, rows), linear, routing, parameters.is_some())?;
            Ok(Output { y: Tensor::Cuda(y), lora_hidden: lora_hidden.map(Tensor::Cuda) })
        }
    }
}

/// What the backward of a layer gives.
pub struct Backward {
    /// The gradient of each slot's x, [S, K].
    pub dx: Tensor,
    /// scale·dy·B [S, R], which the adapter's gradients need; nothing without an adapter.
    pub d_lora_hidden: Option<Tensor>,
}

/// dx [S, K] from dy, whose rows are those of tokens or of slots, and what [`adapter_gradients`] needs.
pub fn backward(
    (dy, rows): (&Tensor, Rows),
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Parameters,
) -> Result<Backward> {
    check((dy, rows), linear.outputs, linear, routing, "grouped linear backward: dy")?;
    check_adapter(linear, parameters)?;
    match dy {
        Tensor::Cpu(_) => {
            let dy = dy.host()?;
            let dy = cpu::slots(&dy, rows, linear.outputs, routing)?;
            let (dx, d_lora_hidden) = cpu::backward(&dy, linear, routing, parameters)?;
            let slots = routing.slots();
            Ok(Backward {
                dx: Tensor::from_vec(dx, &[slots, linear.inputs])?,
                d_lora_hidden: d_lora_hidden
                    .map(|hidden| Tensor::from_vec(hidden, &[slots, linear.rank()]))
                    .transpose()?,
            })
        }
        Tensor::Cuda(dy) => {
            let (dx, d_lora_hidden) = cuda::backward((dy, rows), linear, routing)?;
            Ok(Backward { dx: Tensor::Cuda(dx), d_lora_hidden: d_lora_hidden.map(Tensor::Cuda) })
        }
    }
}

/// *Adds* the gradients of A and B to `gradients`, which has the layout of the parameters, from what the
/// forward and the backward of a layer were given and gave. `lora_hidden` is computed where it was not kept.
pub fn adapter_gradients(
    (dy, dy_rows, d_lora_hidden): (&Tensor, Rows, Option<&Tensor>),
    (x, x_rows, lora_hidden): (&Tensor, Rows, Option<&Tensor>),
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Parameters,
    gradients: &mut Vector,
) -> Result<()> {
    let Some(d_lora_hidden) = d_lora_hidden else { return Ok(()) };
    check((x, x_rows), linear.inputs, linear, routing, "grouped adapter gradients: x")?;
    check((dy, dy_rows), linear.outputs, linear, routing, "grouped adapter gradients: dy")?;
    check_adapter(linear, parameters)?;
    if gradients.len() != parameters.values.len() {
        return Err(error!(Bug, "{} gradients expected, found {}", parameters.values.len(), gradients.len()));
    }
    match x {
        Tensor::Cpu(_) => {
            let (x, dy) = (x.host()?, dy.host()?);
            let x = cpu::slots(&x, x_rows, linear.inputs, routing)?;
            let dy = cpu::slots(&dy, dy_rows, linear.outputs, routing)?;
            let lora_hidden = match lora_hidden {
                Some(lora_hidden) => lora_hidden.to_vec()?,
                None => cpu::lora_hidden(&x, linear, routing, parameters)?,
            };
            let (inputs, outputs) = ((&x[..], &lora_hidden[..]), (&dy[..], &*d_lora_hidden.host()?));
            cpu::adapter_gradients(outputs, inputs, linear, routing, gradients.host_mut()?)
        }
        Tensor::Cuda(x) => {
            let lora_hidden = lora_hidden.map(Tensor::gpu).transpose()?;
            cuda::adapter_gradients(
                (dy.gpu()?, dy_rows, d_lora_hidden.gpu()?),
                (x, x_rows, lora_hidden),
                linear,
                routing,
                gradients.gpu_mut()?,
            )
        }
    }
}

/// A and B lie whole in the parameters, of which nothing is dropped: PEFT has no dropout for such adapters.
fn check_adapter(linear: &GroupedLinear, parameters: Parameters) -> Result<()> {
    let Some(AdapterSlot { rank, a, b, .. }) = &linear.adapter else { return Ok(()) };
    let (experts, k, n) = (linear.experts(), linear.inputs, linear.outputs);
    if parameters.dropout.is_some() {
        return Err(error!(Unsupported, "{}: an adapter of experts with dropout", linear.name));
    }
    let is_inside = a.end.max(b.end) <= parameters.values.len();
    match a.len() == experts * rank * k && b.len() == experts * n * rank && is_inside {
        true => Ok(()),
        false => Err(error!(
            Bug,
            "adapter of {}: A [{experts}, {rank}, {k}] and B [{experts}, {n}, {rank}] expected, found {a:?} and {b:?}",
            linear.name
        )),
    }
}

fn check(
    (x, rows): (&Tensor, Rows),
    columns: usize,
    linear: &GroupedLinear,
    routing: &Routing,
    what: &str,
) -> Result<()> {
    if routing.spec().experts != linear.experts() {
        return Err(error!(Bug, "{what}: {} experts routed to {}", routing.spec().experts, linear.experts()));
    }
    x.expect(what, &[routing.rows(rows), columns])
}

#[cfg(test)]
mod tests;
