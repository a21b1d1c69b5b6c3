use half::bf16;

use super::*;
use crate::checkpoint::{Dtype, Tensor as Stored};
use crate::device::cuda::Float16;
use crate::kernels::oracle::{Random, constant, exact, values};
use crate::kernels::philox::Draws;
use crate::nf4::{Quantized, Scheme};

#[test]
fn rows_are_those_of_the_table() {
    let mut random = Random::new(1);
    let (v, c) = (37, 13);
    let table: Vec<bf16> = random.values(v * c, 1.0).into_iter().map(bf16::from_f32).collect();
    let bytes: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
    let widened: Vec<f32> = table.iter().map(|value| value.to_f32()).collect();
    let stored = Stored { name: "table".into(), dtype: Dtype::BF16, shape: vec![v, c], bytes: bytes.into() };
    let quantized = Quantized::quantize(&Stored::from_f32("table", vec![v, c], &widened), Scheme::default());
    let quantized = quantized.unwrap();
    let dequantized = quantized.dequantize();
    for (weight, table) in [(Weight::Dense(stored), widened), (Weight::Quantized(quantized), dequantized)] {
        let mut tokens = random.below(50, v as u32);
        tokens.extend([0, v as u32 - 1]);
        let ids = candle_core::Tensor::from_slice(&tokens, tokens.len(), &candle_core::Device::Cpu).unwrap();
        let expected = candle_nn::Embedding::new(constant(&table, &[v, c]), c);
        let expected = candle_nn::Module::forward(&expected, &ids).unwrap();
        let embedding = Embedding::new(weight, 1.0);
        let x = forward(&tokens, &embedding, None, &Device::Cpu).unwrap();
        assert_eq!(x.shape(), [tokens.len(), c]);
        let found: Vec<f64> = values(&x).into_iter().map(f64::from).collect();
        assert_eq!(found, exact(&expected));
        assert_eq!(forward(&[], &embedding, None, &Device::Cpu).unwrap().shape(), [0, c]);
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_named() {
    let table = Embedding::new(Weight::Dense(Stored::from_f32("table", vec![3, 2], &[0.0; 6])), 1.0);
    let error = forward(&[0, 3], &table, None, &Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "embedding: token 3 is outside the vocabulary of 3");
    assert!(error.hint_text().is_some());
}

#[test]
fn noise_is_uniform_within_each_sequences_own_bound() {
    let c = 200;
    let table = Embedding::new(Weight::Dense(Stored::from_f32("table", vec![1, c], &vec![3.0; c])), 1.0);
    let draws = Draws { seed: 1, step: 2, stream: 3, first_row: 0 };
    let starts = [0, 10, 50, 51];
    let tokens = [0; 51];
    let noisy = |alpha, starts: &[usize], draws| {
        let noise = Noise::new(alpha, starts, c, draws);
        values(&forward(&tokens[..starts[starts.len() - 1]], &table, Some(&noise), &Device::Cpu).unwrap())
    };
    let x = noisy(5.0, &starts, draws);
    for rows in starts.windows(2) {
        let bound = 5.0 / ((rows[1] - rows[0]) as f64 * c as f64).sqrt();
        let noise: Vec<f64> =
            x[rows[0] * c..rows[1] * c].iter().map(|x| (f64::from(*x) - 3.0) / bound).collect();
        let n = noise.len() as f64;
        let [mean, square] = [1, 2].map(|power| noise.iter().map(|x| x.powi(power)).sum::<f64>() / n);
        assert!(noise.iter().all(|x| x.abs() < 1.0 + 1e-5), "{rows:?}");
        assert!(mean.abs() < 4.0 / (3.0 * n).sqrt() && (square - 1.0 / 3.0).abs() < 4.0 / (11.0 * n).sqrt());
    }
    // A pass that begins with the second sequence gives it the same noise.
    let rest = noisy(5.0, &[0, 40, 41], Draws { first_row: 10, ..draws });
    assert_eq!(rest, x[10 * c..]);
    assert!(noisy(0.0, &starts, draws).iter().all(|&x| x == 3.0));
}

/// On a GPU the noise is added on the host, to rows that are narrow already.
#[test]
fn noise_on_16_bits_is_rounded_once() {
    let (c, draws) = (77, Draws { seed: 1, step: 2, stream: 3, first_row: 0 });
    let noise = Noise::new(5.0, &[0, 1], c, draws);
    let mut exact: Vec<f32> = vec![0.25; c];
    noise.add(0, &mut exact);
    for float16 in [Float16::Bf16, Float16::Fp16] {
        let mut rounded = vec![float16.bits(0.25); c];
        noise.add_float16(0, float16, &mut rounded);
        assert_eq!(rounded, exact.iter().map(|value| float16.bits(*value)).collect::<Vec<_>>());
    }
}
