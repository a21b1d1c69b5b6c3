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
        let y = forward(&x, &weight, EPS).unwrap();
        assert_eq!(y.shape(), [t, c]);
        assert_close("rms_norm", &values(&y), &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dy), [&var]);
        let dx = backward(&dy, &x, &weight, EPS).unwrap();
        assert_eq!(dx.shape(), [t, c]);
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
    let (x, weight, dy) = (matrix(&[0.0; 3], 1, 3), [1.0, 2.0, -1.0], matrix(&[1.0, 1.0, 1.0], 1, 3));
    assert_eq!(values(&forward(&x, &weight, EPS).unwrap()), [0.0; 3]);
    let r = 1.0 / f64::from(EPS).sqrt();
    let dx = values(&backward(&dy, &x, &weight, EPS).unwrap());
    assert_close("rms_norm dx of zeros", &dx, &[r, 2.0 * r, -r], 0.0, 1e-6);
}

#[test]
fn heads_are_normalized_each_on_its_own_and_the_rest_is_copied() {
    let mut random = Random::new(2);
    for (t, d, heads, rest) in [(1, 1, 1, 0), (3, 5, 4, 7), (4, 64, 3, 128), (2, 17, 2, 0)] {
        let width = heads * d + rest;
        let (x, dy) = (random.matrix(t, width), random.matrix(t, width));
        let weights: Vec<Vec<f32>> = (0..heads).map(|_| random.values(d, 2.0)).collect();
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let var = variable(&values(&x), &[t, width]);
        let mut parts: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(h, weight)| {
                rms_norm_slow(&var.narrow(1, h * d, d).unwrap(), &constant(weight, &[d]), EPS).unwrap()
            })
            .collect();
        if rest > 0 {
            parts.push(var.narrow(1, heads * d, rest).unwrap());
        }
        let expected = candle_core::Tensor::cat(&parts, 1).unwrap();
        let y = values(&forward_heads(&x, &weights, EPS).unwrap());
        assert_close("rms_norm of heads", &y, &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dy), [&var]);
        let dx = values(&backward_heads(&dy, &x, &weights, EPS).unwrap());
        assert_close("rms_norm of heads dx", &dx, &expected, 1e-5, 1e-5);
        let run = |x: &[f32]| values(&forward_heads(&matrix(x, t, width), &weights, EPS).unwrap());
        if d > 1 {
            assert_slopes("rms_norm of heads dx", &mut random, &values(&x), &dx, &values(&dy), run);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let x = matrix(&[1.0; 12], 3, 4);
    let row = device_row();
    assert!(forward(&x, &[1.0; 3], EPS).is_err());
    assert!(forward(&row, &[1.0; 4], EPS).is_err(), "not a matrix");
    assert!(forward(&matrix(&[], 3, 0), &[], EPS).is_err());
    assert!(backward(&matrix(&[1.0; 12], 4, 3), &x, &[1.0; 4], EPS).is_err());
    assert!(backward(&x, &x, &[1.0; 5], EPS).is_err());
    assert!(forward_heads(&x, &[], EPS).is_err());
    assert!(forward_heads(&x, &[&[]], EPS).is_err());
    assert!(forward_heads(&x, &[&[1.0; 2], &[1.0; 1]], EPS).is_err());
    assert!(forward_heads(&x, &[&[1.0; 2][..]; 3], EPS).is_err());
    assert!(backward_heads(&row, &x, &[&[1.0; 2]], EPS).is_err());
    assert!(backward_heads(&x, &x, &[&[1.0; 5]], EPS).is_err());
    // No rows are no mistake.
    assert_eq!(forward(&matrix(&[], 0, 4), &[1.0; 4], EPS).unwrap().shape(), [0, 4]);
}

fn device_row() -> Tensor {
    Tensor::from_vec(vec![1.0; 4], &[4]).unwrap()
}
