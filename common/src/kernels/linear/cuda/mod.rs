//! Linear layers on a GPU. A quantized weight is widened to 16 bits into scratch, on a second stream while
//! the product before it runs, and multiplied whole; for a few rows it is multiplied as it is.

mod dropped;
mod lora;
mod weight;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaSlice, CudaStream};

use super::{Linear, LinearSpec, Parameters, Projection};
use crate::device::GpuVector;
use crate::device::cuda::{
    Argument, Factor, Gpu, GpuTensor, Grid, KernelSource, Precision, Product, address, buffer_bytes,
};
use crate::kernels::Write;
use crate::{Result, error};

use lora::Adapters16;
use weight::{Frozen, PART};
pub(in crate::kernels) use weight::{dense_bytes, upload};

pub(in crate::kernels) use lora::SOURCE as LORA;
pub(super) use lora::bytes as adapter_bytes;

pub(in crate::kernels) static SOURCE: KernelSource =
    KernelSource::new("quantized", include_str!("../quantized.cu"));

/// Up to this many rows of x, a quantized weight is read once and never widened.
const FEW_ROWS: usize = 8;
/// Warps of a block that multiplies them.
const WARPS_OF_BLOCK: usize = 4;

/// The frozen part of a stack on a GPU.
pub struct Stack {
    weights: Vec<Frozen>,
    /// [ΣN] in 16 bits; zero where a projection has none.
    bias: Option<CudaSlice<u16>>,
    /// Where the parts of quantized weights lie, for the kernels of few rows.
    parts: Option<CudaSlice<u64>>,
    /// The quantized weights in 16 bits besides, where memory is left for that.
    wide: Option<CudaSlice<u16>>,
    /// The adapters in 16 bits, and the version of the parameters that they are a copy of.
    narrow: Mutex<Option<(u64, Arc<Adapters16>)>>,
}

impl Stack {
    pub(super) fn new(gpu: &Arc<Gpu>, projections: &[Projection]) -> Result<Self> {
        let weights =
            projections.iter().map(|p| Frozen::upload(gpu, &p.weight)).collect::<Result<Vec<_>>>()?;
        let mut bias = None;
        if projections.iter().any(|projection| projection.bias.is_some()) {
            let values = projections.iter().flat_map(|projection| {
                let n = projection.weight.shape()[0];
                let zeros = || vec![0.0; n];
                projection.bias.clone().unwrap_or_else(zeros)
            });
            bias = Some(gpu.upload(&values.map(|value| gpu.float16().bits(value)).collect::<Vec<_>>())?);
        }
        let mut stack = Self { weights, bias, parts: None, wide: None, narrow: Mutex::default() };
        if stack.is_quantized() {
            gpu.reserve_widened(stack.len())?;
            let parts = stack.columns().map(|(columns, weight)| weight.part(columns.start));
            stack.parts = Some(gpu.upload(&parts.collect::<Result<Vec<_>>>()?.concat())?);
        }
        Ok(stack)
    }

    /// Bytes that [`Stack::new`] takes, without the room to widen into.
    pub(super) fn bytes(spec: &LinearSpec) -> u64 {
        let mut bytes = spec.weights.iter().map(Frozen::bytes).sum();
        if spec.has_bias {
            bytes += buffer_bytes::<u16>(spec.outputs());
        }
        if spec.is_quantized() {
            bytes += buffer_bytes::<u64>(PART * spec.weights.len());
        }
        bytes
    }

    fn is_quantized(&self) -> bool {
        self.weights.iter().all(Frozen::is_quantized)
    }

    /// A weight that is alone and not quantized.
    pub(super) fn dense(&self) -> Option<&GpuTensor> {
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

    /// Copies the adapters where that has not been done.
    pub(super) fn prepare(&self, linear: &Linear, parameters: &GpuVector) -> Result<()> {
        self.narrow(linear, parameters).map(drop)
    }

    /// The adapters in 16 bits, which are copied anew where the parameters have changed.
    fn narrow(&self, linear: &Linear, parameters: &GpuVector) -> Result<Arc<Adapters16>> {
        let mut kept = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((version, narrow)) if *version == parameters.version() => Ok(Arc::clone(narrow)),
            _ => {
                let narrow = Arc::new(Adapters16::new(linear, parameters)?);
                *kept = Some((parameters.version(), Arc::clone(&narrow)));
                Ok(narrow)
            }
        }
    }

    /// y [T, ΣN] from x [T, K] and the bias, plus a matrix like y at `added`, which may be y itself.
    fn multiply(&self, y: &GpuTensor, x: &GpuTensor, added: Option<u64>) -> Result<()> {
        let (t, k) = (x.shape()[0], x.shape()[1]);
        if let Some(parts) = self.parts.as_ref().filter(|_| t <= FEW_ROWS && k.is_multiple_of(32)) {
            return self.multiply_rows(y, x, parts, added);
        }
        let bias = self.bias.as_ref().map(address);
        self.multiply_widened(y.address(), Precision::Float16, x, added, bias)
    }

    /// y [T, ΣN] = x [T, K]·Wᵀ in `precision` at `out`, plus a matrix like y at `added` and a 16-bit bias.
    fn multiply_widened(
        &self,
        out: u64,
        precision: Precision,
        x: &GpuTensor,
        added: Option<u64>,
        bias: Option<u64>,
    ) -> Result<()> {
        let (t, k) = (x.shape()[0], x.shape()[1]);
        let n = self.weights.iter().map(Frozen::rows).sum();
        self.widened(x.gpu(), |columns, weights| {
            let offset = precision.bytes() * columns.start as u64;
            x.gpu().product(&Product {
                shape: [t, columns.len(), k],
                a: Factor::new(x.address(), k),
                b: Factor::new(weights, k).t(),
                out: out + offset,
                out_stride: n,
                precision,
                alpha: 1.0,
                added: added.map(|added| added + offset),
                bias: bias.map(|bias| bias + 2 * columns.start as u64),
            })
        })
    }

    /// [`Stack::multiply`] for few rows of any number, the weights as they are.
    fn multiply_rows(
        &self,
        y: &GpuTensor,
        x: &GpuTensor,
        parts: &CudaSlice<u64>,
        added: Option<u64>,
    ) -> Result<()> {
        let (tokens, k, n) = (x.shape()[0], x.shape()[1], y.shape()[1]);
        let largest = self.weights.iter().map(Frozen::rows).max().unwrap_or(0);
        let bias = Argument::address(self.bias.as_ref().map(address));
        let mut token = 0;
        while token < tokens {
            // Rows of x, rows of the weight that a warp takes, and the kernel that does.
            let (rows, by_warp, kernel) = match tokens - token {
                1 => (1, 2, "quantized_rows_1"),
                2 | 3 => (2, 1, "quantized_rows_2"),
                4..=7 => (4, 1, "quantized_rows_4"),
                _ => (8, 1, "quantized_rows_8"),
            };
            let [y_stride, x_stride] = [n, k].map(|size| Argument::from(size as i32));
            let offset = 2 * (token * n) as u64;
            let out = (y.address() + offset).into();
            let added = Argument::address(added.map(|added| added + offset));
            let from = (x.address() + 2 * (token * k) as u64).into();
            let arguments = [out, y_stride, added, from, x_stride, parts.into(), bias, x_stride];
            let blocks = (largest.div_ceil(WARPS_OF_BLOCK * by_warp), self.weights.len(), 1);
            let grid = Grid { blocks, threads: 32 * WARPS_OF_BLOCK, shared: 0 };
            x.gpu().launch(&SOURCE, kernel, grid, &arguments)?;
            token += rows;
        }
        Ok(())
    }

    /// Gives `multiply` the weights one behind the other as 16-bit [N, K]: all at once where they are
    /// quantized, else each as it lies. Also the columns of y that they make.
    fn widened(&self, gpu: &Gpu, mut multiply: impl FnMut(Range<usize>, u64) -> Result<()>) -> Result<()> {
        if !self.is_quantized() {
            return self
                .columns()
                .try_for_each(|(columns, weight)| multiply(columns, weight.dense_address()?));
        }
        let n = self.weights.iter().map(Frozen::rows).sum::<usize>();
        if let Some(wide) = &self.wide {
            return multiply(0..n, address(wide));
        }
        gpu.widened(
            self.len(),
            |stream, scratch| self.widen(gpu, stream, scratch),
            |scratch| multiply(0..n, address(scratch)),
        )
    }

    /// Widens all weights into `out`, one behind the other.
    fn widen(&self, gpu: &Gpu, stream: &CudaStream, out: &CudaSlice<u16>) -> Result<()> {
        self.columns().try_for_each(|(columns, weight)| {
            weight.dequantize(gpu, stream, address(out) + 2 * (columns.start * weight.columns()) as u64)
        })
    }

    /// Numbers of all weights.
    fn len(&self) -> usize {
        self.weights.iter().map(|weight| weight.rows() * weight.columns()).sum()
    }

    /// Widens quantized weights for good, where that takes no more than `budget` bytes; returns the bytes.
    pub(super) fn cache_dequantized(&mut self, gpu: &Gpu, budget: u64) -> Result<u64> {
        let bytes = dequantized_bytes(self.len());
        if !self.is_quantized() || self.wide.is_some() || bytes > budget {
            return Ok(0);
        }
        let wide = gpu.allocate(self.len())?;
        self.widen(gpu, gpu.stream(), &wide)?;
        self.wide = Some(wide);
        Ok(bytes)
    }
}

/// Bytes that [`Stack::cache_dequantized`] takes for weights of `len` numbers.
pub(super) fn dequantized_bytes(len: usize) -> u64 {
    buffer_bytes::<u16>(len)
}

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
    let stack = stack(linear)?;
    let y = GpuTensor::new(x.gpu(), &[x.shape()[0], linear.outputs])?;
    let Some(parameters) = parameters else {
        stack.multiply(&y, x, residual.map(GpuTensor::address))?;
        return Ok((y, None));
    };
    // The adapters' part is written first: the product then adds to it what is rounded once. A residual
    // comes last: in 16 bits, what adapters add to it would mostly be rounded away.
    let narrow = stack.narrow(linear, parameters.values.gpu()?)?;
    let lora_hidden = narrow.lora_hidden(x, linear, parameters.dropout)?;
    narrow.write_outputs(&y, &lora_hidden)?;
    stack.multiply(&y, x, Some(y.address()))?;
    let y = residual.map_or(Ok(y.clone()), |residual| residual.add(&y))?;
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
    let mut narrow = None;
    if linear.has_adapter() && t > 0 {
        narrow = Some(stack(linear)?.narrow(linear, parameters.values.gpu()?)?);
    }
    let d_lora_hidden = narrow.as_ref().map(|narrow| narrow.backward(dy)).transpose()?;
    if !needs_dx {
        return Ok((None, d_lora_hidden));
    }
    let dx = GpuTensor::new(dy.gpu(), &[t, linear.inputs])?;
    let mut write = Write::Overwrite;
    if let (Some(narrow), Some(d_lora_hidden)) = (&narrow, &d_lora_hidden) {
        narrow.write_inputs(&dx, d_lora_hidden, linear, parameters.dropout)?;
        write = Write::Add;
    }
    multiply_transposed(&dx, dy, linear, write)?;
    Ok((Some(dx), d_lora_hidden))
}

/// Adds the gradients of A and B to `gradients`; x·Aᵀ is computed where it is not given.
pub(super) fn adapter_gradients(
    dy: (&GpuTensor, &GpuTensor),
    (x, lora_hidden): (&GpuTensor, Option<&GpuTensor>),
    linear: &Linear,
    parameters: Parameters,
    gradients: &GpuVector,
) -> Result<()> {
    match lora_hidden {
        Some(lora_hidden) => lora::gradients(dy, (x, lora_hidden), linear, parameters.dropout, gradients),
        None => {
            let narrow = stack(linear)?.narrow(linear, parameters.values.gpu()?)?;
            let lora_hidden = narrow.lora_hidden(x, linear, parameters.dropout)?;
            lora::gradients(dy, (x, &lora_hidden), linear, parameters.dropout, gradients)
        }
    }
}

/// dx [T, K] = dy [T, ΣN]·W, or added to what dx holds.
pub(in crate::kernels) fn multiply_transposed(
    dx: &GpuTensor,
    dy: &GpuTensor,
    linear: &Linear,
    mut write: Write,
) -> Result<()> {
    let (t, k, n) = (dy.shape()[0], linear.inputs, linear.outputs);
    stack(linear)?.widened(dx.gpu(), |columns, weights| {
        let product = Product {
            shape: [t, k, columns.len()],
            a: Factor::new(dy.address() + 2 * columns.start as u64, n),
            b: Factor::new(weights, k),
            out: dx.address(),
            out_stride: k,
            precision: Precision::Float16,
            alpha: 1.0,
            added: (write == Write::Add).then(|| dx.address()),
            bias: None,
        };
        write = Write::Add;
        dx.gpu().product(&product)
    })
}

/// y [T, ΣN] = x [T, K]·Wᵀ in `precision`, at `out`.
pub(in crate::kernels) fn multiply(
    out: u64,
    precision: Precision,
    x: &GpuTensor,
    linear: &Linear,
) -> Result<()> {
    stack(linear)?.multiply_widened(out, precision, x, None, None)
}

/// y [T, ΣN] in f32 on the host.
pub(super) fn project(x: &GpuTensor, linear: &Linear) -> Result<Vec<f32>> {
    let len = x.shape()[0] * linear.outputs;
    let y = x.gpu().allocate::<f32>(len)?;
    multiply(address(&y), Precision::F32, x, linear)?;
    x.gpu().download(&y, len)
}

impl From<&GpuVector> for Argument {
    fn from(vector: &GpuVector) -> Self {
        vector.address().into()
    }
}
