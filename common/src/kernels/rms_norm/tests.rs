use candle_nn::ops::rms_norm_slow;

use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, constant, exact, gradients, matrix, values, variable,
};

const EPS: f32 = 1e-3;

#[test]
fn rows_are_candles() {
    let mut random = Random::new(1);
    for (t, c) in [(1, 1), (3, 15), (5, 16), (7, 33), (2, 257)] {
        let (x, weight, dy) = (random.matrix(t, c), random.values(c, 2.0), random.matrix(t, c));
        let var = variable(&values(&x), &[t, c]);
        let expected = rms_norm_slow(&var, &constant(&weight, &[c]), EPS).unwrap();
        let weight = Vector::Cpu(weight);
        let y = forward(&x, &weight, EPS).unwrap();
        assert_eq!(y.shape(), [t, c]);
        assert_close("rms_norm", &values(&y), &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dy), [&var]);
        let (dx, again) = backward(&dy, &x, &weight, None, EPS).unwrap();
        assert_eq!(dx.shape(), [t, c]);
        assert_eq!(values(&again), values(&y));
        assert_close("rms_norm dx", &values(&dx), &expected, 1e-5, 1e-5);
        if c > 1 {
            let run = |x: &[f32]| values(&forward(&matrix(x, t, c), &weight, EPS).unwrap());
            assert_slopes("rms_norm dx", &mut random, &values(&x), &values(&dx), &values(&dy), run);
        }
    }
}

/// A row of zeros divides by eps alone: finite, and the gradient is that of a linear function.
#[test]
fn a_row_of_zeros() {
    let (x, dy) = (matrix(&[0.0; 3], 1, 3), matrix(&[1.0, 1.0, 1.0], 1, 3));
    let weight = Vector::Cpu(vec![1.0, 2.0, -1.0]);
    assert_eq!(values(&forward(&x, &weight, EPS).unwrap()), [0.0; 3]);
    let r = 1.0 / f64::from(EPS).sqrt();
    let dx = values(&backward(&dy, &x, &weight, None, EPS).unwrap().0);
    assert_close("rms_norm dx of zeros", &dx, &[r, 2.0 * r, -r], 0.0, 1e-6);
}

/// The gradient that goes around the norm joins the one that goes through it.
#[test]
fn the_residual_is_added() {
    let mut random = Random::new(3);
    for (t, c) in [(1, 1), (3, 15), (5, 64)] {
        let (x, weight, dy) = (random.matrix(t, c), random.values(c, 2.0), random.matrix(t, c));
        let residual = random.values(t * c, 3.0);
        let var = variable(&values(&x), &[t, c]);
        let y = rms_norm_slow(&var, &constant(&weight, &[c]), EPS).unwrap();
        let through = (y * constant(&values(&dy), &[t, c])).unwrap();
        let around = (var.as_tensor() * constant(&residual, &[t, c])).unwrap();
        let [expected] = gradients(&(through + around).unwrap(), &vec![1.0; t * c], [&var]);
        let residual = matrix(&residual, t, c);
        let (dx, _) = backward(&dy, &x, &Vector::Cpu(weight), Some(&residual), EPS).unwrap();
        assert_eq!(dx.shape(), [t, c]);
        assert_close("rms_norm dx with a residual", &values(&dx), &expected, 1e-5, 1e-5);
    }
}

#[test]
fn heads_are_normalized_each_on_its_own_and_the_rest_is_copied() {
    let mut random = Random::new(2);
    // Heads of one size as Qwen3 has them, and of two sizes as OLMo 2.
    for (t, heads, rest) in [
        (1, [(1, 1), (1, 1)], 0),
        (3, [(3, 5), (1, 5)], 7),
        (4, [(2, 64), (1, 64)], 128),
        (2, [(1, 17), (1, 17)], 0),
        (3, [(1, 24), (1, 8)], 8),
    ] {
        let sizes: Vec<usize> = heads.iter().flat_map(|&(count, size)| vec![size; count]).collect();
        let columns: usize = sizes.iter().sum();
        let width = columns + rest;
        let (x, dy) = (random.matrix(t, width), random.matrix(t, width));
        let weights = random.values(columns, 2.0);
        let var = variable(&values(&x), &[t, width]);
        let (mut parts, mut first) = (Vec::new(), 0);
        for &d in &sizes {
            let weight = constant(&weights[first..first + d], &[d]);
            parts.push(rms_norm_slow(&var.narrow(1, first, d).unwrap(), &weight, EPS).unwrap());
            first += d;
        }
        if rest > 0 {
            parts.push(var.narrow(1, columns, rest).unwrap());
        }
        let expected = candle_core::Tensor::cat(&parts, 1).unwrap();
        let norms = HeadNorms::new(Vector::Cpu(weights), heads).unwrap();
        let y = values(&forward_heads(&x, &norms, EPS).unwrap());
        assert_close("rms_norm of heads", &y, &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dy), [&var]);
        let dx = values(&backward_heads(&dy, &x, &norms, EPS).unwrap());
        assert_close("rms_norm of heads dx", &dx, &expected, 1e-5, 1e-5);
        let run = |x: &[f32]| values(&forward_heads(&matrix(x, t, width), &norms, EPS).unwrap());
        if sizes[0] > 1 {
            assert_slopes("rms_norm of heads dx", &mut random, &values(&x), &dx, &values(&dy), run);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let x = matrix(&[1.0; 12], 3, 4);
    let (row, turned) = (device_row(), matrix(&[1.0; 12], 4, 3));
    assert!(forward(&x, &ones(3), EPS).is_err());
    assert!(forward(&row, &ones(4), EPS).is_err(), "not a matrix");
    assert!(forward(&matrix(&[], 3, 0), &ones(0), EPS).is_err());
    assert!(backward(&x, &x, &ones(4), None, EPS).is_ok());
    assert!(backward(&turned, &x, &ones(4), None, EPS).is_err());
    assert!(backward(&x, &x, &ones(5), None, EPS).is_err());
    assert!(backward(&x, &x, &ones(4), Some(&turned), EPS).is_err());
    let norms = |len: usize, heads: [(usize, usize); 2]| HeadNorms::new(ones(len), heads);
    let two = norms(4, [(1, 2), (1, 2)]).unwrap();
    assert!(forward_heads(&x, &two, EPS).is_ok());
    assert!(backward_heads(&x, &x, &two, EPS).is_ok());
    assert!(backward_heads(&row, &x, &two, EPS).is_err());
    assert!(norms(0, [(0, 2), (0, 2)]).is_err(), "no heads");
    assert!(norms(0, [(1, 0), (1, 0)]).is_err(), "heads of nothing");
    assert!(norms(3, [(1, 2), (1, 2)]).is_err(), "one head and a half");
    assert!(forward_heads(&x, &norms(6, [(2, 2), (1, 2)]).unwrap(), EPS).is_err(), "more heads than columns");
    // No rows are no mistake.
    assert_eq!(forward(&matrix(&[], 0, 4), &ones(4), EPS).unwrap().shape(), [0, 4]);
}

fn ones(len: usize) -> Vector {
    Vector::Cpu(vec![1.0; len])
}

fn device_row() -> Tensor {
    Tensor::from_vec(vec![1.0; 4], &[4]).unwrap()
}
