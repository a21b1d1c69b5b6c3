//! Dropout on a GPU: a thread takes eight columns of a row, whose mask is two counters' numbers.

use super::Dropout;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::kernels::Write;
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("dropout", include_str!("dropout.cu"));

const THREADS: usize = 128;

/// mask·x / (1 − p) in a tensor of its own.
pub(in crate::kernels) fn forward(x: &GpuTensor, dropout: &Dropout) -> Result<GpuTensor> {
    let mut y = GpuTensor::new(x.gpu(), x.shape())?;
    apply(&mut y, x, dropout, Write::Overwrite)?;
    Ok(y)
}

/// Writes mask·x / (1 − p) to y.
pub(in crate::kernels) fn apply(
    y: &mut GpuTensor,
    x: &GpuTensor,
    dropout: &Dropout,
    write: Write,
) -> Result<()> {
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
    let ends = [dropout.scale().into(), i32::from(write == Write::Add).into()];
    let blocks = (columns / 8).div_ceil(THREADS);
    let sizes = Argument::ints([columns, blocks])?;
    let matrices = [y.view_mut()?.into(), x.view()?.into()];
    let arguments = [&matrices[..], &sizes, &words.map(Argument::from), &ends].concat();
    // SAFETY: `dropout(y [T, C], x [T, C], C, blocks of a row, six words, scale, adds)` with the blocks of T rows;
    // C is a multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "dropout", Grid::new(rows * blocks, THREADS), &arguments)
    }
}
