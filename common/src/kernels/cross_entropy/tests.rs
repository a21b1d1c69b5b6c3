use super::*;
use crate::kernels::oracle::{Random, assert_close, assert_slopes, gradients, variable};

const SCALE: f32 = 0.3;

#[test]
fn loss_and_gradient_are_candles() {
    let mut random = Random::new(1);
    for (n, v) in [(1, 1), (3, 2), (4, 17), (5, 1000), (2, 49_153)] {
        let logits = random.values(n * v, 8.0);
        let targets = random.below(n, v as u32);
        let var = variable(&logits, &[n, v]);
        let ids = candle_core::Tensor::from_slice(&targets, n, &candle_core::Device::Cpu).unwrap();
        // Candle's is the mean over the rows, ours is their sum.
        let expected = (candle_nn::loss::cross_entropy(&var, &ids).unwrap() * n as f64).unwrap();
        let loss = forward(&logits, v, &targets).unwrap();
        assert_close("cross-entropy", &[loss as f32], &[expected.to_scalar().unwrap()], 1e-5, 1e-6);

        let [expected] = gradients(&expected, &[SCALE], [&var]);
        let mut dlogits = logits.clone();
        assert_eq!(forward_backward(&mut dlogits, v, &targets, SCALE).unwrap(), loss);
        assert_close("cross-entropy dlogits", &dlogits, &expected, 1e-7, 2e-6);
        if v < 1000 && v > 1 {
            let run = |logits: &[f32]| vec![forward(logits, v, &targets).unwrap() as f32];
            assert_slopes("cross-entropy dlogits", &mut random, &logits, &dlogits, &[SCALE], run);
        }
    }
}

/// A shift of all logits changes nothing, however far; an infinite loss is one, and not NaN.
#[test]
fn far_logits() {
    let near = forward(&[0.0, 1.0, 2.0], 3, &[1]).unwrap();
    for shift in [-3e4, 3e4] {
        let loss = forward(&[shift, shift + 1.0, shift + 2.0], 3, &[1]).unwrap();
        assert!((loss - near).abs() < 1e-6, "{loss} and {near}");
    }
    let mut logits = [0.0, 1e30];
    let loss = forward_backward(&mut logits, 2, &[0], 1.0).unwrap();
    assert_eq!((loss, logits), (f64::from(1e30f32), [-1.0, 1.0]));
}

#[test]
fn nan_in_any_logit_shows_in_the_loss() {
    for place in 0..20 {
        let mut logits = [1.0; 20];
        logits[place] = f32::NAN;
        assert!(forward(&logits, 20, &[3]).unwrap().is_nan(), "NaN at {place}");
        assert!(forward_backward(&mut logits, 20, &[3], 1.0).unwrap().is_nan());
    }
}

#[test]
fn wrong_shapes_and_unknown_tokens_are_errors() {
    assert!(forward(&[0.0; 5], 3, &[0, 1]).is_err());
    assert!(forward(&[0.0; 6], 3, &[0, 3]).is_err(), "a token outside the vocabulary");
    assert!(forward_backward(&mut [0.0; 6], 3, &[u32::MAX, 0], 1.0).is_err());
    assert!(forward(&[], 0, &[]).is_err(), "no vocabulary");
    assert_eq!(forward(&[], 3, &[]).unwrap(), 0.0);
}
