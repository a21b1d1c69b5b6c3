//! Matrix products of host matrices with any strides: the one door to the gemm crate.

mod cpu;

pub use cpu::{Threads, product};

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
        expect_inside(values.len(), rows, columns, row_stride);
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

    /// A matrix whose rows begin `row_stride` values apart and do not overlap: threads write them at the
    /// same time.
    pub fn with_stride(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        expect_inside(values.len(), rows, columns, row_stride);
        assert!(rows <= 1 || columns <= row_stride, "rows of {columns} overlap every {row_stride} values");
        Self { values, rows, columns, row_stride }
    }
}

/// What makes the raw product sound, besides that rows which are written do not overlap: every element
/// lies inside the slice.
fn expect_inside(len: usize, rows: usize, columns: usize, row_stride: usize) {
    let end = match rows.min(columns) {
        0 => Some(0),
        _ => (rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(columns)),
    };
    assert!(
        end.is_some_and(|end| end <= len),
        "matrix {rows}x{columns} with rows every {row_stride} exceeds {len} values"
    );
}
