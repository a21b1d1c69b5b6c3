use half::bf16;

use super::*;
use crate::checkpoint::{Dtype, Tensor as Stored};
use crate::kernels::oracle::{Random, constant, exact, values};
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
        let x = forward(&tokens, &weight, &Device::Cpu).unwrap();
        assert_eq!(x.shape(), [tokens.len(), c]);
        let found: Vec<f64> = values(&x).into_iter().map(f64::from).collect();
        assert_eq!(found, exact(&expected));
        assert_eq!(forward(&[], &weight, &Device::Cpu).unwrap().shape(), [0, c]);
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_named() {
    let table = Weight::Dense(Stored::from_f32("table", vec![3, 2], &[0.0; 6]));
    let error = forward(&[0, 3], &table, &Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "embedding: token 3 is outside the vocabulary of 3");
    assert!(error.hint_text().is_some());
}
