use super::*;
use crate::kernels::oracle::{Random, assert_close, assert_slopes, gradients, variable};

const SCALE: f32 = 0.3;
const WEIGHTS: RowWeights = RowWeights::Equal(SCALE);

/// The sum of the losses.
fn sum(logits: &[f32], vocabulary: usize, targets: &[u32]) -> f64 {
    forward(logits, vocabulary, targets, None).unwrap().iter().sum()
}

#[test]
fn loss_and_gradient_are_candles() {
    for softcap in [None, Some(5.0)] {
        are_candles(softcap);
    }
}

fn are_candles(softcap: Option<f32>) {
    let mut random = Random::new(1);
    for (n, v) in [(1, 1), (3, 2), (4, 17), (5, 1000), (2, 49_153)] {
        let logits = random.values(n * v, 8.0);
        let targets = random.below(n, v as u32);
        let var = variable(&logits, &[n, v]);
        let ids = candle_core::Tensor::from_slice(&targets, n, &candle_core::Device::Cpu).unwrap();
        // Candle's is the mean over the rows, ours is their sum.
        let capped = match softcap.map(f64::from) {
            Some(cap) => ((var.as_tensor() / cap).unwrap().tanh().unwrap() * cap).unwrap(),
            None => var.as_tensor().clone(),
        };
        let expected = (candle_nn::loss::cross_entropy(&capped, &ids).unwrap() * n as f64).unwrap();
        let losses = forward(&logits, v, &targets, softcap).unwrap();
        let loss: f64 = losses.iter().sum();
        assert_close("cross-entropy", &[loss as f32], &[expected.to_scalar().unwrap()], 1e-5, 1e-6);

        let [expected] = gradients(&expected, &[SCALE], [&var]);
        let mut dlogits = logits.clone();
        assert_eq!(forward_backward(&mut dlogits, v, &targets, WEIGHTS, softcap).unwrap(), losses);
        assert_close("cross-entropy dlogits", &dlogits, &expected, 1e-7, 2e-6);
        if v < 1000 && v > 1 {
            let run = |logits: &[f32]| {
                vec![forward(logits, v, &targets, softcap).unwrap().iter().sum::<f64>() as f32]
            };
            assert_slopes("cross-entropy dlogits", &mut random, &logits, &dlogits, &[SCALE], run);
        }
    }
}

/// Each row's gradient is its weight times what it would be alone.
#[test]
fn rows_have_weights_of_their_own() {
    let mut random = Random::new(2);
    let (n, v) = (4, 17);
    let (logits, targets) = (random.values(n * v, 8.0), random.below(n, v as u32));
    let gradient = |weights: RowWeights| {
        let mut dlogits = logits.clone();
        forward_backward(&mut dlogits, v, &targets, weights, None).unwrap();
        dlogits
    };
    let (plain, weights) = (gradient(RowWeights::Equal(1.0)), [0.5, 0.0, -2.0, 1.0]);
    let weighted = gradient(RowWeights::Each(&weights));
    for (row, weight) in weights.iter().enumerate() {
        let row = row * v..(row + 1) * v;
        let expected: Vec<f64> = plain[row.clone()].iter().map(|x| f64::from(x * weight)).collect();
        assert_close("weighted rows", &weighted[row], &expected, 1e-7, 1e-6);
    }
}

/// A shift of all logits changes nothing, however far; an infinite loss is one, and not NaN.
#[test]
fn far_logits() {
    let near = sum(&[0.0, 1.0, 2.0], 3, &[1]);
    for shift in [-3e4, 3e4] {
        let loss = sum(&[shift, shift + 1.0, shift + 2.0], 3, &[1]);
        assert!((loss - near).abs() < 1e-6, "{loss} and {near}");
    }
    let mut logits = [0.0, 1e30];
    let losses = forward_backward(&mut logits, 2, &[0], RowWeights::Equal(1.0), None).unwrap();
    assert_eq!((&losses[..], logits), (&[f64::from(1e30f32)][..], [-1.0, 1.0]));
}

#[test]
fn nan_in_any_logit_shows_in_the_loss() {
    for place in 0..20 {
        let mut logits = [1.0; 20];
        logits[place] = f32::NAN;
        assert!(sum(&logits, 20, &[3]).is_nan(), "NaN at {place}");
        assert!(forward_backward(&mut logits, 20, &[3], WEIGHTS, None).unwrap()[0].is_nan());
    }
}

#[test]
fn wrong_shapes_and_unknown_tokens_are_errors() {
    assert!(forward(&[0.0; 5], 3, &[0, 1], None).is_err());
    assert!(forward(&[0.0; 6], 3, &[0, 3], None).is_err(), "a token outside the vocabulary");
    assert!(forward_backward(&mut [0.0; 6], 3, &[u32::MAX, 0], WEIGHTS, None).is_err());
    assert!(
        forward_backward(&mut [0.0; 6], 3, &[0, 1], RowWeights::Each(&[1.0]), None).is_err(),
        "a weight too few"
    );
    assert!(forward(&[], 0, &[], None).is_err(), "no vocabulary");
    assert!(forward(&[], 3, &[], None).unwrap().is_empty());
}
