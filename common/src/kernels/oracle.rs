//! What kernel tests measure against: candle's autograd in f64, and finite differences.
//!
//! Candle's fused `RmsNorm`, `softmax_last_dim` and `rope` cut gradients silently, so tests spell
//! these out or take candle's `_slow` forms.

#![allow(clippy::print_stderr)] // how much of each budget is used

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tests::tolerance::Budget;

use crate::device;

/// Random inputs, the same in every run.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Values within ±`bound`.
    pub(crate) fn values(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len).map(|_| self.0.random_range(-bound..bound)).collect()
    }

    /// A matrix of values within ±1.
    pub(crate) fn matrix(&mut self, rows: usize, columns: usize) -> device::Tensor {
        matrix(&self.values(rows * columns, 1.0), rows, columns)
    }

    /// Integers below `end`.
    pub(crate) fn below(&mut self, len: usize, end: u32) -> Vec<u32> {
        (0..len).map(|_| self.0.random_range(0..end)).collect()
    }
}

/// A matrix of the engine.
pub(crate) fn matrix(values: &[f32], rows: usize, columns: usize) -> device::Tensor {
    device::Tensor::from_vec(values.to_vec(), &[rows, columns]).unwrap()
}

/// The values of a matrix of the engine.
pub(crate) fn values(tensor: &device::Tensor) -> Vec<f32> {
    tensor.host().unwrap().to_vec()
}

/// A constant of the oracle.
pub(crate) fn constant(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// An input of the oracle that gets a gradient.
pub(crate) fn variable(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&constant(values, shape)).unwrap()
}

/// The values of a tensor of the oracle.
pub(crate) fn exact(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The gradient of `⟨dy, y⟩` for each variable, by candle's autograd.
pub(crate) fn gradients<const N: usize>(y: &Tensor, dy: &[f32], variables: [&Var; N]) -> [Vec<f64>; N] {
    let loss = y.mul(&constant(dy, y.dims())).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    variables.map(|variable| exact(gradients.get(variable).expect("autograd lost the variable")))
}

/// Fails where a value is further than `absolute + relative · |expected|` from what is expected,
/// or is NaN; prints the largest share of that budget in use.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64], absolute: f64, relative: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let mut budget = Budget::new(what, 1.0);
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let scale = absolute + relative * expected.abs();
        budget.meet(found.into(), expected, scale, || format!("[{index}]"));
    }
    budget.settle();
}

/// Fails unless the gradient `dx` of `⟨dy, forward(x)⟩` agrees with finite differences along random
/// directions, to 0.02 % of its norm: what one f32 forward can tell.
pub(crate) fn assert_slopes(
    what: &str,
    random: &mut Random,
    x: &[f32],
    dx: &[f32],
    dy: &[f32],
    forward: impl Fn(&[f32]) -> Vec<f32>,
) {
    /// The step of a difference of fourth order: its error is as small as f32's rounding.
    const STEP: f32 = 0.02;
    const LIMIT: f64 = 2e-4;
    let norm = dot(dx, dx).sqrt();
    for _ in 0..4 {
        let direction = random.values(x.len(), 1.0);
        let loss = |step: f32| {
            let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            dot(&forward(&moved), dy)
        };
        let (near, far) = (loss(STEP) - loss(-STEP), loss(2.0 * STEP) - loss(-2.0 * STEP));
        let slope = (8.0 * near - far) / (12.0 * f64::from(STEP));
        let found = dot(dx, &direction);
        let share = (found - slope).abs() / (LIMIT * norm);
        eprintln!("{what}: {:.0} % of the budget against finite differences", 100.0 * share);
        assert!(share <= 1.0, "{what}: slope {found} along a direction, {slope} by finite differences");
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
#[should_panic(expected = "inf exceeds")]
fn nan_is_never_close() {
    assert_close("nan", &[1.0, f32::NAN], &[1.0, 1.0], 1.0, 1.0);
}
