use super::*;
use crate::kernels::oracle::{Random, assert_close, assert_slopes, exact, gradients, values, variable};

const DRAWS: Draws = Draws { seed: 42, step: 3, stream: 1, first_row: 0 };

/// What is kept of a matrix of ones.
fn mask(t: usize, c: usize, dropout: &Dropout) -> Vec<f32> {
    let ones = Tensor::from_vec(vec![1.0; t * c], &[t, c]).unwrap();
    values(&forward(&ones, dropout).unwrap())
}

#[test]
fn it_is_candles_with_the_same_mask() {
    let mut random = Random::new(1);
    for (t, c) in [(1, 1), (3, 7), (5, 64), (2, 131)] {
        let (x, dy) = (random.matrix(t, c), random.matrix(t, c));
        let dropout = Dropout::new(0.3, DRAWS).unwrap();
        let mask = mask(t, c, &dropout);
        assert!(mask.iter().all(|&kept| kept == 0.0 || kept == 1.0 / (1.0 - 0.3)));
        let var = variable(&values(&x), &[t, c]);
        let expected = var.mul(&crate::kernels::oracle::constant(&mask, &[t, c])).unwrap();
        let y = forward(&x, &dropout).unwrap();
        assert_eq!(y.shape(), [t, c]);
        assert_close("dropout", &values(&y), &exact(&expected), 1e-6, 1e-6);
        let [expected] = gradients(&expected, &values(&dy), [&var]);
        let dx = values(&backward(&dy, &dropout).unwrap());
        assert_close("dropout dx", &dx, &expected, 1e-6, 1e-6);
        let run =
            |x: &[f32]| values(&forward(&Tensor::from_vec(x.to_vec(), &[t, c]).unwrap(), &dropout).unwrap());
        assert_slopes("dropout dx", &mut random, &values(&x), &dx, &values(&dy), run);
        let mut sum = values(&dy);
        apply(&mut sum, &values(&dy), c, &dropout, Write::Add);
        let expected: Vec<f64> =
            dx.iter().zip(values(&dy)).map(|(dx, dy)| f64::from(*dx) + f64::from(dy)).collect();
        assert_close("dropout dx added", &sum, &expected, 1e-6, 1e-6);
    }
}

#[test]
fn it_drops_with_its_probability() {
    let (t, c) = (64, 500);
    for p in [0.0f32, 0.05, 0.5, 0.9] {
        let mask = mask(t, c, &Dropout::new(p, DRAWS).unwrap());
        let (n, expected) = ((t * c) as f64, f64::from(p));
        let share = mask.iter().filter(|&&kept| kept == 0.0).count() as f64 / n;
        let deviation = (expected * (1.0 - expected) / n).sqrt();
        assert!((share - expected).abs() <= 4.0 * deviation, "{share} of {p}");
    }
}

/// Recomputed blocks and a step that is cut otherwise see the mask they saw.
#[test]
fn the_mask_is_the_same_wherever_a_pass_begins() {
    let dropout = Dropout::new(0.5, DRAWS).unwrap();
    let whole = mask(10, 33, &dropout);
    let rest = Dropout { draws: Draws { first_row: 4, ..DRAWS }, ..dropout };
    assert_eq!([mask(4, 33, &dropout), mask(6, 33, &rest)].concat(), whole);
    assert_ne!(mask(10, 33, &dropout.of_stream(2)), whole, "another module");
    let next = Dropout { draws: Draws { step: 4, ..DRAWS }, ..dropout };
    assert_ne!(mask(10, 33, &next), whole, "another step");
}

#[test]
fn wrong_shapes_and_probabilities_are_errors() {
    let dropout = Dropout::new(0.5, DRAWS).unwrap();
    assert!(forward(&Tensor::from_vec(vec![1.0; 4], &[4]).unwrap(), &dropout).is_err(), "not a matrix");
    for p in [-0.1, 1.0, f32::NAN] {
        assert!(Dropout::new(p, DRAWS).is_err(), "{p}");
    }
}
