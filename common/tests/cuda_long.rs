//! Long sequences on a GPU: inputs of blocks that wait on the host, slices, and matrices of more than 2³¹ numbers.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // how far apart results are

use std::path::Path;

use common::checkpoint::Tensor as Stored;
use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Tensor, Vector};
use common::kernels::attention::{self, Heads, Sequences};
use common::kernels::glu::{self, Activation};
use common::kernels::linear::{self, AdapterSlot, Linear, Parameters, Projection, Weight};
use common::kernels::rope::{self, Angles, Pairs, RotatedHeads};
use common::model::{AdapterSettings, Batch, Model, Place, Places, Sequence, TapePlan};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tests::random_model::write_model;
use tests::tolerance::difference;

const LAYERS: usize = 6;

fn gpu() -> Device {
    Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap())
}

/// Numbers that bf16 holds exactly.
fn values(random: &mut ChaCha8Rng, len: usize, bound: f32) -> Vec<f32> {
    (0..len).map(|_| bf16::from_f32(random.random_range(-bound..bound)).to_f32()).collect()
}

/// A model with adapters whose A and B are both random.
fn load(directory: &Path, places: &Places) -> Model {
    let device = gpu();
    let mut model = Model::load_to(directory, None, &device, |_| Ok(places.clone())).unwrap();
    model.add_adapters(&AdapterSettings::default()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let values = values(&mut random, model.adapters().values.len(), 0.02);
    let values = Vector::from_vec(values, &device).unwrap();
    let replace = |parameters: &mut Vector| {
        *parameters = values;
        Ok(())
    };
    model.update_parameters(replace).unwrap();
    model
}

/// Losses and gradients of passes of different lengths, so that memory on the host serves several of them.
fn computed(model: &Model, plan: TapePlan) -> (Vec<f64>, Vec<f32>) {
    let mut gradients = Vector::zeros(model.adapters().values.len(), model.device()).unwrap();
    let mut losses = Vec::new();
    for (pass, len) in [700, 2000, 300, 2000].into_iter().enumerate() {
        let tokens: Vec<u32> = (0..len).map(|t| (t * 37 + pass as u32 * 11) % 499).collect();
        let trained: Vec<bool> = (0..len).map(|t| t > len / 2).collect();
        let (first, second) = (len as usize / 3, len as usize);
        let sequences = [0..first, first..second]
            .map(|range| Sequence { tokens: &tokens[range.clone()], trained: &trained[range] });
        let batch = Batch::pack(sequences, 0);
        losses.push(model.loss_and_gradients(&batch, 1e-3, plan, &mut gradients).unwrap().mean());
    }
    (losses, gradients.to_vec().unwrap())
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn inputs_on_the_host_and_slices_change_nothing() {
    let json = json!({"model_type": "llama", "vocab_size": 500, "hidden_size": 512, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1408,
        "max_position_embeddings": 4096, "tie_word_embeddings": false});
    let directory = tempfile::tempdir().unwrap();
    write_model(&json, directory.path());
    let model = load(directory.path(), &Places::resident(LAYERS));
    let whole = computed(&model, 0.into());
    for slice in [None, Some(256), Some(1024)] {
        let plan = |recomputed, offloaded| TapePlan { recomputed, offloaded, slice };
        let kept = computed(&model, plan(LAYERS - 1, 0));
        for (recomputed, offloaded) in [(LAYERS - 1, LAYERS - 1), (LAYERS - 1, 2), (3, 3), (LAYERS, LAYERS)] {
            let found = computed(&model, plan(recomputed, offloaded));
            assert!(found == kept, "{offloaded} of {recomputed} inputs on the host, slices {slice:?}");
        }
        let streamed = load(directory.path(), &Places::streaming(LAYERS, 4, 2, Place::PageLocked));
        assert!(computed(&streamed, plan(LAYERS - 1, LAYERS - 1)) == kept, "streamed, slices {slice:?}");
        let (losses, gradients) = kept;
        for (loss, expected) in losses.iter().zip(&whole.0) {
            assert!((loss - expected).abs() < 1e-3 * expected, "slices {slice:?}: {loss}, {expected}");
        }
        let apart = difference(&gradients, &whole.1);
        eprintln!("slices {slice:?}: gradients differ by {apart:.1e}");
        assert!(apart < if slice.is_some() { 2e-2 } else { 1e-30 });
    }
}

/// A linear layer from few columns to many, with an adapter.
fn layer(device: &Device, random: &mut ChaCha8Rng, n: usize, k: usize) -> (Linear, Vector) {
    const RANK: usize = 8;
    let weight = Stored::from_f32("w", vec![n, k], &values(random, n * k, 0.2));
    let adapter = AdapterSlot { rank: RANK, scale: 0.5, a: 0..RANK * k, b: RANK * k..RANK * (k + n) };
    let projection =
        Projection { name: "w".into(), weight: Weight::Dense(weight), bias: None, adapter: Some(adapter) };
    let mut linear = Linear::new(vec![projection]).unwrap().to_device(device).unwrap();
    let parameters = Vector::from_vec(values(random, RANK * (k + n), 0.2), device).unwrap();
    linear.refresh_adapters(&parameters).unwrap();
    (linear, parameters)
}

/// Rows at the beginning, beyond the 2³¹st number, and at the end of a matrix of `rows` rows of `columns` columns.
fn chosen(rows: usize, columns: usize) -> Vec<u32> {
    let beyond = (1usize << 31) / columns;
    [0..40, beyond - 20..beyond + 20, rows - 40..rows].into_iter().flatten().map(|row| row as u32).collect()
}

/// Rows of a large matrix are those of the small one that is computed from the same rows.
fn expect_near(what: &str, large: &Tensor, rows: &[u32], small: &Tensor) {
    let (large, small) = (large.gather_rows(rows).unwrap().to_vec().unwrap(), small.to_vec().unwrap());
    let apart = difference(&large, &small);
    eprintln!("{what}: {apart:.1e}");
    assert!(apart < 1e-2, "{what}: rows differ by {apart:e}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gate_and_up_may_have_more_than_two_to_the_31_numbers() {
    const ROWS: usize = 56_000;
    const WIDTH: usize = 20_480;
    const K: usize = 64;
    let device = gpu();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (linear, parameters) = layer(&device, &mut random, 2 * WIDTH, K);
    let parameters = Parameters::from(&parameters);
    let x = Tensor::on(&device, values(&mut random, ROWS * K, 1.0), &[ROWS, K]).unwrap();
    let rows = chosen(ROWS, 2 * WIDTH);
    let few = x.gather_rows(&rows).unwrap();

    let gate_up = linear::forward(&x, &linear, Some(parameters), None).unwrap().y;
    let of_few = linear::forward(&few, &linear, Some(parameters), None).unwrap().y;
    expect_near("gate and up", &gate_up, &rows, &of_few);
    let hidden = glu::forward(&gate_up, Activation::Silu).unwrap();
    let of_few_hidden = glu::forward(&of_few, Activation::Silu).unwrap();
    expect_near("hidden", &hidden, &rows, &of_few_hidden);
    let (dgate_up, hidden) = glu::backward(hidden, gate_up, Activation::Silu).unwrap();
    let (of_few, of_few_hidden) = glu::backward(of_few_hidden, of_few, Activation::Silu).unwrap();
    expect_near("hidden again", &hidden, &rows, &of_few_hidden);
    expect_near("gradients of gate and up", &dgate_up, &rows, &of_few);
    drop(hidden);
    let backward = |dy: &Tensor| linear::backward(dy, &linear, parameters, true).unwrap();
    let (large, small) = (backward(&dgate_up), backward(&of_few));
    expect_near("gradient of the input", large.dx.as_ref().unwrap(), &rows, small.dx.as_ref().unwrap());

    // The adapter's gradients are sums over rows: those of all, and those of two parts.
    let gradients = |dy: &Tensor, x: &Tensor, sums: &mut Vector| {
        let backward = backward(dy);
        linear::adapter_gradients((dy, &backward), (x, None), &linear, parameters, sums).unwrap();
    };
    let zeros = || Vector::zeros(8 * (K + 2 * WIDTH), &device).unwrap();
    let (mut all, mut parts) = (zeros(), zeros());
    gradients(&dgate_up, &x, &mut all);
    for part in [0..ROWS as u32 / 2, ROWS as u32 / 2..ROWS as u32] {
        let rows: Vec<u32> = part.collect();
        gradients(&dgate_up.gather_rows(&rows).unwrap(), &x.gather_rows(&rows).unwrap(), &mut parts);
    }
    let apart = difference(&all.to_vec().unwrap(), &parts.to_vec().unwrap());
    eprintln!("gradients of the adapter: {apart:.1e}");
    assert!(apart < 1e-3, "{apart:e}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn queries_keys_and_values_may_have_more_than_two_to_the_31_numbers() {
    const LENGTH: usize = 1000;
    const COUNT: usize = 480;
    const K: usize = 64;
    let heads = Heads { queries: 28, keys: 4, size: 128 };
    let rotated = RotatedHeads { count: 32, size: 128, pairs: Pairs::Halves };
    let device = gpu();
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let (linear, _) = layer(&device, &mut random, heads.width(), K);
    let x = Tensor::on(&device, values(&mut random, COUNT * LENGTH * K, 1.0), &[COUNT * LENGTH, K]).unwrap();
    let (output, _) = layer(&device, &mut random, heads.queries * heads.size, K);
    let doutput = linear::forward(&x, &output, None, None).unwrap().y;
    let frequencies: Vec<f32> = (0..64).map(|i| 1e4f32.powf(-i as f32 / 64.0)).collect();
    // What attention makes of these rows, which are whole sequences.
    let run = |x: &Tensor, doutput: &Tensor| {
        let count = x.shape()[0] / LENGTH;
        let positions: Vec<u32> = (0..count * LENGTH).map(|row| (row % LENGTH) as u32).collect();
        let angles = Angles::new(&positions, &frequencies, 1.0, &device).unwrap();
        let starts: Vec<usize> = (0..=count).map(|sequence| sequence * LENGTH).collect();
        let sequences = Sequences::new(&starts, heads, &device).unwrap();
        let qkv = linear::forward(x, &linear, None, None).unwrap().y;
        let qkv = rope::forward(&qkv, rotated, &angles).unwrap();
        let attended = attention::forward(&qkv, heads, &sequences, None).unwrap();
        let dqkv = attention::backward(doutput, &qkv, &attended, heads, &sequences).unwrap();
        drop(qkv);
        (attended.output, rope::backward(&dqkv, rotated, &angles).unwrap())
    };
    let (attended, dqkv) = run(&x, &doutput);
    let beyond = (1usize << 31) / heads.width() / LENGTH;
    for sequence in [0, beyond, COUNT - 1] {
        let rows: Vec<u32> = (sequence * LENGTH..(sequence + 1) * LENGTH).map(|row| row as u32).collect();
        let alone = run(&x.gather_rows(&rows).unwrap(), &doutput.gather_rows(&rows).unwrap());
        expect_near(&format!("attention of sequence {sequence}"), &attended, &rows, &alone.0);
        expect_near(&format!("gradients of sequence {sequence}"), &dqkv, &rows, &alone.1);
    }
}
