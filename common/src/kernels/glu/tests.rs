use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, exact, gradients, matrix, values, variable,
};

use Activation::{GeluTanh, Silu};

/// Candle's, which has GELU's approximation as `gelu`.
fn oracle(gate_up: &candle_core::Tensor, activation: Activation) -> candle_core::Tensor {
    match activation {
        Silu => candle_nn::ops::swiglu(gate_up).unwrap(),
        GeluTanh => {
            let halves = gate_up.chunk(2, 1).unwrap();
            (halves[0].gelu().unwrap() * &halves[1]).unwrap()
        }
    }
}

#[test]
fn it_is_candles() {
    for activation in [Silu, GeluTanh] {
        is_candles(activation);
    }
}

fn is_candles(activation: Activation) {
    let mut random = Random::new(1);
    for (t, f) in [(1, 1), (3, 7), (5, 16), (2, 131)] {
        let gate_up = random.values(t * 2 * f, 4.0);
        let dh = random.matrix(t, f);
        let var = variable(&gate_up, &[t, 2 * f]);
        let expected = oracle(&var, activation);
        let gate_up = matrix(&gate_up, t, 2 * f);
        let h = forward(&gate_up, activation).unwrap();
        assert_eq!(h.shape(), [t, f]);
        assert_close("glu", &values(&h), &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dh), [&var]);
        let (dgate_up, again) = backward(dh.clone(), gate_up.clone(), activation).unwrap();
        assert_eq!(dgate_up.shape(), [t, 2 * f]);
        assert_eq!(values(&again), values(&h));
        assert_close("glu dgate_up", &values(&dgate_up), &expected, 2e-6, 1e-6);
        let run = |x: &[f32]| values(&forward(&matrix(x, t, 2 * f), activation).unwrap());
        let (x, dx) = (values(&gate_up), values(&dgate_up));
        assert_slopes("glu dgate_up", &mut random, &x, &dx, &values(&dh), run);
    }
}

/// Far gates neither overflow nor leave a NaN: the activation is 0 on one side, the gate on the other.
#[test]
fn far_gates_are_finite() {
    for activation in [Silu, GeluTanh] {
        far_gates(activation);
    }
}

fn far_gates(activation: Activation) {
    let gate_up = matrix(&[-1e4, -100.0, 0.0, 100.0, 1e4, 2.0, 2.0, 2.0, 2.0, 2.0], 1, 10);
    let h = values(&forward(&gate_up, activation).unwrap());
    assert_close("glu", &h, &[0.0, 0.0, 0.0, 200.0, 2e4], 1e-6, 1e-6);
    let dgate_up = values(&backward(matrix(&[1.0; 5], 1, 5), gate_up, activation).unwrap().0);
    let expected = [0.0, 0.0, 1.0, 2.0, 2.0, 0.0, 0.0, 0.0, 100.0, 1e4];
    assert_close("glu dgate_up", &dgate_up, &expected, 1e-6, 1e-6);
}

#[test]
fn wrong_shapes_are_errors() {
    let forward = |gate_up: &Tensor| forward(gate_up, Silu);
    let backward = |dh: Tensor, gate_up: Tensor| backward(dh, gate_up, Silu);
    assert!(forward(&matrix(&[1.0; 6], 2, 3)).is_err(), "an odd number of columns");
    assert!(forward(&matrix(&[], 2, 0)).is_err());
    assert!(forward(&Tensor::from_vec(vec![1.0; 4], &[4]).unwrap()).is_err(), "not a matrix");
    assert!(backward(matrix(&[1.0; 8], 2, 4), matrix(&[1.0; 8], 2, 4)).is_err(), "dh as wide as gate_up");
    assert!(backward(matrix(&[1.0; 2], 1, 2), matrix(&[1.0; 8], 2, 4)).is_err(), "dh of one row");
}
