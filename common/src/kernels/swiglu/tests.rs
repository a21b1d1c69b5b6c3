use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, exact, gradients, matrix, values, variable,
};

#[test]
fn it_is_candles() {
    let mut random = Random::new(1);
    for (t, f) in [(1, 1), (3, 7), (5, 16), (2, 131)] {
        let gate_up = random.values(t * 2 * f, 4.0);
        let dh = random.matrix(t, f);
        let var = variable(&gate_up, &[t, 2 * f]);
        let expected = candle_nn::ops::swiglu(&var).unwrap();
        let gate_up = matrix(&gate_up, t, 2 * f);
        let h = forward(&gate_up).unwrap();
        assert_eq!(h.shape(), [t, f]);
        assert_close("swiglu", &values(&h), &exact(&expected), 1e-6, 1e-6);

        let [expected] = gradients(&expected, &values(&dh), [&var]);
        let (dgate_up, again) = backward(dh.clone(), gate_up.clone()).unwrap();
        assert_eq!(dgate_up.shape(), [t, 2 * f]);
        assert_eq!(values(&again), values(&h));
        assert_close("swiglu dgate_up", &values(&dgate_up), &expected, 2e-6, 1e-6);
        let run = |x: &[f32]| values(&forward(&matrix(x, t, 2 * f)).unwrap());
        let (x, dx) = (values(&gate_up), values(&dgate_up));
        assert_slopes("swiglu dgate_up", &mut random, &x, &dx, &values(&dh), run);
    }
}

/// Far gates neither overflow nor leave a NaN: silu is 0 on one side, the gate on the other.
#[test]
fn far_gates_are_finite() {
    let gate_up = matrix(&[-1e4, -100.0, 0.0, 100.0, 1e4, 2.0, 2.0, 2.0, 2.0, 2.0], 1, 10);
    let h = values(&forward(&gate_up).unwrap());
    assert_close("swiglu", &h, &[0.0, 0.0, 0.0, 200.0, 2e4], 1e-6, 1e-6);
    let dgate_up = values(&backward(matrix(&[1.0; 5], 1, 5), gate_up).unwrap().0);
    let expected = [0.0, 0.0, 1.0, 2.0, 2.0, 0.0, 0.0, 0.0, 100.0, 1e4];
    assert_close("swiglu dgate_up", &dgate_up, &expected, 1e-6, 1e-6);
}

#[test]
fn wrong_shapes_are_errors() {
    assert!(forward(&matrix(&[1.0; 6], 2, 3)).is_err(), "an odd number of columns");
    assert!(forward(&matrix(&[], 2, 0)).is_err());
    assert!(forward(&Tensor::from_vec(vec![1.0; 4], &[4]).unwrap()).is_err(), "not a matrix");
    assert!(backward(matrix(&[1.0; 8], 2, 4), matrix(&[1.0; 8], 2, 4)).is_err(), "dh as wide as gate_up");
    assert!(backward(matrix(&[1.0; 2], 1, 2), matrix(&[1.0; 8], 2, 4)).is_err(), "dh of one row");
}
