use candle_nn::{AdamW as Candles, Optimizer, ParamsAdamW};

use super::*;
use crate::device::Device;
use crate::kernels::oracle::{Random, assert_close, constant, exact, variable};

/// Two steps of `torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01)` with gradients
/// (0.5, −1.5) and (−0.25, 0.75), worked out in f64 from the formula of the paper.
#[test]
fn two_steps_by_hand() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut parameters = Vector::Cpu(vec![1.0, -2.0]);
    let mut moments = Moments::new(2, &Device::Cpu).unwrap();
    let (mut p, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
    for (step, gradients) in [[0.5f32, -1.5], [-0.25, 0.75]].into_iter().enumerate() {
        optimizer.step(&mut parameters, &Vector::Cpu(gradients.to_vec()), 1.0, &mut moments, 0.1).unwrap();
        let parameters = parameters.host().unwrap();
        for i in 0..2 {
            let g = f64::from(gradients[i]);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let (m_hat, v_hat) =
                (m[i] / (1.0 - 0.9f64.powi(step as i32 + 1)), v[i] / (1.0 - 0.999f64.powi(step as i32 + 1)));
            p[i] = p[i] * (1.0 - 0.1 * 0.01) - 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((f64::from(parameters[i]) - p[i]).abs() < 1e-6, "{parameters:?} against {p:?}");
        }
    }
}

#[test]
fn clipping_is_torchs() {
    assert_eq!(norm(&[3.0, 4.0]), 5.0);
    assert_eq!(clip_factor(5.0, 1.0), (1.0 / 5.000001) as f32);
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(5.0, 0.0), 1.0);
}

/// Five steps of changing rates and clipping factors, on more parameters than one task takes.
#[test]
fn steps_are_candles() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    for len in [1, 17, 2 * (1 << 14) + 5] {
        let mut random = Random::new(len as u64);
        let start = random.values(len, 1.0);
        let var = variable(&start, &[len]);
        let mut parameters = Vector::Cpu(start);
        let mut expected = Candles::new(
            vec![var.clone()],
            ParamsAdamW {
                beta1: optimizer.beta1.into(),
                beta2: optimizer.beta2.into(),
                eps: optimizer.epsilon.into(),
                weight_decay: optimizer.weight_decay.into(),
                ..ParamsAdamW::default()
            },
        )
        .unwrap();
        let mut moments = Moments::new(len, &Device::Cpu).unwrap();
        for (rate, scale) in [(0.01f32, 1.0f32), (0.02, 0.5), (0.015, 1.0), (0.0, 0.25), (0.005, 0.125)] {
            let gradients = random.values(len, 2.0);
            let loss = var.mul(&constant(&gradients, &[len])).unwrap().sum_all().unwrap();
            let gradients = Vector::Cpu(gradients);
            optimizer.step(&mut parameters, &gradients, scale, &mut moments, rate).unwrap();
            expected.set_learning_rate(rate.into());
            expected.backward_step(&(loss * f64::from(scale)).unwrap()).unwrap();
        }
        assert_eq!(moments.steps, 5);
        assert_close("adamw", parameters.host().unwrap(), &exact(&var), 2e-6, 1e-6);
    }
}

#[test]
fn the_norm_is_exact_over_many_values() {
    let values = Random::new(1).values(100_003, 3.0);
    let expected = exact(&constant(&values, &[values.len()]).sqr().unwrap().sum_all().unwrap())[0].sqrt();
    assert!((norm(&values) / expected - 1.0).abs() < 1e-12);
    assert_eq!(norm(&[]), 0.0);
    assert!(norm(&[1.0, f32::NAN]).is_nan());
}

#[test]
fn wrong_lengths_are_errors_and_change_nothing() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    for (gradients, moments) in [(2, 3), (3, 2)] {
        let mut parameters = Vector::Cpu(vec![1.0; 3]);
        let mut moments = Moments::new(moments, &Device::Cpu).unwrap();
        let gradients = Vector::Cpu(vec![1.0; gradients]);
        assert!(optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, 0.1).is_err());
        assert_eq!((parameters.host().unwrap(), moments.steps), (&[1.0; 3][..], 0));
    }
}

/// Three tensors: two in 8 bits that share their parts, and one whose moments stay in f32.
fn mixed_spec() -> MomentsSpec {
    MomentsSpec::in_8_bits([0..4096, 4096..4096 + 4400, 8496..8500])
}

fn mixed() -> Moments {
    Moments::of(&mixed_spec(), &Device::Cpu).unwrap()
}

#[test]
fn the_size_of_moments_is_known_before_there_are_any() {
    assert_eq!(mixed_spec().bytes(), 2 * 8496 + 8 * (16 + 18) + 8 * 4);
    for spec in [mixed_spec(), MomentsSpec::exact(8500)] {
        let tensors = Moments::of(&spec, &Device::Cpu).unwrap().to_tensors().unwrap();
        let bytes: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        assert_eq!(spec.bytes(), bytes as u64);
        // On a GPU come the maps of 8-bit codes and what the pool rounds up; paged, the maps alone.
        let beyond = spec.gpu_bytes() - spec.bytes();
        assert!(beyond < 3 * 4096 && spec.paged().gpu_bytes() <= 4096, "{beyond}");
    }
}

fn blocks_of(moments: &Moments) -> Vec<(String, Vec<u8>)> {
    moments.to_tensors().unwrap().into_iter().map(|tensor| (tensor.name, tensor.bytes.to_vec())).collect()
}

#[test]
fn tensors_that_share_a_part_are_as_if_alone() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    let mut random = Random::new(3);
    let (start, gradients) = (random.values(8500, 1.0), random.values(8500, 2.0));
    let mut together = Vector::Cpu(start.clone());
    let mut moments = mixed();
    let rates = [(0..4096, 0.01), (4096..8500, 0.02)];
    for _ in 0..3 {
        let gradients = Vector::Cpu(gradients.clone());
        optimizer.step_at_rates(&mut together, &gradients, 0.5, &mut moments, &rates).unwrap();
    }
    for (range, rate) in [(0..4096, 0.01), (4096..8496, 0.02), (8496..8500, 0.02)] {
        let mut alone = Vector::Cpu(start[range.clone()].to_vec());
        let mut moments =
            Moments::of(&MomentsSpec::in_8_bits(std::iter::once(0..range.len())), &Device::Cpu).unwrap();
        for _ in 0..3 {
            let gradients = Vector::Cpu(gradients[range.clone()].to_vec());
            optimizer.step(&mut alone, &gradients, 0.5, &mut moments, rate).unwrap();
        }
        assert_eq!(alone.host().unwrap(), &together.host().unwrap()[range]);
    }
}

#[test]
fn moments_in_8_bits_stay_near_those_in_f32() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.0 };
    let mut random = Random::new(4);
    let start = random.values(8500, 1.0);
    let (mut exact, mut quantized) = (Vector::Cpu(start.clone()), Vector::Cpu(start.clone()));
    let (mut exact_moments, mut moments) = (Moments::new(8500, &Device::Cpu).unwrap(), mixed());
    let direction = random.values(8500, 1.0);
    for _ in 0..10 {
        let gradients: Vec<f32> =
            random.values(8500, 0.5).iter().zip(&direction).map(|(noise, mean)| mean + noise).collect();
        let gradients = Vector::Cpu(gradients);
        optimizer.step(&mut exact, &gradients, 1.0, &mut exact_moments, 0.01).unwrap();
        optimizer.step(&mut quantized, &gradients, 1.0, &mut moments, 0.01).unwrap();
    }
    let (exact, quantized) = (exact.host().unwrap(), quantized.host().unwrap());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    let moved = square(&mut exact.iter().zip(&start).map(|(after, before)| after - before));
    let apart = square(&mut exact.iter().zip(quantized).map(|(exact, quantized)| exact - quantized));
    assert!(apart > 0.0 && apart < 1e-3 * moved, "{apart} of {moved}");
    assert_eq!(exact[8496..], quantized[8496..], "the small tensor's moments are f32");
}

#[test]
fn moments_come_back_from_a_file_to_the_bit() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("optimizer.safetensors");
    let mut random = Random::new(5);
    let mut moments = mixed();
    let mut parameters = Vector::Cpu(random.values(8500, 1.0));
    let gradients = Vector::Cpu(random.values(8500, 1.0));
    optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, 0.01).unwrap();
    crate::checkpoint::write_file(&path, &moments.to_tensors().unwrap()).unwrap();
    let saved = crate::checkpoint::Checkpoint::open_file(&path).unwrap();
    let mut loaded = mixed();
    loaded.load(&saved, &Device::Cpu).unwrap();
    assert_eq!(blocks_of(&loaded), blocks_of(&moments));
    let mut others = Moments::of(&MomentsSpec::in_8_bits([0..4096, 4096..8500]), &Device::Cpu).unwrap();
    let error = others.load(&saved, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("first_moment.0.codes: 8500 values in U8 expected, found 8496"), "{error}");
    let error = Moments::new(8500, &Device::Cpu).unwrap().load(&saved, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("no tensor first_moment.0"), "{error}");
}

#[test]
fn a_rate_within_a_block_is_an_error_and_changes_nothing() {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut parameters = Vector::Cpu(vec![1.0; 8500]);
    let gradients = Vector::Cpu(vec![1.0; 8500]);
    for cut in [1, 300, 8400] {
        let mut moments = mixed();
        let rates = [(0..cut, 0.1), (cut..8500, 0.2)];
        assert!(optimizer.step_at_rates(&mut parameters, &gradients, 1.0, &mut moments, &rates).is_err());
        assert_eq!((parameters.host().unwrap(), moments.steps), (&[1.0; 8500][..], 0));
    }
}

fn norm(values: &[f32]) -> f64 {
    gradient_norm(&Vector::Cpu(values.to_vec())).unwrap()
}
