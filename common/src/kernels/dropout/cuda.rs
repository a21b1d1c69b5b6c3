//! Dropout on a GPU: a thread takes eight columns of a row, whose mask is two counters' numbers.

use super::Dropout;
use crate::device::cuda::{GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("dropout", include_str!("dropout.cu"));

const THREADS: usize = 128;

pub(in crate::kernels) fn forward(x: &GpuTensor, dropout: &Dropout) -> Result<GpuTensor> {
    let y = GpuTensor::new(x.gpu(), x.shape())?;
    overwrite(&y, x, dropout)?;
    Ok(y)
}

/// Overwrites y with mask·x / (1 − p).
pub(in crate::kernels) fn overwrite(y: &GpuTensor, x: &GpuTensor, dropout: &Dropout) -> Result<()> {
    launch(y, x, dropout, false)
}

/// Adds mask·dy / (1 − p) to dx.
pub(in crate::kernels) fn accumulate(dx: &GpuTensor, dy: &GpuTensor, dropout: &Dropout) -> Result<()> {
    launch(dx, dy, dropout, true)
}

fn launch(y: &GpuTensor, x: &GpuTensor, dropout: &Dropout, adds: bool) -> Result<()> {
    let (rows, columns) = match *x.shape() {
        [rows, columns] if columns % 8 == 0 && y.shape() == x.shape() => (rows, columns),
        ref shape => {
            return Err(error!(
                Bug,
                "dropout on a GPU: two matrices of columns in eights expected, found {shape:?}"
            ));
        }
    };
    let Dropout { draws, .. } = dropout;
    let [low, high] = draws.key();
    let words = [draws.first_row, draws.stream, draws.step, low, high, dropout.threshold()];
    let numbers = words.map(|word| (word as i32).into());
    let ends = [dropout.scale().into(), i32::from(adds).into()];
    let arguments = [&[y.into(), x.into(), (columns as i32).into()], &numbers[..], &ends].concat();
    let grid = Grid { blocks: ((columns / 8).div_ceil(THREADS), rows, 1), threads: THREADS, shared: 0 };
    x.gpu().launch(&SOURCE, "dropout", grid, &arguments)
}
