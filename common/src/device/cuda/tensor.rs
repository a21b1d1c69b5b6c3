//! A tensor on a GPU: 16-bit numbers, row-major and contiguous.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::{Argument, Gpu, Grid, KernelSource, View, ViewMut};
use crate::{Result, error};

pub(crate) static SOURCE: KernelSource = KernelSource::new("tensor", include_str!("tensor.cu"));

/// A tensor of 16-bit numbers in a reference-counted buffer, which clones share. It must have one owner while a
/// kernel writes to it.
#[derive(Debug, Clone)]
pub struct GpuTensor {
    gpu: Arc<Gpu>,
    values: Arc<CudaSlice<u16>>,
    shape: Vec<usize>,
}

impl GpuTensor {
    /// A tensor of arbitrary values, for a kernel to write.
    pub(crate) fn new(gpu: &Arc<Gpu>, shape: &[usize]) -> Result<Self> {
        Ok(Self::of(gpu, gpu.allocate(shape.iter().product())?, shape))
    }

    /// A tensor of zeros.
    pub(crate) fn zeros(gpu: &Arc<Gpu>, shape: &[usize]) -> Result<Self> {
        Ok(Self::of(gpu, gpu.zeros(shape.iter().product())?, shape))
    }

    /// A tensor of the values that these bits stand for, in the GPU's number type.
    pub(crate) fn from_bits(gpu: &Arc<Gpu>, values: &[u16], shape: &[usize]) -> Result<Self> {
        if values.len() != shape.iter().product::<usize>() {
            return Err(error!(Bug, "a tensor of shape {shape:?} from {} values", values.len()));
        }
        Ok(Self::of(gpu, gpu.upload(values)?, shape))
    }

    /// A tensor of the values that `fill` writes into memory that the GPU copies from by itself.
    pub(crate) fn from_staging(
        gpu: &Arc<Gpu>,
        shape: &[usize],
        fill: impl FnOnce(&mut [u16]) -> Result<()>,
    ) -> Result<Self> {
        Ok(Self::of(gpu, gpu.upload_staged(shape.iter().product(), fill)?, shape))
    }

    fn of(gpu: &Arc<Gpu>, values: CudaSlice<u16>, shape: &[usize]) -> Self {
        Self { gpu: Arc::clone(gpu), values: Arc::new(values), shape: shape.to_vec() }
    }

    /// The tensor that an elementwise kernel writes its result to, and the one that it reads: the same, `None`,
    /// where nothing else shares the values.
    pub(crate) fn overwritten(self) -> Result<(Self, Option<Self>)> {
        match Arc::strong_count(&self.values) {
            1 => Ok((self, None)),
            _ => Ok((Self::new(&self.gpu, &self.shape)?, Some(self))),
        }
    }

    /// The GPU that holds the values.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The extents, outermost first.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns, where all extents but the last are counted as rows.
    fn rows_and_columns(&self) -> [usize; 2] {
        let columns = self.shape.last().copied().unwrap_or(1);
        [self.shape[..self.shape.len().saturating_sub(1)].iter().product(), columns]
    }

    /// The values to read, as a matrix; all extents but the last are counted as rows.
    pub(crate) fn view(&self) -> Result<View<'_, u16>> {
        let [rows, columns] = self.rows_and_columns();
        View::from(&*self.values).columns(0..rows * columns)?.matrix(rows, columns)
    }

    /// The values to write, as [`GpuTensor::view`] has them. Fails where another tensor shares them.
    pub(crate) fn view_mut(&mut self) -> Result<ViewMut<'_, u16>> {
        let [rows, columns] = self.rows_and_columns();
        let values = Arc::get_mut(&mut self.values)
            .ok_or_else(|| error!(Bug, "a tensor that is written and shared with another"))?;
        ViewMut::from(values).columns(0..rows * columns)?.matrix(rows, columns)
    }

    /// A copy of some rows of a matrix.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let from = self.view()?.rows(rows)?;
        let mut copy = Self::new(&self.gpu, &from.shape())?;
        self.gpu.copy(from, copy.view_mut()?)?;
        Ok(copy)
    }

    /// Overwrites the rows of a matrix from `first` on with those of another.
    pub(crate) fn write_rows(&mut self, first: usize, from: &Self) -> Result<()> {
        let from = from.view()?;
        let gpu = Arc::clone(&self.gpu);
        gpu.copy(from, self.view_mut()?.rows(first..first + from.shape()[0])?)
    }

    /// The values in f32, on the host.
    pub(crate) fn to_vec(&self) -> Result<Vec<f32>> {
        let len = self.len();
        let mut values = self.gpu.allocate::<f32>(len)?;
        let arguments = [(&mut values).into(), self.view()?.into(), Argument::int64(len)];
        // SAFETY: `cast_to_f32(y [len], x [len], len)`; both buffers hold `len` numbers.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(&SOURCE, "cast_to_f32", Grid::cover(len, 256), &arguments)?
        };
        self.gpu.download(&values, len)
    }

    /// Elementwise sum of two tensors of one shape.
    pub(crate) fn add(&self, other: &Self) -> Result<Self> {
        if self.shape != other.shape {
            return Err(error!(Bug, "add: shape {:?} expected, found {:?}", self.shape, other.shape));
        }
        let mut sum = Self::new(&self.gpu, &self.shape)?;
        let (len, grid) = (Argument::int64(self.len()), Grid::cover(self.len().div_ceil(8), 256));
        let arguments = [sum.view_mut()?.into(), self.view()?.into(), other.view()?.into(), len];
        // SAFETY: `add(y [len], a [len], b [len], len)`; the three tensors have one shape.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(&SOURCE, "add", grid, &arguments)?
        };
        Ok(sum)
    }

    /// Every element times `factor`.
    pub(crate) fn scale(&self, factor: f32) -> Result<Self> {
        let mut scaled = Self::new(&self.gpu, &self.shape)?;
        let (len, grid) = (Argument::int64(self.len()), Grid::cover(self.len().div_ceil(8), 256));
        let arguments = [scaled.view_mut()?.into(), self.view()?.into(), factor.into(), len];
        // SAFETY: `scale(y [len], x [len], factor, len)`; both tensors have one shape.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(&SOURCE, "scale", grid, &arguments)?
        };
        Ok(scaled)
    }

    /// Rows `indices` of a matrix [T, C], in that order.
    pub(crate) fn gather_rows(&self, indices: &[u32]) -> Result<Self> {
        let (t, c) = self.matrix_of(indices)?;
        if let Some(index) = indices.iter().find(|&&index| index as usize >= t) {
            return Err(error!(Bug, "gather_rows: row {index} of {t}"));
        }
        let mut rows = Self::new(&self.gpu, &[indices.len(), c])?;
        let places = self.gpu.upload(indices)?;
        let arguments = [rows.view_mut()?.into(), self.view()?.into(), (&places).into(), Argument::int(c)?];
        // SAFETY: `gather_rows(y [n, C], x [T, C], indices [n], C)` with a block for each of the n indices, all
        // of which are below T.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(&SOURCE, "gather_rows", Grid::new(indices.len(), 256), &arguments)?
        };
        Ok(rows)
    }

    /// A zero matrix [rows, C] with our rows put at `indices`, which must differ.
    pub(crate) fn scatter_rows(&self, indices: &[u32], rows: usize) -> Result<Self> {
        let (n, c) = self.matrix_of(indices)?;
        if n != indices.len() || !are_distinct(indices, rows) {
            return Err(error!(
                Bug,
                "scatter_rows: {n} rows do not go to {} different ones of {rows}",
                indices.len()
            ));
        }
        let mut whole = Self::zeros(&self.gpu, &[rows, c])?;
        let places = self.gpu.upload(indices)?;
        let arguments = [whole.view_mut()?.into(), self.view()?.into(), (&places).into(), Argument::int(c)?];
        // SAFETY: `scatter_rows(y [rows, C], x [n, C], indices [n], C)` with a block for each of the n indices,
        // which differ and are below `rows`.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(&SOURCE, "scatter_rows", Grid::new(n, 256), &arguments)?
        };
        Ok(whole)
    }

    fn matrix_of(&self, indices: &[u32]) -> Result<(usize, usize)> {
        match *self.shape {
            [t, c] => Ok((t, c)),
            _ => Err(error!(Bug, "{} rows of a tensor of shape {:?}", indices.len(), self.shape)),
        }
    }
}

/// Whether all indices are below `rows` and no two are the same.
fn are_distinct(indices: &[u32], rows: usize) -> bool {
    let mut taken = vec![false; rows];
    let mut is_free =
        |index: u32| taken.get_mut(index as usize).is_some_and(|taken| !std::mem::replace(taken, true));
    indices.iter().all(|&index| is_free(index))
}

#[cfg(test)]
mod tests {
    use super::are_distinct;

    #[test]
    fn rows_go_to_different_places() {
        assert!(are_distinct(&[3, 0, 2], 4) && are_distinct(&[], 0));
        assert!(!are_distinct(&[3, 0, 4], 4), "after the last");
        assert!(!are_distinct(&[3, 0, 3], 4), "two blocks would write one row");
    }
}
