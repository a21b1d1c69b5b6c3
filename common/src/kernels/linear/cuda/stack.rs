//! The weights of a stack on a GPU, and the products with them. A quantized weight is dequantized to 16 bits into
//! scratch, on a second stream while the product before it runs, and multiplied whole; for a few rows it is multiplied as
//! it is.

use std::ops::Range;

use cudarc::driver::{CudaSlice, CudaStream};

use super::super::{Linear, Projection};
use super::lora::Adapters16;
use super::packed::{self, Packed};
use super::weight::Frozen;
use crate::device::GpuVector;
use crate::device::cuda::{
    Argument, Gpu, GpuMemory, GpuTensor, Number, Product, View, ViewMut, WeightId, buffer_bytes,
};
use crate::kernels::Write;
use crate::{Result, error};

/// The frozen part of a stack on a GPU.
pub(in super::super) struct Stack {
    id: WeightId,
    weights: Vec<Frozen>,
    is_streamed: bool,
    /// [ΣN] in 16 bits; zero where a projection has none.
    bias: Option<CudaSlice<u16>>,
    /// Quantized weights as they are, where a few rows can be multiplied with them.
    packed: Option<Packed>,
    /// The quantized weights in 16 bits, one after the other, where memory is left for that.
    dequantized: Option<CudaSlice<u16>>,
    /// The adapters in 16 bits, as they were when [`Stack::refresh_adapters`] was called last.
    adapters: Option<Adapters16>,
}

impl Stack {
    pub(in super::super) fn new(memory: GpuMemory, projections: &[Projection]) -> Result<Self> {
        let gpu = memory.gpu();
        let weights =
            projections.iter().map(|p| Frozen::load(memory, &p.weight)).collect::<Result<Vec<_>>>()?;
        let mut bias = None;
        if projections.iter().any(|projection| projection.bias.is_some()) {
            let values = projections.iter().flat_map(|projection| {
                let n = projection.weight.shape()[0];
                let zeros = || vec![0.0; n];
                projection.bias.clone().unwrap_or_else(zeros)
            });
            bias = Some(gpu.upload(&values.map(|value| gpu.float16().bits(value)).collect::<Vec<_>>())?);
        }
        let mut stack = Self {
            id: WeightId::new(),
            weights,
            is_streamed: memory.is_streamed(),
            bias,
            packed: None,
            dequantized: None,
            adapters: None,
        };
        if stack.is_quantized() {
            gpu.reserve_scratch(stack.len())?;
        }
        if stack.weights.iter().all(|weight| weight.has_groups(packed::GROUP)) {
            let parts = stack.columns().map(|(columns, weight)| weight.part(columns.start));
            let parts = gpu.upload(&parts.collect::<Result<Vec<_>>>()?.concat())?;
            stack.packed = Some(Packed::new(parts, stack.weights.iter().map(Frozen::rows).collect()));
        }
        Ok(stack)
    }

    fn is_quantized(&self) -> bool {
        self.weights.iter().all(Frozen::is_quantized)
    }

    /// A weight that is alone and not quantized.
    pub(in super::super) fn dense(&self) -> Option<&GpuTensor> {
        match &self.weights[..] {
            [Frozen::Dense(values)] => Some(values),
            _ => None,
        }
    }

    /// Each weight with its columns of y.
    fn columns(&self) -> impl Iterator<Item = (Range<usize>, &Frozen)> {
        let mut first = 0;
        self.weights.iter().map(move |weight| {
            let columns = first..first + weight.rows();
            first = columns.end;
            (columns, weight)
        })
    }

    /// Copies the adapters of `linear`, to which this stack belongs, to 16 bits.
    pub(in super::super) fn refresh_adapters(
        &mut self,
        linear: &Linear,
        parameters: &GpuVector,
    ) -> Result<()> {
        match &mut self.adapters {
            _ if !linear.has_adapter() => self.adapters = None,
            Some(adapters) if adapters.are_of(linear) => adapters.refresh(linear, parameters)?,
            _ => {
                // The memory of adapters that were there before serves these.
                self.adapters = None;
                self.adapters = Some(Adapters16::new(parameters.gpu(), linear, parameters)?);
            }
        }
        Ok(())
    }

    /// Takes the adapters in 16 bits off the stack.
    pub(in super::super) fn detach_adapters(&mut self) -> Option<Adapters16> {
        self.adapters.take()
    }

    /// Puts adapters in 16 bits on the stack, in the place of any there are.
    pub(in super::super) fn attach_adapters(&mut self, adapters: Option<Adapters16>) {
        self.adapters = adapters;
    }

    /// The adapters of `linear` in 16 bits.
    pub(super) fn adapters(&self, linear: &Linear) -> Result<&Adapters16> {
        self.adapters.as_ref().filter(|adapters| adapters.are_of(linear)).ok_or_else(|| {
            error!(Bug, "the adapters of {} are not refreshed on the GPU", linear.projections[0].name)
        })
    }

    /// Writes x [T, K]·Wᵀ and the bias to y [T, ΣN], plus a matrix like y where there is one.
    pub(super) fn multiply(
        &self,
        gpu: &Gpu,
        y: ViewMut<'_, u16>,
        x: View<'_, u16>,
        write: Write,
        residual: Option<View<'_, u16>>,
    ) -> Result<()> {
        if let Some(packed) = self.packed.as_ref().filter(|_| x.shape()[0] <= packed::MOST_ROWS) {
            return self.multiply_packed(gpu, y, x, packed, write, residual);
        }
        let bias = self.bias.as_ref().map(View::from);
        self.multiply_dequantized(gpu, y, x, write, residual, bias)
    }

    /// Writes x [T, K]·Wᵀ to y [T, ΣN], plus a matrix like y and a bias [1, ΣN] where there are any.
    pub(super) fn multiply_dequantized<T: Number>(
        &self,
        gpu: &Gpu,
        mut y: ViewMut<'_, T>,
        x: View<'_, u16>,
        write: Write,
        residual: Option<View<'_, T>>,
        bias: Option<View<'_, u16>>,
    ) -> Result<()> {
        self.dequantized(gpu, |columns, weights| {
            let residual = residual.map(|residual| residual.columns(columns.clone())).transpose()?;
            let bias = bias.map(|bias| bias.columns(columns.clone())).transpose()?;
            let product = Product::new(x, weights.t()).plus(residual).with_bias(bias);
            gpu.product(product, y.reborrow().columns(columns)?, write)
        })
    }

    /// [`Stack::multiply`] for up to [`packed::MOST_ROWS`] rows, the weights as they are.
    fn multiply_packed(
        &self,
        gpu: &Gpu,
        y: ViewMut<'_, u16>,
        x: View<'_, u16>,
        packed: &Packed,
        write: Write,
        residual: Option<View<'_, u16>>,
    ) -> Result<()> {
        self.check_packed(y.shape(), x.shape(), residual)?;
        let y_stride = y.stride();
        let out = match write {
            Write::Add => Argument::in_place(y),
            Write::Overwrite => [y.into(), Argument::optional(residual)],
        };
        let bias = Argument::optional(self.bias.as_ref().map(View::from));
        // SAFETY: `check_packed` has compared x [T, K], y [T, ΣN] and the residual with the weights, whose parts these are;
        // the bias has ΣN numbers, and `Stack::new` has seen to the groups of columns.
        #[allow(unsafe_code)]
        unsafe {
            packed.multiply(gpu, (out, y_stride), x, bias)
        }
    }

    /// Fails unless the weights are there, and x [T, K] gives y [T, ΣN].
    fn check_packed(
        &self,
        y: [usize; 2],
        [tokens, k]: [usize; 2],
        residual: Option<View<'_, u16>>,
    ) -> Result<()> {
        self.weights.iter().try_for_each(Frozen::expect_present)?;
        let n = self.columns().last().map_or(0, |(columns, _)| columns.end);
        let is_inside = self.weights.iter().all(|weight| weight.columns() == k);
        if !is_inside || y != [tokens, n] {
            return Err(error!(Bug, "{tokens} rows of {k} do not give {y:?} of {n}"));
        }
        residual.map_or(Ok(()), |residual| residual.expect("a residual", [tokens, n]))
    }

    /// Gives `multiply` the weights stacked as 16-bit [ΣN, K]: all at once where they are quantized, else
    /// each as it lies. Also the columns of y that they make.
    pub(super) fn dequantized(
        &self,
        gpu: &Gpu,
        mut multiply: impl FnMut(Range<usize>, View<'_, u16>) -> Result<()>,
    ) -> Result<()> {
        if !self.is_quantized() {
            return self.columns().try_for_each(|(columns, weight)| multiply(columns, weight.dense()?));
        }
        let [n, k] = self.shape();
        if let Some(dequantized) = &self.dequantized {
            return multiply(0..n, View::from(dequantized).matrix(n, k)?);
        }
        gpu.with_dequantized(
            (&self.id, n * k),
            |stream, scratch| self.dequantize(gpu, stream, scratch),
            |scratch| multiply(0..n, scratch.matrix(n, k)?),
        )
    }

    /// Writes all weights in 16 bits to `out`, one after the other.
    fn dequantize(&self, gpu: &Gpu, stream: &CudaStream, out: ViewMut<'_, u16>) -> Result<()> {
        let [n, k] = self.shape();
        let mut out = out.matrix(n, k)?;
        self.columns()
            .try_for_each(|(columns, weight)| weight.dequantize(gpu, stream, out.reborrow().rows(columns)?))
    }

    /// ΣN and K.
    fn shape(&self) -> [usize; 2] {
        let inputs = self.weights.first().map_or(0, Frozen::columns);
        [self.weights.iter().map(Frozen::rows).sum(), inputs]
    }

    /// Element count of all weights.
    fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Dequantizes quantized weights that are not streamed for good, where that takes no more than `budget` bytes; returns
    /// the bytes.
    pub(in super::super) fn cache_dequantized(&mut self, gpu: &Gpu, budget: u64) -> Result<u64> {
        let bytes = buffer_bytes::<u16>(self.len());
        if !self.is_quantized() || self.is_streamed || self.dequantized.is_some() || bytes > budget {
            return Ok(0);
        }
        let mut dequantized = gpu.allocate(self.len())?;
        self.dequantize(gpu, gpu.stream(), ViewMut::from(&mut dequantized))?;
        self.dequantized = Some(dequantized);
        Ok(bytes)
    }
}
