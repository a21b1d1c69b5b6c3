//! Products on the host through candle's gemm crate.

use super::{Matrix, MatrixMut};
use crate::kernels::Write;

/// How many cores a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The caller runs products in parallel itself.
    One,
    /// All of rayon's threads.
    All,
}

/// Writes `scale · a · b` to `out`, for a [m, k], b [k, n], out [m, n].
#[allow(unsafe_code)]
pub fn product(out: MatrixMut<'_>, write: Write, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
    assert_eq!((a.rows, b.columns, a.columns), (out.rows, out.columns, b.rows), "product shapes");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the views' constructors have checked that every element (row < rows, column <
    // columns) lies inside its slice and that rows of `out` do not overlap each other, `out` is
    // borrowed mutably and so overlaps neither input, and the shapes agree by the assertion above.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.values.as_mut_ptr(),
            1,
            out.row_stride as isize,
            write == Write::Add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_transposed_and_accumulated() {
        // a = [[1, 2], [3, 4]] inside rows of three, b = a transposed.
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let view = Matrix::with_stride(&a, 2, 2, 3);
        let mut out = [f32::NAN; 4];
        product(MatrixMut::new(&mut out, 2, 2), Write::Overwrite, 2.0, view, view.t(), Threads::One);
        assert_eq!(out, [10.0, 22.0, 22.0, 50.0]);
        product(MatrixMut::new(&mut out, 2, 2), Write::Add, 1.0, view, view, Threads::All);
        assert_eq!(out, [17.0, 32.0, 37.0, 72.0]);
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn a_view_beyond_its_slice_is_refused() {
        Matrix::with_stride(&[0.0; 5], 2, 2, 4);
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn a_size_that_overflows_is_refused() {
        Matrix::with_stride(&[0.0; 5], usize::MAX / 2 + 2, 1, 2);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn rows_that_overlap_are_not_written() {
        MatrixMut::with_stride(&mut [0.0; 5], 2, 3, 2);
    }

    #[test]
    fn rows_that_overlap_are_read() {
        let values = [1.0, 2.0, 3.0];
        let mut out = [0.0; 4];
        let view = Matrix::with_stride(&values, 2, 2, 1);
        product(MatrixMut::new(&mut out, 2, 2), Write::Overwrite, 1.0, view, view, Threads::One);
        assert_eq!(out, [5.0, 8.0, 8.0, 13.0]);
    }

    #[test]
    fn one_row_needs_no_stride() {
        MatrixMut::with_stride(&mut [0.0; 3], 1, 3, 0);
    }
}
