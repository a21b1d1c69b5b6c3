//! A whole model on the GPU in 16 bits against the same model on the host in f32: gradients, and the
//! losses of twenty steps.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // how far apart the devices are

use std::path::Path;

use common::checkpoint::Checkpoint;
use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, Moments, clip_factor, gradient_norm};
use common::model::{AdapterSettings, Batch, Cache, KeyValueCache, Model, Noise, Sequence};
use tests::needs;
use tests::random_model::randomize_adapters;

const STEPS: usize = 20;
/// What training adds at random, the same on both devices.
const NOISE: Noise = Noise { seed: 5, step: 0, first_token: 0, dropout: 0.1, neftune_alpha: 5.0 };

/// The model with adapters whose A and B are both random.
fn load(directory: &Path, device: &Device) -> Model {
    let mut model = Model::load(directory, device).unwrap();
    model.add_adapters(&AdapterSettings { seed: 3, ..AdapterSettings::default() }).unwrap();
    randomize_adapters(&mut model, 0.02);
    model
}

/// Four rows of a real data set a step, as the goldens of training have them.
fn batches() -> Vec<Batch> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/training.safetensors");
    let golden = Checkpoint::open_file(&path).unwrap();
    let integers = |name: &str| -> Vec<i32> {
        let tensor = golden.tensor(name).unwrap();
        tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    };
    let (ids, labels) = (integers("rows.ids"), integers("rows.labels"));
    let mut start = 0;
    let rows: Vec<(Vec<u32>, Vec<bool>)> = integers("rows.lengths")
        .into_iter()
        .map(|length| {
            let range = start..start + length as usize;
            start = range.end;
            let tokens = ids[range.clone()].iter().map(|&id| id as u32).collect();
            (tokens, labels[range].iter().map(|&label| label >= 0).collect())
        })
        .collect();
    let pack = |rows: &[(Vec<u32>, Vec<bool>)]| {
        Batch::pack(rows.iter().map(|(tokens, trained)| Sequence { tokens, trained }), 0)
    };
    rows.chunks(4).map(pack).collect()
}

/// Losses, the first step's gradients and the last parameters.
fn train(
    directory: &Path,
    device: &Device,
    steps: usize,
    recomputed: usize,
    noise: Option<Noise>,
) -> (Vec<f64>, Vec<f32>, Vec<f32>) {
    let mut model = load(directory, device);
    let batches = batches();
    let count = model.adapters().values.len();
    let mut moments = Moments::new(count, device).unwrap();
    let mut gradients = Vector::zeros(count, device).unwrap();
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    // Gradients in fp16 vanish without it.
    let in_fp16 = matches!(device, Device::Cuda(gpu) if gpu.float16() == Float16::Fp16);
    let loss_scale = if in_fp16 { 4096.0 } else { 1.0 };
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let noise = noise.map(|noise| Noise { step: step as u32, ..noise });
        let batch = &Batch { noise, ..batches[step % batches.len()].clone() };
        gradients.fill_zero().unwrap();
        let scale = loss_scale / batch.targets.len() as f32;
        losses.push(model.loss_and_gradients(batch, scale, recomputed, &mut gradients).unwrap().mean());
        if step == 0 {
            first = gradients.to_vec().unwrap().iter().map(|gradient| gradient / loss_scale).collect();
        }
        let norm = gradient_norm(&gradients).unwrap() / f64::from(loss_scale);
        assert!(norm.is_finite(), "step {step}: the gradient's norm is {norm}");
        let clip = clip_factor(norm, 1.0) / loss_scale;
        let step = |parameters: &mut Vector| optimizer.step(parameters, &gradients, clip, &mut moments, 1e-3);
        model.update_parameters(step).unwrap();
    }
    (losses, first, model.adapters().values.to_vec().unwrap())
}

/// How far the gradients of each tensor are from the expected, as a share of their norm, the farthest first.
fn distances(model: &Model, expected: &[f32], found: &[f32]) -> Vec<(f64, String)> {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let apart = model.adapters().tensors.iter().map(|tensor| {
        let (expected, found) = (&expected[tensor.range.clone()], &found[tensor.range.clone()]);
        let difference = norm(&mut expected.iter().zip(found).map(|(e, f)| e - f));
        (difference / norm(&mut expected.iter().copied()), tensor.name.clone())
    });
    let mut apart: Vec<(f64, String)> = apart.collect();
    apart.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (apart, name) in apart.iter().take(5) {
        eprintln!("gradient of {name}: {apart:.2e} apart");
    }
    eprintln!("gradients: {:.2e} apart in the median", apart[apart.len() / 2].0);
    apart
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn training_is_the_hosts_within_16_bits_and_twice_the_same() {
    let Some(directory) = needs::model() else { return };
    let cuda = Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap());
    let (losses, gradients, parameters) = train(&directory, &cuda, STEPS, 0, None);
    let again = train(&directory, &cuda, STEPS, 0, None);
    assert!((&losses, &parameters) == (&again.0, &again.2), "two runs give the same bytes");
    let recomputed = train(&directory, &cuda, STEPS, usize::MAX, None);
    assert!((&losses, &parameters) == (&recomputed.0, &recomputed.2), "recomputing changes no bit");

    let (expected_losses, expected_gradients, _) = train(&directory, &Device::Cpu, STEPS, 0, None);
    let model = load(&directory, &Device::Cpu);
    let apart = distances(&model, &expected_gradients, &gradients);
    for (step, (expected, found)) in expected_losses.iter().zip(&losses).enumerate() {
        eprintln!("step {step}: loss {expected:.5} on the host, {found:.5} on the GPU");
    }
    let (expected, found) = (&expected_gradients, &gradients);
    let same = expected.iter().zip(found).filter(|(e, f)| e.signum() == f.signum()).count();
    let (median, signs) = (apart[apart.len() / 2].0, same as f64 / found.len() as f64);
    eprintln!("{:.1} % of the gradients have one sign", 100.0 * signs);
    // PEFT's gradients of these rows in bf16 are 0.11, 0.05 and 98.3 % from its own in f32
    // (scripts/golden/bf16.py): queries and keys suffer most, whose gradients are small differences.
    assert!(apart[0].0 < 0.2 && median < 0.08 && signs > 0.97, "{:?}, {median}, {signs}", apart[0]);
    for (step, (expected, found)) in expected_losses.iter().zip(&losses).enumerate() {
        // From step to step, what was rounded adds up.
        let bound = if step < STEPS / 2 { 0.01 } else { 0.02 };
        assert!((found / expected - 1.0).abs() < bound, "step {step}: {found} and {expected}");
    }

    let cuda = Device::Cuda(Gpu::open(0, Float16::Fp16).unwrap());
    let (losses, gradients, _) = train(&directory, &cuda, STEPS, 0, None);
    let apart = distances(&model, &expected_gradients, &gradients);
    assert!(apart[0].0 < 0.03 && apart[apart.len() / 2].0 < 0.015, "in fp16: {:?}", apart[0]);
    for (expected, found) in expected_losses.iter().zip(&losses) {
        assert!((found / expected - 1.0).abs() < 0.003, "in fp16: {found} and {expected}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn training_with_noise_is_the_hosts_too() {
    let Some(directory) = needs::model() else { return };
    let cuda = Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap());
    let steps = 4;
    let (losses, _, parameters) = train(&directory, &cuda, steps, 0, Some(NOISE));
    let recomputed = train(&directory, &cuda, steps, usize::MAX, Some(NOISE));
    assert!((&losses, &parameters) == (&recomputed.0, &recomputed.2), "recomputing changes no bit");
    let (expected, ..) = train(&directory, &Device::Cpu, steps, 0, Some(NOISE));
    let (without, ..) = train(&directory, &cuda, steps, 0, None);
    for (step, (expected, found)) in expected.iter().zip(&losses).enumerate() {
        eprintln!(
            "step {step}: loss {expected:.5} on the host, {found:.5} on the GPU, {:.5} without",
            without[step]
        );
        assert!((found / expected - 1.0).abs() < 0.01, "{found} and {expected}");
    }
    assert_ne!(losses, without);
}

/// How far apart logits are, as a share of the norm of the first.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()).sqrt()
}

/// Texts that are read in passes in which others decode, and end one after the other.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn texts_continue_together_as_each_does_alone() {
    let Some(directory) = needs::model() else { return };
    let gpu = load(&directory, &Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap()));
    let text = |text: u32| (0..1 + text * 29 % 120).map(|t| (t + text * 17) * 37 % 1000).collect();
    let texts: Vec<Vec<u32>> = (0..20).map(text).collect();
    for without_adapters in [false, true] {
        let mut caches: Vec<KeyValueCache> = texts.iter().map(|_| KeyValueCache::new()).collect();
        for most in [40, 1, 1, 9, 1, 60, 1] {
            let (mut members, mut read) = (Vec::new(), Vec::new());
            for (text, cache) in
                texts.iter().zip(&mut caches).filter(|(text, cache)| cache.len() < text.len())
            {
                let end = text.len().min(cache.len() + most);
                read.push(&text[..end]);
                members.push((&text[cache.len()..end], cache));
            }
            let logits = gpu.continue_texts(&mut members, without_adapters).unwrap();
            assert_eq!(logits.rows().len(), read.len());
            for (found, text) in logits.rows().zip(read) {
                let (batch, row) = (Batch::prompt(text, 0), [text.len() as u32 - 1]);
                let expected = match without_adapters {
                    true => gpu.base_logits(&batch, &row, Cache::None),
                    false => gpu.logits(&batch, &row, Cache::None),
                };
                let difference = apart(&expected.unwrap(), found);
                assert!(difference < 4e-2, "a text of {}: {difference:.2e}", text.len());
            }
        }
        // A copy of the beginning of another text is continued as that is.
        let (tokens, mut copy) = (&texts[4][..caches[4].len()], KeyValueCache::new());
        let device = gpu.device();
        copy.reserve(200, gpu.config(), device).unwrap();
        copy.copy_prefix(&caches[4], tokens.len() - 3).unwrap();
        let mut whole = KeyValueCache::new();
        let rest = &tokens[tokens.len() - 3..];
        let found = gpu.continue_texts(&mut [(rest, &mut copy)], without_adapters).unwrap();
        let expected = gpu.continue_texts(&mut [(tokens, &mut whole)], without_adapters).unwrap();
        let (found, expected) = (found.rows().next().unwrap(), expected.rows().next().unwrap());
        assert!(apart(expected, found) < 4e-2, "{:.2e}", apart(expected, found));
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn adapters_take_turns_on_one_model() {
    let Some(directory) = needs::model() else { return };
    let device = Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap());
    let mut model = load(&directory, &device);
    let batch = Batch::prompt(&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 0);
    let logits = |model: &Model| model.logits(&batch, &[10], Cache::None).unwrap();
    let (first, of_base) = (logits(&model), model.base_logits(&batch, &[10], Cache::None).unwrap());
    let adapter = model.detach_adapters();
    assert!(first != of_base && logits(&model) == of_base, "the base is left");
    model.add_adapters(&AdapterSettings { rank: 2, ..AdapterSettings::default() }).unwrap();
    let fill = |values: &mut Vector| {
        *values = Vector::from_vec(vec![0.01; values.len()], &device)?;
        Ok(())
    };
    model.update_parameters(fill).unwrap();
    let second = logits(&model);
    assert!(second != first && second != of_base, "another adapter");
    let other = model.detach_adapters();
    model.attach_adapters(adapter).unwrap();
    assert!(logits(&model) == first, "the first adapter again");
    model.attach_adapters(other).unwrap();
    assert!(logits(&model) == second, "the other one in its place");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn decoding_and_scoring_behind_a_cache_are_the_whole_pass() {
    let Some(directory) = needs::model() else { return };
    let cuda = Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap());
    let (host, gpu) = (load(&directory, &Device::Cpu), load(&directory, &cuda));
    let tokens: Vec<u32> = (0..90).map(|t| t * 37 % 1000).collect();
    let rows: Vec<u32> = (0..90).collect();
    let whole = gpu.logits(&Batch::prompt(&tokens, 0), &rows, Cache::None).unwrap();
    let expected = host.logits(&Batch::prompt(&tokens, 0), &rows, Cache::None).unwrap();
    let v = gpu.config().vocabulary;
    eprintln!("logits: {:.2e} apart", apart(&expected, &whole));
    assert!(apart(&expected, &whole) < 3e-2);
    // Pieces that take the few-rows path, the many-rows path, and one token at a time.
    let mut cache = KeyValueCache::new();
    let mut first = 0;
    for piece in [50, 8, 20, 3, 1, 1, 1, 6] {
        let part = &tokens[first..first + piece];
        let rows: Vec<u32> = (0..piece as u32).collect();
        let batch = Batch::prompt(part, cache.len());
        let logits = gpu.logits(&batch, &rows, Cache::Extend(&mut cache)).unwrap();
        let difference = apart(&whole[first * v..(first + piece) * v], &logits);
        assert!(difference < 4e-2, "tokens {first} to {}: {difference:.2e}", first + piece);
        first += piece;
    }
    assert_eq!(first, tokens.len());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn passes_that_are_begun_before_others_are_waited_for_have_the_logits_of_each_alone() {
    let Some(directory) = needs::model() else { return };
    let model = load(&directory, &Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap()));
    let texts: Vec<Vec<u32>> =
        [700, 40, 3, 300, 90].map(|len| (0..len).map(|t| (t + len) * 37 % 1000).collect()).into();
    let begin = |tokens: &Vec<u32>| {
        let rows: Vec<u32> = (0..tokens.len() as u32).step_by(5).collect();
        model.begin_logits(&Batch::prompt(tokens, 0), &rows, Cache::None).unwrap()
    };
    let alone: Vec<Vec<f32>> = texts.iter().map(|text| begin(text).wait().unwrap().into_vec()).collect();
    for _ in 0..3 {
        let begun: Vec<_> = texts.iter().map(begin).collect();
        assert!(begun.iter().all(|logits| !logits.are_there()));
        for (logits, alone) in begun.into_iter().zip(&alone) {
            assert!(logits.wait().unwrap().into_vec() == *alone, "to the bit");
        }
    }
    // Logits that are not waited for give their memory back after their copy.
    drop(texts.iter().map(begin).collect::<Vec<_>>());
    assert!(begin(&texts[0]).wait().unwrap().into_vec() == alone[0]);
}
