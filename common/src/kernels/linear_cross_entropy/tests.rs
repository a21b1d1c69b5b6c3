use super::*;
use crate::checkpoint::Tensor as Stored;
use crate::kernels::linear::{Projection, Weight};
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, constant, gradients, matrix, values, variable,
};
use crate::nf4::{Quantized, Scheme};

const SCALE: f32 = 0.3;

/// A random head [V, C], and the values it stands for.
fn head(random: &mut Random, quantized: bool, [v, c]: [usize; 2]) -> (Linear, Vec<f32>) {
    let values = random.values(v * c, 2.0);
    let stored = Stored::from_f32("head", vec![v, c], &values);
    let (weight, values) = match quantized {
        false => (Weight::Dense(stored), values),
        true => {
            let quantized = Quantized::quantize(&stored, Scheme::default()).unwrap();
            let values = quantized.dequantize();
            (Weight::Quantized(quantized), values)
        }
    };
    let projection = Projection { name: "head".into(), weight, bias: None, adapter: None };
    (Linear::new(vec![projection]).unwrap(), values)
}

/// Each row's loss by candle, and the gradient of `SCALE` times their sum.
fn expected(x: &Tensor, weight: &[f32], v: usize, targets: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let (n, c) = x.matrix("x").unwrap();
    let var = variable(&values(x), &[n, c]);
    let logits = var.matmul(&constant(weight, &[v, c]).t().unwrap()).unwrap();
    let ids = candle_core::Tensor::from_slice(targets, (n, 1), &candle_core::Device::Cpu).unwrap();
    let log_softmax = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    let losses = log_softmax.gather(&ids, 1).unwrap().neg().unwrap();
    let [dx] = gradients(&losses, &vec![SCALE; n], [&var]);
    (losses.flatten_all().unwrap().to_vec1().unwrap(), dx)
}

/// Loss and gradient, which both ways to the loss must agree on.
fn run(x: &Tensor, head: &Linear, targets: &[u32]) -> (f64, Tensor) {
    let (losses, dx) = forward_backward(x, head, targets, RowWeights::Equal(SCALE), None).unwrap();
    let loss = losses.sum().unwrap();
    assert_eq!(forward(x, head, targets, None).unwrap().sum().unwrap(), loss);
    assert_eq!(dx.shape(), x.shape());
    (loss, dx)
}

#[test]
fn loss_and_gradient_are_candles() {
    let mut random = Random::new(1);
    for quantized in [false, true] {
        for (n, v, c) in [(1, 1, 1), (1, 301, 27), (4, 17, 5), (5, 301, 27), (30, 301, 27)] {
            let what = format!("linear cross-entropy {n}x{c}x{v}, quantized: {quantized}");
            let (head, weight) = head(&mut random, quantized, [v, c]);
            let (x, targets) = (random.matrix(n, c), random.below(n, v as u32));
            let (expected_losses, expected_dx) = expected(&x, &weight, v, &targets);
            let (loss, dx) = run(&x, &head, &targets);
            assert_close(&what, &[loss as f32], &[expected_losses.iter().sum()], 1e-5, 1e-6);
            assert_close(&format!("{what} dx"), &values(&dx), &expected_dx, 2e-6, 2e-6);
            if v > 1 {
                let loss = |x: &[f32]| {
                    vec![forward(&matrix(x, n, c), &head, &targets, None).unwrap().sum().unwrap() as f32]
                };
                assert_slopes(&what, &mut random, &values(&x), &values(&dx), &[SCALE], loss);
            }
        }
    }
}

/// More rows than have their logits at a time: two whole chunks and a part of one. Eleven different
/// rows in a random order keep the oracle small.
#[test]
fn chunks_of_rows_are_one() {
    let mut random = Random::new(2);
    let (n, v, c, distinct) = (700, 49_153, 8, 11);
    assert!(n > 2 * ((1 << 24) / v) && n % ((1 << 24) / v) != 0, "three chunks");
    let (head, weight) = head(&mut random, false, [v, c]);
    let (rows, targets) = (random.matrix(distinct, c), random.below(distinct, v as u32));
    let (expected_losses, expected_dx) = expected(&rows, &weight, v, &targets);

    let order = random.below(n, distinct as u32);
    let x = rows.gather_rows(&order).unwrap();
    let targets: Vec<u32> = order.iter().map(|&row| targets[row as usize]).collect();
    let expected_loss = order.iter().map(|&row| expected_losses[row as usize]).sum();
    let expected_dx: Vec<f64> =
        order.iter().flat_map(|&row| &expected_dx[row as usize * c..][..c]).copied().collect();
    let (loss, dx) = run(&x, &head, &targets);
    assert_close("linear cross-entropy in chunks", &[loss as f32], &[expected_loss], 1e-5, 1e-6);
    assert_close("linear cross-entropy in chunks dx", &values(&dx), &expected_dx, 2e-6, 2e-6);

    // Weights go with their rows through the chunks.
    let weights: Vec<f32> = (0..n).map(|row| SCALE * ((row % 5) as f32 - 2.0)).collect();
    let (losses, dx) = forward_backward(&x, &head, &targets, RowWeights::Each(&weights), None).unwrap();
    assert_eq!(losses.to_vec().unwrap().len(), n);
    let weighted = |(i, dx): (usize, &f64)| dx * ((i / c % 5) as f64 - 2.0);
    let expected_dx: Vec<f64> = expected_dx.iter().enumerate().map(weighted).collect();
    assert_close("weighted linear cross-entropy dx", &values(&dx), &expected_dx, 4e-6, 4e-6);
}

#[test]
fn no_rows_are_no_mistake() {
    let (head, _) = head(&mut Random::new(3), true, [5, 3]);
    let (loss, dx) = run(&matrix(&[], 0, 3), &head, &[]);
    assert_eq!((loss, dx.shape()), (0.0, &[0, 3][..]));
}

#[test]
fn wrong_shapes_and_unknown_tokens_are_errors() {
    let mut random = Random::new(4);
    let (head, _) = head(&mut random, false, [5, 3]);
    let message = |x: &Tensor, targets: &[u32]| {
        let one = forward(x, &head, targets, None).err().map(|error| error.to_string());
        let other = forward_backward(x, &head, targets, RowWeights::Equal(SCALE), None)
            .err()
            .map(|error| error.to_string());
        assert_eq!(one, other);
        one
    };
    let x = random.matrix(2, 3);
    assert_eq!(message(&x, &[0, 4]), None);
    assert!(message(&x, &[0]).is_some(), "a target too few");
    assert!(message(&x, &[0, 1, 2]).is_some(), "a target too many");
    assert!(message(&random.matrix(2, 4), &[0, 4]).is_some(), "rows too long");
    assert!(message(&random.matrix(3, 2), &[0, 4]).is_some(), "rows too short");
    assert!(message(&Tensor::from_vec(vec![0.0; 3], &[3]).unwrap(), &[0]).is_some(), "not a matrix");
    for token in [5, u32::MAX] {
        let expected = format!("cross-entropy: token {token} is outside the vocabulary of 5");
        assert_eq!(message(&x, &[0, token]), Some(expected));
    }
}
