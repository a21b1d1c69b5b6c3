//! Linear layers whose weights are frozen, with trainable low-rank adapters beside them (LoRA, Hu
//! et al. 2021): `y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ`. In training, adapters may see x with a part of its
//! elements dropped, each adapter another part, as PEFT has it.
//!
//! Projections of one input (query, key and value; gate and up) are stacked into one layer, so
//! that each product runs once over all of them.

mod cpu;
pub(in crate::kernels) mod cuda;
mod lora;
mod spec;
mod weight;

use std::ops::Range;

use super::dropout::Dropout;
use crate::device::cuda::{GpuMemory, GpuTensor, StreamedBlock};
use crate::device::{Device, PendingValues, Tensor, Vector};
use crate::{Result, error};

pub(in crate::kernels) use cpu::{multiply, multiply_transposed};

pub(crate) use spec::LinearSpec;
pub use weight::Weight;
pub(crate) use weight::WeightSpec;

/// One projection of a stack.
pub struct Projection {
    /// Module path in the checkpoint, as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The frozen weight, `[N, K]`.
    pub weight: Weight,
    /// The bias, `[N]`.
    pub bias: Option<Vec<f32>>,
    /// Where this projection's adapter lies in the parameter buffer.
    pub adapter: Option<AdapterSlot>,
}

/// Where a projection's adapter lies in the buffer of all trainable parameters, and how it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSlot {
    /// R
    pub rank: usize,
    /// alpha / R, or alpha / √R
    pub scale: f32,
    /// A [R, K]
    pub a: Range<usize>,
    /// B [N, R]
    pub b: Range<usize>,
}

impl AdapterSlot {
    /// The mask of this adapter's input: the place of A tells it from those of other adapters.
    fn dropout(&self, dropout: &Dropout) -> Dropout {
        dropout.of_stream(self.a.start as u32)
    }
}

/// The adapters of a stack that have been taken off it.
pub struct DetachedAdapters {
    slots: Vec<Option<AdapterSlot>>,
    on_gpu: Option<cuda::Adapters16>,
}

/// What adapters compute with.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// All trainable parameters.
    pub values: &'a Vector,
    /// What is dropped of the adapters' inputs; nothing outside training.
    pub dropout: Option<Dropout>,
}

impl Parameters<'_> {
    /// What adapters compute with on what is left of a matrix after its first rows.
    pub(crate) fn after_rows(self, rows: usize) -> Self {
        Self { dropout: self.dropout.map(|dropout| dropout.after_rows(rows)), ..self }
    }
}

impl<'a> From<&'a Vector> for Parameters<'a> {
    fn from(values: &'a Vector) -> Self {
        Self { values, dropout: None }
    }
}

/// Projections that share their input, stacked along their outputs.
pub struct Linear {
    projections: Vec<Projection>,
    inputs: usize,
    outputs: usize,
    /// The weights on a GPU, where the layer has been moved to one.
    on_gpu: Option<cuda::Stack>,
}

impl Linear {
    /// Stacks projections; all must have the same number of inputs.
    pub fn new(projections: Vec<Projection>) -> Result<Self> {
        let inputs = projections.first().map_or(0, |projection| projection.weight.shape()[1]);
        let mut outputs = 0;
        for Projection { name, weight, bias, .. } in &projections {
            let [n, k] = weight.shape();
            if k != inputs {
                return Err(error!(Malformed, "{name}.weight: {inputs} columns expected, found {k}"));
            }
            if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != n) {
                return Err(error!(Malformed, "{name}.bias: [{n}] expected, found [{}]", bias.len()));
            }
            outputs += n;
        }
        Ok(Self { projections, inputs, outputs, on_gpu: None })
    }

    /// Copies the weights to where they are multiplied; on the host they stay as they are mapped.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        self.into_block(device, None)
    }

    /// As [`Linear::to_device`]; on a GPU the weights become part of the block where one is given, and are streamed
    /// with it.
    pub(crate) fn into_block(mut self, device: &Device, block: Option<&StreamedBlock>) -> Result<Self> {
        if let Device::Cuda(gpu) = device {
            self.on_gpu = Some(cuda::Stack::new(GpuMemory::new(gpu, block), &self.projections)?);
        }
        Ok(self)
    }

    /// Copies the adapters to where a GPU multiplies them in 16 bits: to be called after each change of the
    /// parameters, and before the first forward with adapters.
    pub fn refresh_adapters(&mut self, parameters: &Vector) -> Result<()> {
        let Some(mut stack) = self.on_gpu.take() else { return Ok(()) };
        let refreshed = check_adapters(self, parameters.len())
            .and_then(|()| stack.refresh_adapters(self, parameters.gpu()?));
        self.on_gpu = Some(stack);
        refreshed
    }

    /// Takes the adapters off the stack, without copying any.
    pub fn detach_adapters(&mut self) -> DetachedAdapters {
        DetachedAdapters {
            slots: self.projections.iter_mut().map(|projection| projection.adapter.take()).collect(),
            on_gpu: self.on_gpu.as_mut().and_then(cuda::Stack::detach_adapters),
        }
    }

    /// Puts adapters that were taken off this stack back on it, in the place of any there are.
    pub fn attach_adapters(&mut self, detached: DetachedAdapters) {
        for (projection, slot) in self.projections.iter_mut().zip(detached.slots) {
            projection.adapter = slot;
        }
        if let Some(stack) = &mut self.on_gpu {
            stack.attach_adapters(detached.on_gpu);
        }
    }

    /// On a GPU, keeps 16-bit copies of quantized weights where that takes no more than `budget` bytes, so
    /// that no product has to dequantize them; returns the bytes.
    pub fn cache_dequantized(&mut self, budget: u64, device: &Device) -> Result<u64> {
        match (&mut self.on_gpu, device) {
            (Some(stack), Device::Cuda(gpu)) => stack.cache_dequantized(gpu, budget),
            _ => Ok(0),
        }
    }

    /// A weight that is alone in its stack and not quantized, on a GPU.
    pub(super) fn dense_on_gpu(&self) -> Option<&GpuTensor> {
        self.on_gpu.as_ref().and_then(cuda::Stack::dense)
    }

    /// K
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// ΣN over the stack.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The stacked projections, in the order of their outputs.
    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// The stacked projections, to attach adapters to.
    pub fn projections_mut(&mut self) -> &mut [Projection] {
        &mut self.projections
    }

    /// Whether any projection has an adapter.
    pub fn has_adapter(&self) -> bool {
        self.projections.iter().any(|projection| projection.adapter.is_some())
    }

    /// ΣR over the stack.
    pub fn ranks(&self) -> usize {
        self.projections.iter().filter_map(|p| p.adapter.as_ref()).map(|adapter| adapter.rank).sum()
    }
}

/// What a forward gives.
pub struct Output {
    /// [T, ΣN]
    pub y: Tensor,
    /// x·Aᵀ [T, ΣR], which the backward needs, of what dropout left of x; nothing without adapters. On a
    /// GPU ΣR is rounded up to a multiple of 8.
    pub lora_hidden: Option<Tensor>,
}

/// y [T, ΣN] from x [T, K], plus `residual` [T, ΣN] where there is one. Without `parameters` the adapters
/// are left out.
pub fn forward(
    x: &Tensor,
    linear: &Linear,
    parameters: Option<Parameters>,
    residual: Option<&Tensor>,
) -> Result<Output> {
    let (t, _) = check(x, linear.inputs, "linear: x")?;
    residual.map_or(Ok(()), |residual| residual.expect("linear: residual", &[t, linear.outputs]))?;
    let parameters = parameters.filter(|_| linear.has_adapter() && t > 0);
    if let Some(parameters) = parameters {
        check_adapters(linear, parameters.values.len())?;
    }
    match x {
        Tensor::Cpu(_) => {
            let (y, lora_hidden) = cpu::forward(&x.host()?, t, linear, parameters)?;
            let lora_hidden = lora_hidden
                .map(|lora_hidden| Tensor::from_vec(lora_hidden, &[t, linear.ranks()]))
                .transpose()?;
            let y = Tensor::from_vec(y, &[t, linear.outputs])?;
            Ok(Output { y: residual.map_or(Ok(y.clone()), |residual| residual.add(&y))?, lora_hidden })
        }
        Tensor::Cuda(x) => {
            let residual = residual.map(Tensor::gpu).transpose()?;
            let (y, lora_hidden) = cuda::forward(x, linear, parameters, residual)?;
            Ok(Output { y: Tensor::Cuda(y), lora_hidden: lora_hidden.map(Tensor::Cuda) })
        }
    }
}

/// What the backward of a layer gives.
pub struct Backward {
    /// The gradient of x, [T, K], where it was asked for.
    pub dx: Option<Tensor>,
    /// scale·dy·B [T, ΣR], which the adapters' gradients need; nothing without adapters.
    d_lora_hidden: Option<Tensor>,
}

impl Backward {
    /// dx, which was asked for.
    pub fn take_dx(&mut self) -> Result<Tensor> {
        self.dx.take().ok_or_else(|| error!(Bug, "a gradient that was not asked for"))
    }
}

/// dx [T, K] from dy [T, ΣN], where `needs_dx`, and what [`adapter_gradients`] needs.
pub fn backward(dy: &Tensor, linear: &Linear, parameters: Parameters, needs_dx: bool) -> Result<Backward> {
    let (t, _) = check(dy, linear.outputs, "linear backward: dy")?;
    check_adapters(linear, parameters.values.len())?;
    match dy {
        Tensor::Cpu(_) => {
            let (dx, d_lora_hidden) = cpu::backward(&dy.host()?, t, linear, parameters, needs_dx)?;
            let dx = dx.map(|dx| Tensor::from_vec(dx, &[t, linear.inputs])).transpose()?;
            let d_lora_hidden = d_lora_hidden
                .map(|d_lora_hidden| Tensor::from_vec(d_lora_hidden, &[t, linear.ranks()]))
                .transpose()?;
            Ok(Backward { dx, d_lora_hidden })
        }
        Tensor::Cuda(dy) => {
            let (dx, d_lora_hidden) = cuda::backward(dy, linear, parameters, needs_dx)?;
            Ok(Backward { dx: dx.map(Tensor::Cuda), d_lora_hidden: d_lora_hidden.map(Tensor::Cuda) })
        }
    }
}

/// *Adds* the gradients of A and B to `gradients`, which has the layout of the parameters, from what the
/// forward and the backward of a layer were given and gave. `lora_hidden` is computed where it was not kept.
pub fn adapter_gradients(
    (dy, backward): (&Tensor, &Backward),
    (x, lora_hidden): (&Tensor, Option<&Tensor>),
    linear: &Linear,
    parameters: Parameters,
    gradients: &mut Vector,
) -> Result<()> {
    let Some(d_lora_hidden) = &backward.d_lora_hidden else { return Ok(()) };
    let (t, _) = check(x, linear.inputs, "adapter gradients: x")?;
    dy.expect("adapter gradients: dy", &[t, linear.outputs])?;
    check_adapters(linear, parameters.values.len().min(gradients.len()))?;
    match x {
        Tensor::Cpu(_) => {
            for lora_hidden in lora_hidden.into_iter().chain([d_lora_hidden]) {
                lora_hidden.expect("adapter gradients: x·Aᵀ", &[t, linear.ranks()])?;
            }
            let (dy, d_lora_hidden, x) = (&*dy.host()?, &*d_lora_hidden.host()?, &*x.host()?);
            let gradients = gradients.host_mut()?;
            let lora_hidden = match lora_hidden {
                Some(lora_hidden) => lora_hidden.to_vec()?,
                None => lora::lora_hidden(x, t, linear, parameters)?,
            };
            lora::gradients((dy, d_lora_hidden), (x, &lora_hidden), t, linear, parameters.dropout, gradients);
            Ok(())
        }
        Tensor::Cuda(x) => {
            let (dy, d_lora_hidden, lora_hidden) =
                (dy.gpu()?, d_lora_hidden.gpu()?, lora_hidden.map(Tensor::gpu).transpose()?);
            cuda::adapter_gradients(
                (dy, d_lora_hidden),
                (x, lora_hidden),
                linear,
                parameters,
                gradients.gpu_mut()?,
            )
        }
    }
}

/// y [T, ΣN] from x [T, K] without bias and adapters, in f32 on their way to the host: the logits of chosen rows.
pub fn project(x: &Tensor, linear: &Linear) -> Result<PendingValues> {
    let (t, _) = check(x, linear.inputs, "project: x")?;
    match x {
        Tensor::Cpu(_) => {
            let mut y = vec![0.0; t * linear.outputs];
            cpu::multiply(&mut y, &x.host()?, t, &cpu::weights(linear))?;
            Ok(PendingValues::Owned(y))
        }
        Tensor::Cuda(x) => cuda::project(x, linear),
    }
}

/// Adds dy [T, ΣN]·W to dx [T, K], without adapters, on the host.
pub(super) fn add_transposed(dx: &mut [f32], dy: &[f32], t: usize, linear: &Linear) -> Result<()> {
    cpu::multiply_transposed(dx, dy, t, &cpu::weights(linear), super::Write::Add)
}

/// Every A and B lies whole in a buffer of `len` values, and the A's follow each other.
fn check_adapters(linear: &Linear, len: usize) -> Result<()> {
    let slots: Vec<&AdapterSlot> =
        linear.projections.iter().filter_map(|projection| projection.adapter.as_ref()).collect();
    if let Some(pair) = slots.windows(2).find(|pair| pair[0].a.end != pair[1].a.start) {
        return Err(error!(
            Bug,
            "adapters of a stack: A at {} expected, found {:?}", pair[0].a.end, pair[1].a
        ));
    }
    for Projection { name, weight, adapter, .. } in &linear.projections {
        let Some(AdapterSlot { rank, a, b, .. }) = adapter else { continue };
        let [n, k] = weight.shape();
        if a.len() != rank * k || b.len() != n * rank || a.end.max(b.end) > len {
            return Err(error!(
                Bug,
                "adapter of {name}: A [{rank}, {k}] and B [{n}, {rank}] within {len} values expected, \
                 found {a:?} and {b:?}"
            ));
        }
    }
    Ok(())
}

fn check(x: &Tensor, inputs: usize, what: &str) -> Result<(usize, usize)> {
    let (t, k) = x.matrix(what)?;
    if k == inputs { Ok((t, k)) } else { Err(error!(Bug, "{what}: {inputs} columns expected, found {k}")) }
}

#[cfg(test)]
mod tests;
