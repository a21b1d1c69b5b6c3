use candle_core::DType;
use candle_nn::rotary_emb::rope_slow;

use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, exact, gradients, matrix, values, variable,
};

fn frequencies(half: usize) -> Vec<f32> {
    (0..half).map(|d| 100f32.powf(-(d as f32) / half as f32)).collect()
}

fn angles(positions: &[u32], frequencies: &[f32], scale: f32) -> Angles {
    Angles::new(positions, frequencies, scale, &Device::Cpu).unwrap()
}

/// Candle's rotation of the first `heads` heads of var [T, width], in f64.
fn expected(
    var: &candle_core::Tensor,
    heads: usize,
    positions: &[u32],
    half: usize,
    scale: f64,
) -> candle_core::Tensor {
    let (t, width) = var.dims2().unwrap();
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|&p| frequencies(half).into_iter().map(move |f| f64::from(p as f32 * f)))
        .collect();
    let angles = candle_core::Tensor::from_vec(angles, (t, half), &candle_core::Device::Cpu).unwrap();
    let (cos, sin) = ((angles.cos().unwrap() * scale).unwrap(), (angles.sin().unwrap() * scale).unwrap());
    let columns = heads * 2 * half;
    let x = var.narrow(1, 0, columns).unwrap();
    let x = x.reshape((1, t, heads, 2 * half)).unwrap().transpose(1, 2).unwrap();
    let turned = rope_slow(&x, &cos, &sin).unwrap();
    let turned = turned.transpose(1, 2).unwrap().reshape((t, columns)).unwrap();
    if columns == width {
        return turned;
    }
    let rest = var.narrow(1, columns, width - columns).unwrap();
    candle_core::Tensor::cat(&[turned, rest], 1).unwrap()
}

#[test]
fn heads_turn_as_candles_and_the_rest_is_copied() {
    let mut random = Random::new(1);
    for (t, half, heads, rest) in [(1, 1, 1, 0), (5, 3, 3, 4), (7, 32, 5, 192), (3, 17, 2, 1)] {
        for scale in [1.0, 1.25] {
            let (columns, width) = (heads * 2 * half, heads * 2 * half + rest);
            let (x, dy) = (random.matrix(t, width), random.matrix(t, width));
            let positions = random.below(t, 300);
            let angles = angles(&positions, &frequencies(half), scale);
            let var = variable(&values(&x), &[t, width]);
            let expected = expected(&var, heads, &positions, half, f64::from(scale));
            assert_eq!(expected.dtype(), DType::F64);
            let y = values(&forward(&x, columns, &angles).unwrap());
            assert_close("rope", &y, &exact(&expected), 1e-6, 1e-6);

            let [expected] = gradients(&expected, &values(&dy), [&var]);
            let dx = values(&backward(&dy, columns, &angles).unwrap());
            assert_close("rope dx", &dx, &expected, 1e-6, 1e-6);
            let run = |x: &[f32]| values(&forward(&matrix(x, t, width), columns, &angles).unwrap());
            assert_slopes("rope dx", &mut random, &values(&x), &dx, &values(&dy), run);
        }
    }
}

#[test]
fn position_zero_does_not_turn() {
    let x = [0.5, -1.0, 2.0, 3.0];
    let angles = angles(&[0], &frequencies(2), 1.0);
    assert_eq!(values(&forward(&matrix(&x, 1, 4), 4, &angles).unwrap()), x);
}

#[test]
fn wrong_shapes_are_errors() {
    let x = matrix(&[1.0; 24], 2, 12);
    let two = angles(&[0, 1], &frequencies(2), 1.0);
    assert!(forward(&x, 8, &two).is_ok());
    assert!(forward(&x, 6, &two).is_err(), "one head and a half");
    assert!(forward(&x, 16, &two).is_err(), "more columns than there are");
    assert!(forward(&matrix(&[], 2, 0), 0, &two).is_err(), "no columns");
    assert!(backward(&matrix(&[1.0; 12], 1, 12), 8, &two).is_err(), "angles of two tokens for one");
    assert!(forward(&x, 8, &angles(&[0, 1], &[], 1.0)).is_err(), "no frequencies");
    assert!(forward(&Tensor::from_vec(vec![1.0; 4], &[4]).unwrap(), 4, &two).is_err(), "not a matrix");
}
