//! Matrices in a GPU's memory, borrowed: what kernels and products take in place of addresses.
//!
//! A view is made from a whole buffer, tensor or vector, and cut from there by rows and columns, so that
//! every value of it lies inside the buffer that it borrows. Everything runs in the order of the calls, so
//! that a borrow need not last longer than the call that launches the work.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::address;
use crate::{Result, error};

/// Where a matrix of numbers `T` lies: `rows` rows of `columns` numbers, which begin `stride` numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent<T> {
    address: u64,
    rows: usize,
    columns: usize,
    stride: usize,
    stream: StreamId,
    number: PhantomData<T>,
}

/// The stream that a buffer belongs to. Every open GPU has its own, so that buffers of two are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId(usize);

impl StreamId {
    pub(super) fn of(stream: &Arc<CudaStream>) -> Self {
        Self(Arc::as_ptr(stream).addr())
    }
}

impl<T: Copy> Extent<T> {
    /// A row of `len` numbers.
    fn row(address: u64, len: usize, stream: StreamId) -> Self {
        Self { address, rows: 1, columns: len, stride: len, stream, number: PhantomData }
    }

    /// The address of the number at `row` and `column`, which may be one past the end.
    fn address_of(&self, row: usize, column: usize) -> u64 {
        self.address + ((row * self.stride + column) * size_of::<T>()) as u64
    }

    fn rows(self, rows: Range<usize>) -> Result<Self> {
        match rows.start <= rows.end && rows.end <= self.rows {
            true => Ok(Self { address: self.address_of(rows.start, 0), rows: rows.len(), ..self }),
            false => Err(error!(Bug, "rows {rows:?} of a view [{}, {}]", self.rows, self.columns)),
        }
    }

    fn columns(self, columns: Range<usize>) -> Result<Self> {
        match columns.start <= columns.end && columns.end <= self.columns {
            true => Ok(Self { address: self.address_of(0, columns.start), columns: columns.len(), ..self }),
            false => Err(error!(Bug, "columns {columns:?} of a view [{}, {}]", self.rows, self.columns)),
        }
    }

    /// Whether the rows follow each other without gaps.
    fn is_contiguous(&self) -> bool {
        self.rows <= 1 || self.stride == self.columns
    }

    fn matrix(self, rows: usize, columns: usize) -> Result<Self> {
        match self.is_contiguous() && rows.checked_mul(columns) == Some(self.rows * self.columns) {
            true => Ok(Self { rows, columns, stride: columns, ..self }),
            false => Err(error!(
                Bug,
                "a view [{rows}, {columns}] of one [{}, {}] with rows every {} numbers",
                self.rows,
                self.columns,
                self.stride
            )),
        }
    }
}

/// A matrix in a GPU's memory for as long as the borrow `B`: `&[T]` of a matrix to read, `&mut [T]` of one to write. `u16`
/// stands for the 16-bit numbers that the GPU was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Borrowed<T, B> {
    extent: Extent<T>,
    borrow: PhantomData<B>,
}

/// A matrix to read.
pub(crate) type View<'a, T> = Borrowed<T, &'a [T]>;

/// A matrix to write, which nothing else reads or writes meanwhile: as a `&mut`, it cannot be copied.
pub(crate) type ViewMut<'a, T> = Borrowed<T, &'a mut [T]>;

impl<T: Copy, B> Borrowed<T, B> {
    fn of(extent: Extent<T>) -> Self {
        Self { extent, borrow: PhantomData }
    }

    /// The rows in `rows`.
    pub(crate) fn rows(self, rows: Range<usize>) -> Result<Self> {
        self.extent.rows(rows).map(Self::of)
    }

    /// The columns in `columns`.
    pub(crate) fn columns(self, columns: Range<usize>) -> Result<Self> {
        self.extent.columns(columns).map(Self::of)
    }

    /// The same numbers, which follow each other without gaps, as a matrix [rows, columns].
    pub(crate) fn matrix(self, rows: usize, columns: usize) -> Result<Self> {
        self.extent.matrix(rows, columns).map(Self::of)
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.extent.rows, self.extent.columns]
    }

    /// Numbers from the beginning of a row to that of the next.
    pub(crate) fn stride(&self) -> usize {
        self.extent.stride
    }

    /// The address of the first number.
    pub(super) fn address(&self) -> u64 {
        self.extent.address
    }

    /// The stream that the buffer belongs to.
    pub(super) fn stream(&self) -> StreamId {
        self.extent.stream
    }

    /// Fails unless this is a matrix [rows, columns] whose rows follow each other; `what` names it.
    pub(crate) fn expect(&self, what: &str, shape: [usize; 2]) -> Result<()> {
        match self.shape() == shape && self.extent.is_contiguous() {
            true => Ok(()),
            false => Err(error!(
                Bug,
                "{what}: a matrix {shape:?} without gaps expected, found [{}, {}] with rows every {} numbers",
                self.extent.rows,
                self.extent.columns,
                self.extent.stride
            )),
        }
    }
}

impl<T: Copy> View<'_, T> {
    /// A row of the `len` numbers at `address`.
    ///
    /// # Safety
    /// The numbers are in the GPU's memory for as long as the borrow, and nothing writes to them meanwhile.
    #[allow(unsafe_code)]
    pub(super) unsafe fn at(address: u64, len: usize, stream: StreamId) -> Self {
        Self::of(Extent::row(address, len, stream))
    }
}

impl<T: Copy> ViewMut<'_, T> {
    /// A row of the `len` numbers at `address`.
    ///
    /// # Safety
    /// The numbers are in the GPU's memory for as long as the borrow, and nothing else reads or writes them meanwhile.
    #[allow(unsafe_code)]
    pub(super) unsafe fn at(address: u64, len: usize, stream: StreamId) -> Self {
        Self::of(Extent::row(address, len, stream))
    }

    /// The same view, for a part of the time.
    pub(crate) fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut::of(self.extent)
    }
}

impl<'a, T: Copy> From<&'a CudaSlice<T>> for View<'a, T> {
    /// A row of all numbers of a buffer.
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self::of(Extent::row(address(slice), slice.len(), StreamId::of(slice.stream())))
    }
}

impl<'a, T: Copy> From<&'a mut CudaSlice<T>> for ViewMut<'a, T> {
    /// A row of all numbers of a buffer.
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Self::of(Extent::row(address(slice), slice.len(), StreamId::of(slice.stream())))
    }
}

/// Views of memory that is not there, for tests of what is checked before a launch.
#[cfg(test)]
pub(super) mod unreal {
    use super::{Extent, StreamId, View, ViewMut};

    /// A matrix [rows, columns] whose first number is at `address`.
    pub(crate) fn view<T: Copy>(address: u64, rows: usize, columns: usize) -> View<'static, T> {
        of_stream(address, rows, columns, 0)
    }

    /// A matrix [rows, columns] to read, in a buffer of the stream with this number.
    pub(crate) fn of_stream<T: Copy>(
        address: u64,
        rows: usize,
        columns: usize,
        stream: usize,
    ) -> View<'static, T> {
        View::of(Extent::row(address, rows * columns, StreamId(stream)).matrix(rows, columns).unwrap())
    }

    /// A matrix [rows, columns] to write, whose first number is at `address`.
    pub(crate) fn view_mut<T: Copy>(address: u64, rows: usize, columns: usize) -> ViewMut<'static, T> {
        ViewMut::of(Extent::row(address, rows * columns, StreamId(0)).matrix(rows, columns).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::unreal::{view, view_mut};

    #[test]
    fn parts_are_where_their_first_number_is() {
        let of_16_bits = view::<u16>(1000, 5, 8);
        let part = of_16_bits.rows(2..4).unwrap().columns(3..7).unwrap();
        assert_eq!((part.address(), part.shape(), part.stride()), (1000 + 2 * (2 * 8 + 3), [2, 4], 8));
        let same = of_16_bits.columns(3..7).unwrap().rows(2..4).unwrap();
        assert_eq!(same, part);
        let of_32_bits = view_mut::<f32>(1000, 5, 8).rows(2..4).unwrap().columns(3..7).unwrap();
        assert_eq!((of_32_bits.address(), of_32_bits.shape()), (1000 + 4 * (2 * 8 + 3), [2, 4]));
        // Offsets beyond 2³² bytes.
        let large = view::<f32>(0, 1 << 20, 1 << 14).rows(1 << 19..1 << 20).unwrap();
        assert_eq!(large.address(), 4 << 33);
        let empty = of_16_bits.rows(5..5).unwrap();
        assert_eq!((empty.address(), empty.shape()), (1000 + 2 * 40, [0, 8]));
    }

    #[test]
    fn parts_lie_inside() {
        let view = view::<u16>(0, 5, 8);
        assert!(view.rows(4..6).is_err() && view.columns(0..9).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let (rows, columns) = (3..2, 8..7);
        assert!(view.rows(rows).is_err() && view.columns(columns).is_err());
        // What was cut off stays cut off.
        assert!(view.rows(1..3).unwrap().rows(0..3).is_err());
        assert!(view.columns(1..3).unwrap().columns(0..3).is_err());
        assert!(view_mut::<u16>(0, 5, 8).rows(1..3).unwrap().rows(2..4).is_err());
        assert!(view_mut::<u16>(0, 5, 8).columns(1..3).unwrap().columns(2..4).is_err());
    }

    #[test]
    fn only_numbers_without_gaps_take_another_shape() {
        let view = view::<f32>(64, 4, 6);
        assert_eq!(view.matrix(3, 8).unwrap().shape(), [3, 8]);
        assert_eq!(view.rows(1..3).unwrap().matrix(1, 12).unwrap().address(), 64 + 4 * 6);
        assert!(view.matrix(3, 7).is_err(), "of as many numbers");
        assert!(view.columns(0..3).unwrap().matrix(1, 12).is_err(), "with gaps");
        assert_eq!(view.rows(1..2).unwrap().columns(0..3).unwrap().matrix(3, 1).unwrap().stride(), 1);
        assert!(view.matrix(usize::MAX, 3).is_err(), "a product that wraps");
        assert!(view.expect("", [4, 6]).is_ok() && view.expect("", [6, 4]).is_err());
        assert!(view.columns(0..3).unwrap().expect("", [4, 3]).is_err());
    }
}
