//! Matrix products of host matrices with any strides: the one door to the gemm crate.

mod cpu;

pub use cpu::{Threads, accumulate, product};

/// A read-only matrix view.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A matrix view to write.
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A contiguous row-major matrix [rows, columns].
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::with_stride(values, rows, columns, columns)
    }

    /// A matrix whose rows begin `row_stride` values apart.
    pub fn with_stride(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        check(values.len(), rows, columns, row_stride);
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed view [columns, rows].
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// A contiguous row-major matrix [rows, columns].
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::with_stride(values, rows, columns, columns)
    }

    /// A matrix whose rows begin `row_stride` values apart.
    pub fn with_stride(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        check(values.len(), rows, columns, row_stride);
        Self { values, rows, columns, row_stride }
    }
}

/// The one precondition that makes the raw product sound: every element lies inside the slice.
fn check(len: usize, rows: usize, columns: usize, row_stride: usize) {
    let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns };
    assert!(end <= len && columns <= row_stride.max(columns), "matrix {rows}x{columns} exceeds {len} values");
}
