//! The head with its cross-entropy.

use common::checkpoint::Tensor as Stored;
use common::device::Device;
use common::kernels::linear::{Linear, Projection, Weight};
use common::kernels::linear_cross_entropy::{self, RowWeights};
use rand::Rng;

use super::MANY_ROWS;
use super::check::{Check, on_gpu};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_head_is_its_twin() {
    on_gpu(|check| {
        for (n, v, c) in [(3, 1000, 64), (70, 49_152, 128), (1700, 50_001, 64)] {
            head(check, n, v, c);
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_head_of_many_rows_is_its_twin() {
    on_gpu(|check| head(check, MANY_ROWS, 256, 64));
}

/// Losses and gradients of `n` rows of `c` columns in a vocabulary of `v` tokens.
fn head(check: &mut Check, n: usize, v: usize, c: usize) {
    let values = check.values(v * c, 1.0 / (c as f32).sqrt());
    let weight = Weight::Dense(Stored::from_f32("w", vec![v, c], &values));
    let build = |device: &Device| {
        let (name, weight) = ("lm_head".into(), weight.clone());
        let projection = Projection { name, weight, bias: None, adapter: None };
        Linear::new(vec![projection]).unwrap().to_device(device).unwrap()
    };
    let (head, ghead) = (build(&Device::Cpu), build(&check.cuda));
    let (x, gx) = check.pair(&[n, c], 4.0);
    let targets: Vec<u32> = (0..n).map(|_| check.random.random_range(0..v as u32)).collect();
    for softcap in [None, Some(3.0)] {
        let what = format!("{n}x{v}, softcap {softcap:?}");
        let loss =
            |x, head| linear_cross_entropy::forward(x, head, &targets, softcap).unwrap().sum().unwrap();
        let (loss, gloss) = (loss(&x, &head), loss(&gx, &ghead));
        check.close(&format!("loss {what}"), &[loss as f32], &[gloss as f32], 1e-3);
        // As a loss scale makes it: small probabilities are numbers that fp16 has.
        let scale = 60.0;
        let run = |x, head, weights: RowWeights| {
            linear_cross_entropy::forward_backward(x, head, &targets, weights, softcap).unwrap()
        };
        let (losses, dx) = run(&x, &head, RowWeights::Equal(scale));
        let (glosses, gdx) = run(&gx, &ghead, RowWeights::Equal(scale));
        assert_eq!(losses.sum().unwrap(), loss);
        assert_eq!(glosses.sum().unwrap(), gloss);
        check.same(&format!("loss dx {what}"), &dx, &gdx, 2.0 * check.bound);
        let weights: Vec<f32> = (0..n).map(|row| scale * ((row % 4) as f32 - 1.0)).collect();
        let (_, dx) = run(&x, &head, RowWeights::Each(&weights));
        let (_, gdx) = run(&gx, &ghead, RowWeights::Each(&weights));
        check.same(&format!("weighted loss dx {what}"), &dx, &gdx, 2.0 * check.bound);
    }
}
