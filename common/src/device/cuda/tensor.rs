//! A tensor on a GPU: 16-bit numbers, row-major and contiguous.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::{Argument, Gpu, Grid, KernelSource, address};
use crate::{Result, error};

pub(crate) static SOURCE: KernelSource = KernelSource::new("tensor", include_str!("tensor.cu"));

/// Values of a tensor, which other tensors may share: nobody writes to them then.
#[derive(Debug, Clone)]
pub struct GpuTensor {
    gpu: Arc<Gpu>,
    values: Arc<CudaSlice<u16>>,
    /// Where the values begin in the buffer.
    start: usize,
    shape: Vec<usize>,
}

impl GpuTensor {
    /// A tensor of arbitrary values, for a kernel to write.
    pub fn new(gpu: &Arc<Gpu>, shape: &[usize]) -> Result<Self> {
        let values = Arc::new(gpu.allocate(shape.iter().product())?);
        Ok(Self { gpu: Arc::clone(gpu), values, start: 0, shape: shape.to_vec() })
    }

    /// A tensor of zeros.
    pub fn zeros(gpu: &Arc<Gpu>, shape: &[usize]) -> Result<Self> {
        let values = Arc::new(gpu.zeros(shape.iter().product())?);
        Ok(Self { gpu: Arc::clone(gpu), values, start: 0, shape: shape.to_vec() })
    }

    /// A tensor of the values that these bits stand for, in the GPU's number type.
    pub fn from_bits(gpu: &Arc<Gpu>, values: &[u16], shape: &[usize]) -> Result<Self> {
        if values.len() != shape.iter().product::<usize>() {
            return Err(error!(Bug, "a tensor of shape {shape:?} from {} values", values.len()));
        }
        let values = Arc::new(gpu.upload(values)?);
        Ok(Self { gpu: Arc::clone(gpu), values, start: 0, shape: shape.to_vec() })
    }

    /// A tensor of the values that `fill` writes into memory that the GPU copies from by itself.
    pub fn from_staging(
        gpu: &Arc<Gpu>,
        shape: &[usize],
        fill: impl FnOnce(&mut [u16]) -> Result<()>,
    ) -> Result<Self> {
        let values = Arc::new(gpu.upload_staged(shape.iter().product(), fill)?);
        Ok(Self { gpu: Arc::clone(gpu), values, start: 0, shape: shape.to_vec() })
    }

    /// Where an elementwise kernel that has read this tensor writes its result: over it, unless somebody
    /// shares its values.
    pub fn successor(&self) -> Result<Self> {
        match Arc::strong_count(&self.values) {
            1 => Ok(self.clone()),
            _ => Self::new(&self.gpu, &self.shape),
        }
    }

    /// Where it lives.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address of the first value.
    pub fn address(&self) -> u64 {
        address(&self.values) + 2 * self.start as u64
    }

    /// The same values under another shape of as many.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(error!(Bug, "shape {:?} cannot become {shape:?}", self.shape));
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Rows of a matrix [T, C], shared and not copied.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        match *self.shape {
            [t, c] if rows.start <= rows.end && rows.end <= t => {
                Ok(Self { start: self.start + rows.start * c, shape: vec![rows.len(), c], ..self.clone() })
            }
            _ => Err(error!(Bug, "rows {rows:?} of a tensor of shape {:?}", self.shape)),
        }
    }

    /// The values in f32, on the host.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let len = self.len();
        let wide = self.gpu.allocate::<f32>(len)?;
        let grid = Grid::cover(len, 256);
        self.gpu.launch(&SOURCE, "widen", grid, &[(&wide).into(), self.into(), (len as i64).into()])?;
        self.gpu.download(&wide, len)
    }

    /// Elementwise sum of two tensors of one shape.
    pub fn add(&self, other: &Self) -> Result<Self> {
        if self.shape != other.shape {
            return Err(error!(Bug, "add: shape {:?} expected, found {:?}", self.shape, other.shape));
        }
        let sum = Self::new(&self.gpu, &self.shape)?;
        let grid = Grid::cover(self.len().div_ceil(8), 256);
        let arguments = [(&sum).into(), self.into(), other.into(), (self.len() as i64).into()];
        self.gpu.launch(&SOURCE, "add", grid, &arguments)?;
        Ok(sum)
    }

    /// Rows `indices` of a matrix [T, C], in that order.
    pub fn gather_rows(&self, indices: &[u32]) -> Result<Self> {
        let (t, c) = self.matrix_of(indices)?;
        if let Some(index) = indices.iter().find(|&&index| index as usize >= t) {
            return Err(error!(Bug, "gather_rows: row {index} of {t}"));
        }
        let rows = Self::new(&self.gpu, &[indices.len(), c])?;
        self.copy_rows("gather_rows", &rows, self, indices, c)?;
        Ok(rows)
    }

    /// A zero matrix [rows, C] with our rows put at `indices`, which must differ.
    pub fn scatter_rows(&self, indices: &[u32], rows: usize) -> Result<Self> {
        let (n, c) = self.matrix_of(indices)?;
        if n != indices.len() || indices.iter().any(|&index| index as usize >= rows) {
            return Err(error!(Bug, "scatter_rows: {n} rows do not go to {} of {rows}", indices.len()));
        }
        let whole = Self::zeros(&self.gpu, &[rows, c])?;
        self.copy_rows("scatter_rows", &whole, self, indices, c)?;
        Ok(whole)
    }

    fn copy_rows(
        &self,
        kernel: &'static str,
        to: &Self,
        from: &Self,
        indices: &[u32],
        c: usize,
    ) -> Result<()> {
        let places = self.gpu.upload(indices)?;
        let arguments = [to.into(), from.into(), (&places).into(), (c as i32).into()];
        self.gpu.launch(&SOURCE, kernel, Grid::new(indices.len(), 256), &arguments)
    }

    fn matrix_of(&self, indices: &[u32]) -> Result<(usize, usize)> {
        match *self.shape {
            [t, c] => Ok((t, c)),
            _ => Err(error!(Bug, "{} rows of a tensor of shape {:?}", indices.len(), self.shape)),
        }
    }
}

impl From<&GpuTensor> for Argument {
    fn from(tensor: &GpuTensor) -> Self {
        tensor.address().into()
    }
}
