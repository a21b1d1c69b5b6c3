//! A row of f32 values on a GPU that stays in one place.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::{Buffer, Gpu, View, ViewMut};
use crate::{Result, error};

/// A row of f32 values on a GPU.
#[derive(Debug)]
pub struct GpuVector {
    gpu: Arc<Gpu>,
    values: Buffer<f32>,
    len: usize,
}

impl GpuVector {
    /// Arbitrary values, for a kernel to write.
    pub(crate) fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Self::of(gpu, gpu.allocate(len)?, len))
    }

    /// Zeros.
    pub(crate) fn zeros(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Self::of(gpu, gpu.zeros(len)?, len))
    }

    /// Copies values of the host.
    pub(crate) fn from_host(gpu: &Arc<Gpu>, values: &[f32]) -> Result<Self> {
        Ok(Self::of(gpu, gpu.upload(values)?, values.len()))
    }

    fn of(gpu: &Arc<Gpu>, values: CudaSlice<f32>, len: usize) -> Self {
        Self { gpu: Arc::clone(gpu), values: Buffer::Own(values), len }
    }

    /// Moves the values to unified memory.
    pub(crate) fn paged(self) -> Result<Self> {
        let values = self.gpu.unified(&self.to_vec()?)?;
        Ok(Self { values, ..self })
    }

    /// Brings values in unified memory to the GPU.
    pub(crate) fn prefetch(&self) -> Result<()> {
        self.values.prefetch()
    }

    /// The GPU that holds the values.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A copy of the values on the host.
    pub(crate) fn to_vec(&self) -> Result<Vec<f32>> {
        self.gpu.read(&self.values, self.len)
    }

    /// Overwrites all values with zeros.
    pub(crate) fn fill_zero(&mut self) -> Result<()> {
        match &mut self.values {
            Buffer::Own(values) => self.gpu.fill_zero(values),
            Buffer::Unified { .. } => Err(error!(Bug, "zeros in unified memory")),
        }
    }

    /// The values in `range`, as a row to read.
    pub(crate) fn view(&self, range: Range<usize>) -> Result<View<'_, f32>> {
        self.values.view().columns(0..self.len)?.columns(range)
    }

    /// The values in `range`, as a row to write.
    pub(crate) fn view_mut(&mut self, range: Range<usize>) -> Result<ViewMut<'_, f32>> {
        self.values.view_mut().columns(0..self.len)?.columns(range)
    }
}
