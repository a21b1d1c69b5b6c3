//! A matrix product before it runs: its factors, and whether their extents fit together.

use super::view::StreamId;
use super::{View, ViewMut};
use crate::device::Write;
use crate::{Result, error};

/// Token counts that share an algorithm: multiples of this.
const SAME_ALGORITHM: usize = 64;

/// A number that a product gives: `u16` stands for the 16-bit numbers that the GPU was opened for, rounded
/// once from the f32 sum; `f32` is the sum as it is.
pub(crate) trait Number: Copy {
    /// The type as algorithms are kept under it.
    const PRECISION: Precision;
}

impl Number for u16 {
    const PRECISION: Precision = Precision::Float16;
}

impl Number for f32 {
    const PRECISION: Precision = Precision::F32;
}

/// The number type of a product's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Precision {
    /// The GPU's 16-bit numbers.
    Float16,
    /// 32 bits.
    F32,
}

/// A factor of a product: a matrix in memory, or the transposed one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    view: View<'a, u16>,
    transposed: bool,
}

impl Factor<'_> {
    /// Rows and columns of the factor.
    fn shape(&self) -> [usize; 2] {
        let [rows, columns] = self.view.shape();
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }
}

impl<'a> From<View<'a, u16>> for Factor<'a> {
    fn from(view: View<'a, u16>) -> Self {
        Self { view, transposed: false }
    }
}

impl<'a> View<'a, u16> {
    /// The transposed matrix, as a factor of a product.
    pub(crate) fn t(self) -> Factor<'a> {
        Factor { view: self, transposed: true }
    }
}

/// `alpha·a [M, K]·b [K, N] + residual [M, N] + bias [N]`, in numbers `T`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a, T> {
    a: Factor<'a>,
    b: Factor<'a>,
    alpha: f32,
    residual: Option<View<'a, T>>,
    bias: Option<View<'a, u16>>,
}

impl<'a, T: Number> Product<'a, T> {
    /// `a [M, K]·b [K, N]`.
    pub(crate) fn new(a: impl Into<Factor<'a>>, b: impl Into<Factor<'a>>) -> Self {
        Self { a: a.into(), b: b.into(), alpha: 1.0, residual: None, bias: None }
    }

    /// The product times `alpha`.
    pub(crate) fn scaled(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// The product plus a matrix [M, N], where there is one, whose rows lie as far apart as those of the
    /// result.
    pub(crate) fn plus(self, residual: Option<View<'a, T>>) -> Self {
        Self { residual, ..self }
    }

    /// The product plus a row [1, N], where there is one, added to each of its rows.
    pub(crate) fn with_bias(self, bias: Option<View<'a, u16>>) -> Self {
        Self { bias, ..self }
    }
}

/// A product whose extents fit together, as cuBLASLt takes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    /// The stream that all buffers belong to.
    pub(super) stream: StreamId,
    /// M, N and K.
    pub(super) shape: [usize; 3],
    /// The address of the first number, and the numbers from one row in memory to the next, of a, b and out.
    pub(super) addresses: [u64; 3],
    pub(super) strides: [usize; 3],
    pub(super) transposed: [bool; 2],
    pub(super) precision: Precision,
    pub(super) alpha: f32,
    /// The address of what is added, whose rows are as far apart as those of out; out's own adds to it.
    pub(super) added: Option<u64>,
    /// The address of a row of 16-bit numbers.
    pub(super) bias: Option<u64>,
}

impl Checked {
    /// Every number that the product reads or writes is covered by the views.
    pub(super) fn new<T: Number>(
        product: &Product<'_, T>,
        out: &ViewMut<'_, T>,
        write: Write,
    ) -> Result<Self> {
        let Product { a, b, alpha, residual, bias } = product;
        let ([m, k], [n, stride]) = (a.shape(), [out.shape()[1], out.stride()]);
        if b.shape() != [k, n] || out.shape()[0] != m {
            return Err(error!(
                Bug,
                "a product of {:?} and {:?} does not give {:?}",
                a.shape(),
                b.shape(),
                out.shape()
            ));
        }
        if let Some(residual) = residual
            && (residual.shape() != [m, n] || residual.stride() != stride || write == Write::Add)
        {
            let ([rows, columns], rows_every) = (residual.shape(), residual.stride());
            return Err(error!(
                Bug,
                "a product of {m} x {n} in rows every {stride} cannot {write:?} and take {rows} x {columns} in rows \
                 every {rows_every}"
            ));
        }
        if let Some(bias) = bias.filter(|bias| bias.shape() != [1, n]) {
            return Err(error!(Bug, "a bias of {n} numbers expected, found {:?}", bias.shape()));
        }
        let others = residual.map(|residual| residual.stream()).into_iter();
        let others = others.chain(bias.map(|bias| bias.stream())).chain([a.view.stream(), b.view.stream()]);
        if others.into_iter().any(|stream| stream != out.stream()) {
            return Err(error!(Bug, "a product of buffers of one open GPU expected"));
        }
        Ok(Self {
            stream: out.stream(),
            shape: [m, n, k],
            addresses: [a.view.address(), b.view.address(), out.address()],
            strides: [a.view.stride(), b.view.stride(), stride],
            transposed: [a.transposed, b.transposed],
            precision: T::PRECISION,
            alpha: *alpha,
            added: match write {
                Write::Add => Some(out.address()),
                Write::Overwrite => residual.map(|residual| residual.address()),
            },
            bias: bias.map(|bias| bias.address()),
        })
    }

    /// The key of the algorithm, which is chosen for the next multiple of [`SAME_ALGORITHM`] tokens: numbers
    /// of tokens differ from step to step. They are M, or K where a factor is transposed (the gradients of
    /// adapters sum over tokens).
    pub(super) fn key(&self) -> Key {
        let mut shape = self.shape;
        let tokens = if self.transposed[0] { 2 } else { 0 };
        if shape[tokens] > SAME_ALGORITHM {
            shape[tokens] = shape[tokens].next_multiple_of(SAME_ALGORITHM);
        }
        let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
        let [a, b, out] = self.addresses;
        Key {
            shape,
            strides: self.strides,
            transposed: self.transposed,
            alignments: [a, b, out | self.added.unwrap_or(0)].map(alignment),
            precision: self.precision,
            adds: self.added.is_some(),
            bias: self.bias.is_some(),
        }
    }
}

/// All that an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) shape: [usize; 3],
    pub(super) strides: [usize; 3],
    pub(super) transposed: [bool; 2],
    pub(super) alignments: [u32; 3],
    pub(super) precision: Precision,
    pub(super) adds: bool,
    pub(super) bias: bool,
}

#[cfg(test)]
mod tests {
    use super::super::view::unreal::{of_stream, view, view_mut};
    use super::*;

    fn check<T: Number>(product: Product<'_, T>, out: ViewMut<'_, T>, write: Write) -> Result<Checked> {
        Checked::new(&product, &out, write)
    }

    #[test]
    fn factors_and_result_fit_together() {
        let (a, b) = (view::<u16>(256, 3, 5), view::<u16>(512, 5, 7));
        let out = || view_mut::<f32>(1024, 3, 7);
        let checked = check(Product::new(a, b), out(), Write::Overwrite).unwrap();
        assert_eq!((checked.shape, checked.strides), ([3, 7, 5], [5, 7, 7]));
        assert_eq!((checked.addresses, checked.added), ([256, 512, 1024], None));
        // As many numbers, in another shape.
        for wrong in [Product::new(a, b.t()), Product::new(a.t(), b), Product::new(b, a)] {
            assert!(check(wrong, out(), Write::Overwrite).is_err(), "{wrong:?}");
        }
        assert!(check(Product::new(a, b), view_mut::<f32>(0, 7, 3), Write::Overwrite).is_err());
        assert!(check(Product::new(a, b), view_mut::<f32>(0, 4, 7), Write::Overwrite).is_err());
        // A factor whose rows do not reach as far as the other's columns.
        let short = view::<u16>(512, 4, 7);
        assert!(check(Product::<f32>::new(a, short), out(), Write::Overwrite).is_err());
        let cut = a.columns(1..5).unwrap();
        let checked = check(Product::new(cut, short), out(), Write::Add).unwrap();
        assert_eq!((checked.shape, checked.strides, checked.added), ([3, 7, 4], [5, 7, 7], Some(1024)));
        let transposed =
            check(Product::new(a.t(), view(0, 3, 7)), view_mut::<u16>(0, 5, 7), Write::Add).unwrap();
        assert_eq!((transposed.shape, transposed.transposed), ([5, 7, 3], [true, false]));
    }

    #[test]
    fn buffers_of_two_gpus_are_not_multiplied() {
        let (a, b) = (view::<u16>(0, 3, 5), view::<u16>(0, 5, 7));
        let out = || view_mut::<u16>(1024, 3, 7);
        let product = Product::new(a, b);
        assert!(check(product, out(), Write::Overwrite).is_ok());
        assert!(check(Product::new(a, of_stream(0, 5, 7, 1)), out(), Write::Overwrite).is_err());
        assert!(check(product.plus(Some(of_stream(0, 3, 7, 1))), out(), Write::Overwrite).is_err());
        assert!(check(product.with_bias(Some(of_stream(0, 1, 7, 1))), out(), Write::Overwrite).is_err());
    }

    #[test]
    fn what_is_added_lies_as_the_result_does() {
        let product = || Product::<u16>::new(view(0, 3, 5), view(0, 5, 7));
        let (residual, out) =
            (view::<u16>(2048, 3, 9), || view_mut::<u16>(1024, 3, 9).columns(2..9).unwrap());
        let fits = product().plus(Some(residual.columns(0..7).unwrap()));
        assert_eq!(check(fits, out(), Write::Overwrite).unwrap().added, Some(2048));
        assert!(check(fits, out(), Write::Add).is_err(), "the library adds one matrix only");
        assert!(
            check(product().plus(Some(view(0, 3, 7))), out(), Write::Overwrite).is_err(),
            "another stride"
        );
        assert!(check(product().plus(Some(residual)), out(), Write::Overwrite).is_err());
        let short = residual.rows(0..2).unwrap().columns(0..7).unwrap();
        assert!(check(product().plus(Some(short)), out(), Write::Overwrite).is_err());
        assert!(check(product().with_bias(Some(view(64, 1, 7))), out(), Write::Add).is_ok());
        assert!(check(product().with_bias(Some(view(64, 1, 6))), out(), Write::Add).is_err());
        assert!(check(product().with_bias(Some(view(64, 7, 1))), out(), Write::Add).is_err());
    }

    #[test]
    fn numbers_of_tokens_share_algorithms() {
        let key = |tokens: usize| {
            let product = Product::new(view(0, tokens, 8), view::<u16>(0, 8, 16));
            check(product, view_mut::<u16>(0, tokens, 16), Write::Overwrite).unwrap().key()
        };
        assert_eq!((key(65), key(66).shape), (key(128), [128, 16, 8]));
        assert_ne!(key(63), key(64), "few tokens have algorithms of their own");
        let of_gradients = |tokens: usize| {
            let product = Product::new(view::<u16>(0, tokens, 8).t(), view(0, tokens, 16));
            check(product, view_mut::<f32>(0, 8, 16), Write::Add).unwrap().key()
        };
        assert_eq!((of_gradients(65), of_gradients(65).shape), (of_gradients(128), [8, 16, 128]));
    }
}
