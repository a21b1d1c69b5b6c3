//! Every kernel on the GPU against its twin on the host: the same inputs, rounded to 16 bits; buffers
//! that hold NaN before; the same bits in two runs. Skipped, saying so, without a GPU.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // says what is skipped, and how far apart the twins are

use common::checkpoint::Tensor as Stored;
use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Tensor, Vector};
use common::kernels::adamw::{AdamW, Moments, MomentsSpec, gradient_norm};
use common::kernels::attention::{self, AttentionSpec, Heads, Past, Sequences};
use common::kernels::dropout::{self, Dropout};
use common::kernels::embedding::{self, Embedding};
use common::kernels::linear::{self, AdapterSlot, Linear, Parameters, Projection, Weight};
use common::kernels::linear_cross_entropy::{self, RowWeights};
use common::kernels::philox::Draws;
use common::kernels::rope::{self, Angles};
use common::kernels::{rms_norm, swiglu};
use common::nf4::{QuantType, Quantized, Scheme};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Check {
    cuda: Device,
    float16: Float16,
    /// How far apart rounding once may bring twins: bf16 moves a value by up to 2⁻⁹ of itself and by
    /// 2⁻⁹/√3 in the mean square, fp16 by an eighth of that.
    bound: f64,
    random: ChaCha8Rng,
    failures: Vec<String>,
}

impl Check {
    /// Values that bf16 and fp16 hold exactly.
    fn values(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len).map(|_| bf16::from_f32(self.random.random_range(-bound..bound)).to_f32()).collect()
    }

    fn pair(&mut self, shape: &[usize], bound: f32) -> (Tensor, Tensor) {
        let values = self.values(shape.iter().product(), bound);
        (
            Tensor::on(&Device::Cpu, values.clone(), shape).unwrap(),
            Tensor::on(&self.cuda, values, shape).unwrap(),
        )
    }

    fn vectors(&mut self, len: usize, bound: f32) -> (Vector, Vector) {
        let values = self.values(len, bound);
        (Vector::Cpu(values.clone()), Vector::from_vec(values, &self.cuda).unwrap())
    }

    /// The norm of the difference, as a share of the norm of what is expected; 0 is to the bit.
    fn close(&mut self, what: &str, expected: &[f32], found: &[f32], bound: f64) {
        assert_eq!(expected.len(), found.len(), "{what}");
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let pairs = || expected.iter().zip(found).map(|(&e, &f)| f64::from(e) - f64::from(f));
        let apart = norm(&mut pairs()) / norm(&mut expected.iter().map(|&e| f64::from(e))).max(1e-30);
        eprintln!("{what}: {apart:.2e} of {bound:.0e}");
        // NaN is not close to anything.
        if apart.partial_cmp(&bound).is_none_or(std::cmp::Ordering::is_gt) {
            let worst =
                pairs().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).map_or(0, |worst| worst.0);
            let (e, f, len) = (expected[worst], found[worst], expected.len());
            self.failures.push(format!("{what}: {apart:.2e}, at {worst} of {len} {e} and {f}"));
        }
    }

    fn same(&mut self, what: &str, expected: &Tensor, found: &Tensor, bound: f64) {
        assert_eq!(expected.shape(), found.shape(), "{what}");
        self.close(what, &expected.to_vec().unwrap(), &found.to_vec().unwrap(), bound);
    }
}

/// Buffers come from a pool: filled with NaN and given back, they are what the next ops write into.
fn poison(device: &Device) {
    for len in [1usize << 10, 1 << 14, 1 << 18, 1 << 22] {
        for _ in 0..4 {
            drop(Vector::from_vec(vec![f32::NAN; len], device).unwrap());
        }
    }
}

/// Compares some kernels with their twins, in both number types and in memory that holds NaN before.
fn on_gpu(compare: fn(&mut Check)) {
    if Gpu::count() == 0 {
        eprintln!("skipped: there is no GPU");
        return;
    }
    for (float16, bound) in [(Float16::Bf16, 3e-3), (Float16::Fp16, 4e-4)] {
        let cuda = Device::Cuda(Gpu::open(0, float16).unwrap());
        poison(&cuda);
        let random = ChaCha8Rng::seed_from_u64(1);
        let mut check = Check { cuda, float16, bound, random, failures: Vec::new() };
        compare(&mut check);
        assert!(check.failures.is_empty(), "{float16:?}\n{}", check.failures.join("\n"));
    }
}

#[test]
fn elementwise_kernels_are_their_twins() {
    on_gpu(elementwise);
}

#[test]
fn linear_layers_are_their_twins() {
    on_gpu(linears);
}

#[test]
fn heads_and_embeddings_are_their_twins() {
    on_gpu(heads);
}

#[test]
fn attention_is_its_twin() {
    on_gpu(attentions);
}

#[test]
fn attention_behind_a_past_is_its_twin() {
    on_gpu(attentions_behind_a_past);
}

#[test]
fn the_optimizer_is_its_twin() {
    on_gpu(optimizer);
}

fn elementwise(check: &mut Check) {
    for (t, c) in [(1, 8), (3, 72), (65, 576), (17, 3584), (5, 12_296)] {
        let what = format!("{t}x{c}");
        let (x, gx) = check.pair(&[t, c], 2.0);
        let (dy, gdy) = check.pair(&[t, c], 1.0);
        let (weight, gweight) = check.vectors(c, 1.5);
        let y = rms_norm::forward(&x, &weight, 1e-5).unwrap();
        let gy = rms_norm::forward(&gx, &gweight, 1e-5).unwrap();
        check.same(&format!("rms_norm {what}"), &y, &gy, check.bound);
        for residual in [false, true] {
            let (around, garound) = (residual.then_some(&dy), residual.then_some(&gdy));
            let (dx, _) = rms_norm::backward(&dy, &x, &weight, around, 1e-5).unwrap();
            let (gdx, again) = rms_norm::backward(&gdy, &gx, &gweight, garound, 1e-5).unwrap();
            check.same(&format!("rms_norm dx {what}"), &dx, &gdx, check.bound);
            check.same(&format!("rms_norm d y {what}"), &gy, &again, 0.0);
        }
        check.same(&format!("add {what}"), &x.add(&dy).unwrap(), &gx.add(&gdy).unwrap(), check.bound);
        let draws = Draws { seed: 5 << 33 | 1, step: 2, stream: 7, first_row: 3 };
        let dropout = Dropout::new(0.3, draws).unwrap();
        let (y, gy) = (dropout::forward(&x, &dropout).unwrap(), dropout::forward(&gx, &dropout).unwrap());
        check.same(&format!("dropout {what}"), &y, &gy, check.bound);
        let mask = |y: &Tensor| -> Vec<f32> {
            y.to_vec().unwrap().iter().map(|&y| f32::from(u8::from(y != 0.0))).collect()
        };
        check.close(&format!("dropout's mask {what}"), &mask(&y), &mask(&gy), 0.0);
        if c % 16 == 0 {
            let h = swiglu::forward(&x).unwrap();
            check.same(&format!("swiglu {what}"), &h, &swiglu::forward(&gx).unwrap(), check.bound);
            let (dh, gdh) = check.pair(&[t, c / 2], 1.0);
            let (d, h) = swiglu::backward(dh, x.clone()).unwrap();
            // Over the inputs where nobody shares them, and beside them else.
            let (gd, gh) = swiglu::backward(gdh.clone(), gx.clone()).unwrap();
            check.same(&format!("swiglu d {what}"), &d, &gd, check.bound);
            check.same(&format!("swiglu d h {what}"), &h, &gh, check.bound);
            check.same(&format!("swiglu d h {what} again"), &swiglu::forward(&gx).unwrap(), &gh, 0.0);
            let own = Tensor::on(&check.cuda, gx.to_vec().unwrap(), gx.shape()).unwrap();
            let (in_place, h_in_place) = swiglu::backward(gdh, own).unwrap();
            check.same(&format!("swiglu d in place {what}"), &gd, &in_place, 0.0);
            check.same(&format!("swiglu d h in place {what}"), &gh, &h_in_place, 0.0);
        }
        let rows: Vec<u32> = (0..t as u32).rev().step_by(2).collect();
        let (some, gsome) = (x.gather_rows(&rows).unwrap(), gx.gather_rows(&rows).unwrap());
        check.same(&format!("gather {what}"), &some, &gsome, 0.0);
        let (back, gback) = (some.scatter_rows(&rows, t).unwrap(), gsome.scatter_rows(&rows, t).unwrap());
        check.same(&format!("scatter {what}"), &back, &gback, 0.0);
    }
    for (t, heads, rest, d) in [(1, 1, 0, 64), (33, 12, 3, 64), (9, 32, 4, 128), (7, 5, 2, 80), (4, 3, 1, 96)]
    {
        let width = (heads + rest) * d;
        let (x, gx) = check.pair(&[t, width], 2.0);
        let (dy, gdy) = check.pair(&[t, width], 1.0);
        let positions: Vec<u32> = (0..t as u32).map(|t| t * 977).collect();
        let frequencies: Vec<f32> = (0..d / 2).map(|i| 1e4f32.powf(-(i as f32) / (d / 2) as f32)).collect();
        let angles = Angles::new(&positions, &frequencies, 1.0, &Device::Cpu).unwrap();
        let gangles = Angles::new(&positions, &frequencies, 1.0, &check.cuda).unwrap();
        let what = format!("{t}x{heads}+{rest}x{d}");
        let y = rope::forward(&x, heads * d, &angles).unwrap();
        check.same(
            &format!("rope {what}"),
            &y,
            &rope::forward(&gx, heads * d, &gangles).unwrap(),
            check.bound,
        );
        let y = rope::backward(&dy, heads * d, &angles).unwrap();
        check.same(
            &format!("rope d {what}"),
            &y,
            &rope::backward(&gdy, heads * d, &gangles).unwrap(),
            check.bound,
        );
        let (weights, gweights) = check.vectors(heads * d, 1.5);
        let y = rms_norm::forward_heads(&x, &weights, d, 1e-6).unwrap();
        let gy = rms_norm::forward_heads(&gx, &gweights, d, 1e-6).unwrap();
        check.same(&format!("rms_norm of heads {what}"), &y, &gy, check.bound);
        let dx = rms_norm::backward_heads(&dy, &x, &weights, d, 1e-6).unwrap();
        let gdx = rms_norm::backward_heads(&gdy, &gx, &gweights, d, 1e-6).unwrap();
        check.same(&format!("rms_norm of heads dx {what}"), &dx, &gdx, check.bound);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense,
    Quantized(Scheme),
}

fn weight(check: &mut Check, kind: Kind, [n, k]: [usize; 2]) -> Weight {
    let values = check.values(n * k, 1.0 / (k as f32).sqrt());
    let stored = Stored::from_f32("w", vec![n, k], &values);
    match kind {
        Kind::Dense => Weight::Dense(stored),
        Kind::Quantized(scheme) => Weight::Quantized(Quantized::quantize(&stored, scheme).unwrap()),
    }
}

/// The same stack on both devices, with its parameters.
fn stack(
    check: &mut Check,
    kind: Kind,
    k: usize,
    shapes: &[(usize, Option<usize>)],
) -> ([Linear; 2], Vec<f32>) {
    let mut len = 5;
    let mut place = |size: usize| {
        len += size;
        len - size..len
    };
    let a: Vec<_> = shapes.iter().map(|shape| shape.1.map(|rank| place(rank * k))).collect();
    let b: Vec<_> = shapes.iter().map(|shape| shape.1.map(|rank| place(shape.0 * rank))).collect();
    let weights: Vec<_> = shapes.iter().map(|&(n, _)| weight(check, kind, [n, k])).collect();
    let biases: Vec<_> = shapes.iter().map(|&(n, _)| check.values(n, 1.0)).collect();
    let linear = |device: &Device| {
        let projections = shapes.iter().enumerate().map(|(i, &(_, rank))| Projection {
            name: format!("p{i}"),
            weight: weights[i].clone(),
            bias: (i != 1).then(|| biases[i].clone()),
            adapter: rank.map(|rank| AdapterSlot {
                rank,
                scale: 0.5 + i as f32,
                a: a[i].clone().unwrap(),
                b: b[i].clone().unwrap(),
            }),
        });
        Linear::new(projections.collect()).unwrap().to_device(device).unwrap()
    };
    let linears = [linear(&Device::Cpu), linear(&check.cuda)];
    (linears, check.values(len + 3, 0.3))
}

fn linears(check: &mut Check) {
    let nf4 = Scheme::default();
    let kinds = [
        Kind::Dense,
        Kind::Quantized(nf4),
        Kind::Quantized(Scheme { double_quant: false, block_size: 128, ..nf4 }),
        Kind::Quantized(Scheme { quant_type: QuantType::Fp4, block_size: 256, ..nf4 }),
    ];
    let shapes: [&[(usize, Option<usize>)]; 4] = [
        &[(64, Some(8))],
        &[(96, Some(4)), (32, None), (40, Some(16))],
        &[(72, Some(3))],
        &[(128, None), (64, None)],
    ];
    for kind in kinds {
        for (k, t, shapes) in [
            (64, 1, shapes[0]),
            (96, 3, shapes[1]),
            (576, 8, shapes[1]),
            (200, 5, shapes[0]),
            (576, 65, shapes[1]),
            (192, 130, shapes[2]),
            (320, 77, shapes[3]),
        ] {
            let what = format!("linear {kind:?} {t}x{k} {shapes:?}");
            let ([linear, mut glinear], parameters) = stack(check, kind, k, shapes);
            let (x, gx) = check.pair(&[t, k], 1.0);
            let (dy, gdy) = check.pair(&[t, linear.outputs()], 1.0);
            let device = check.cuda.clone();
            let (host, gpu) =
                (Vector::Cpu(parameters.clone()), Vector::from_vec(parameters.clone(), &device).unwrap());
            glinear.refresh_adapters(&gpu).unwrap();
            let plain = linear::forward(&x, &linear, None, None).unwrap();
            let gplain = linear::forward(&gx, &glinear, None, None).unwrap();
            check.same(&format!("{what} plain"), &plain.y, &gplain.y, check.bound);
            let draws = Draws { seed: 1 << 40 | 2, step: 3, stream: 0, first_row: 4 };
            for dropout in [None, Some(Dropout::new(0.25, draws).unwrap())] {
                let what = format!("{what} {}", if dropout.is_some() { "dropped" } else { "whole" });
                let (host, gpu) =
                    (Parameters { values: &host, dropout }, Parameters { values: &gpu, dropout });
                let y = linear::forward(&x, &linear, Some(host), None).unwrap();
                let gy = linear::forward(&gx, &glinear, Some(gpu), None).unwrap();
                check.same(&what, &y.y, &gy.y, 2.0 * check.bound);
                let again = linear::forward(&gx, &glinear, Some(gpu), None).unwrap();
                check.same(&format!("{what} again"), &gy.y, &again.y, 0.0);
                let around = linear::forward(&x, &linear, Some(host), Some(&dy)).unwrap();
                let garound = linear::forward(&gx, &glinear, Some(gpu), Some(&gdy)).unwrap();
                check.same(&format!("{what} plus a residual"), &around.y, &garound.y, 2.0 * check.bound);
                let before = check.values(parameters.len(), 0.5);
                let sums = || Vector::from_vec(before.clone(), &device).unwrap();
                let (mut sums, mut gsums, mut gagain) = (Vector::Cpu(before.clone()), sums(), sums());
                let grads = linear::backward(&dy, &linear, host, true).unwrap();
                let ggrads = linear::backward(&gdy, &glinear, gpu, true).unwrap();
                let (dx, gdx) = (grads.dx.as_ref().unwrap(), ggrads.dx.as_ref().unwrap());
                check.same(&format!("{what} dx"), dx, gdx, 2.0 * check.bound);
                let (grads, ggrads, given) = ((&dy, &grads), (&gdy, &ggrads), (&x, y.lora_hidden.as_ref()));
                linear::adapter_gradients(grads, given, &linear, host, &mut sums).unwrap();
                let ggiven = (&gx, gy.lora_hidden.as_ref());
                linear::adapter_gradients(ggrads, ggiven, &glinear, gpu, &mut gsums).unwrap();
                linear::adapter_gradients(ggrads, (&gx, None), &glinear, gpu, &mut gagain).unwrap();
                let (sums, gsums) = (sums.to_vec().unwrap(), gsums.to_vec().unwrap());
                check.close(&format!("{what} dA, dB"), &sums, &gsums, 2.0 * check.bound);
                let what = format!("{what} dA, dB with x·Aᵀ computed again");
                check.close(&what, &gsums, &gagain.to_vec().unwrap(), 0.0);
            }
            let around = linear::forward(&x, &linear, None, Some(&dy)).unwrap();
            let garound = linear::forward(&gx, &glinear, None, Some(&gdy)).unwrap();
            check.same(&format!("{what} plain plus a residual"), &around.y, &garound.y, check.bound);
            let (logits, glogits) =
                (linear::project(&x, &linear).unwrap(), linear::project(&gx, &glinear).unwrap());
            check.close(&format!("{what} project"), &logits, &glogits, check.bound);
        }
    }
    // What adapters add to a residual that is large beside it is not rounded away: on average it arrives.
    let ([linear, mut glinear], parameters) = stack(check, Kind::Dense, 64, shapes[0]);
    let (x, gx) = check.pair(&[512, 64], 1.0);
    let around = |device: &Device| Tensor::on(device, vec![64.0; 512 * 64], &[512, 64]).unwrap();
    let (host, gpu) = (Vector::Cpu(parameters.clone()), Vector::from_vec(parameters, &check.cuda).unwrap());
    glinear.refresh_adapters(&gpu).unwrap();
    let difference = |x: &Tensor, linear: &Linear, parameters: &Vector, around: &Tensor| -> Vec<f64> {
        let y =
            |parameters| linear::forward(x, linear, parameters, Some(around)).unwrap().y.to_vec().unwrap();
        let (with, without) = (y(Some(parameters.into())), y(None));
        with.iter().zip(without).map(|(with, without)| f64::from(with - without)).collect()
    };
    let expected = difference(&x, &linear, &host, &around(&Device::Cpu));
    let found = difference(&gx, &glinear, &gpu, &around(&check.cuda));
    let along: f64 = expected.iter().zip(&found).map(|(e, f)| e * f).sum();
    let share = along / expected.iter().map(|e| e * e).sum::<f64>();
    check.close("adapters beside a residual", &[1.0], &[share as f32], 0.2);
    // Widened weights are what bitsandbytes rounds to bf16, to the bit.
    for kind in &kinds[1..] {
        let Weight::Quantized(quantized) = weight(check, *kind, [72, 200]) else { panic!("{kind:?}") };
        let expected = quantized.clone().with_dtype(check.float16.dtype()).dequantize();
        let projection =
            Projection { name: "w".into(), weight: Weight::Quantized(quantized), bias: None, adapter: None };
        let linear = Linear::new(vec![projection]).unwrap().to_device(&check.cuda).unwrap();
        let identity: Vec<f32> = (0..200 * 200).map(|i| if i % 201 == 0 { 1.0 } else { 0.0 }).collect();
        let x = Tensor::on(&check.cuda, identity, &[200, 200]).unwrap();
        let found = linear::project(&x, &linear).unwrap();
        let transposed: Vec<f32> = (0..72 * 200).map(|i| found[i % 200 * 72 + i / 200]).collect();
        check.close(&format!("dequantize {kind:?}"), &expected, &transposed, 0.0);
    }
}

fn heads(check: &mut Check) {
    for (n, v, c) in [(3, 1000, 64), (70, 49_152, 128), (1700, 50_001, 64)] {
        let projection = Projection {
            name: "lm_head".into(),
            weight: weight(check, Kind::Dense, [v, c]),
            bias: None,
            adapter: None,
        };
        let build = |device: &Device| {
            let projection = Projection {
                name: "lm_head".into(),
                weight: projection.weight.clone(),
                bias: None,
                adapter: None,
            };
            Linear::new(vec![projection]).unwrap().to_device(device).unwrap()
        };
        let (head, ghead) = (build(&Device::Cpu), build(&check.cuda));
        let (x, gx) = check.pair(&[n, c], 4.0);
        let targets: Vec<u32> = (0..n).map(|_| check.random.random_range(0..v as u32)).collect();
        let loss = linear_cross_entropy::forward(&x, &head, &targets).unwrap().sum().unwrap();
        let gloss = linear_cross_entropy::forward(&gx, &ghead, &targets).unwrap().sum().unwrap();
        check.close(&format!("loss {n}x{v}"), &[loss as f32], &[gloss as f32], 1e-3);
        // As a loss scale makes it: small probabilities are numbers that fp16 has.
        let scale = 60.0;
        let (losses, dx) =
            linear_cross_entropy::forward_backward(&x, &head, &targets, RowWeights::Equal(scale)).unwrap();
        let (glosses, gdx) =
            linear_cross_entropy::forward_backward(&gx, &ghead, &targets, RowWeights::Equal(scale)).unwrap();
        assert_eq!(losses.sum().unwrap(), loss);
        assert_eq!(glosses.sum().unwrap(), gloss);
        check.same(&format!("loss dx {n}x{v}"), &dx, &gdx, 2.0 * check.bound);
        let weights: Vec<f32> = (0..n).map(|row| scale * ((row % 4) as f32 - 1.0)).collect();
        let [(_, dx), (_, gdx)] = [(&x, &head), (&gx, &ghead)].map(|(x, head)| {
            linear_cross_entropy::forward_backward(x, head, &targets, RowWeights::Each(&weights)).unwrap()
        });
        check.same(&format!("weighted loss dx {n}x{v}"), &dx, &gdx, 2.0 * check.bound);
    }
    let mut table = Embedding::new(weight(check, Kind::Dense, [64, 24]));
    let x = embedding::forward(&[3, 63, 0, 3], &table, None, &Device::Cpu).unwrap();
    let gx = embedding::forward(&[3, 63, 0, 3], &table, None, &check.cuda).unwrap();
    check.same("embedding", &x, &gx, 0.0);
    assert_eq!(table.keep_on_gpu(2 * 64 * 24 - 1, &check.cuda).unwrap(), 0);
    assert_eq!(table.keep_on_gpu(2 * 64 * 24, &check.cuda).unwrap(), 2 * 64 * 24);
    let gx = embedding::forward(&[3, 63, 0, 3], &table, None, &check.cuda).unwrap();
    check.same("embedding on the GPU", &x, &gx, 0.0);
}

/// Every head size that GPUs have kernels for.
const HEADS: [Heads; 5] = [
    Heads { queries: 9, keys: 3, size: 64 },
    Heads { queries: 28, keys: 4, size: 128 },
    Heads { queries: 4, keys: 4, size: 80 },
    Heads { queries: 6, keys: 2, size: 96 },
    Heads { queries: 32, keys: 8, size: 128 },
];

/// All heads without a window, and some with windows of every kind: of one token, shorter and longer than the
/// tiles of keys, and about as long as the sequences.
fn heads_and_windows() -> impl Iterator<Item = (Heads, Option<usize>)> {
    let windows = [1, 33, 100, 128, 300, 900].into_iter();
    let windowed = windows.flat_map(|window| [0, 1, 2].map(|heads| (HEADS[heads], Some(window))));
    HEADS.into_iter().map(|heads| (heads, None)).chain(windowed)
}

fn attentions(check: &mut Check) {
    // The last three are long enough for the kernels of Hopper, with and without whole blocks and tiles.
    let batches: [&[usize]; 7] = [
        &[0, 1],
        &[0, 1, 3, 20, 83, 147, 212, 341, 541],
        &[0, 3, 3, 10],
        &[0, 128, 256, 263],
        &[0, 700],
        &[0, 1, 961, 962, 1040],
        &[0, 896],
    ];
    for (heads, window) in heads_and_windows() {
        let Heads { queries, keys, size } = heads;
        let spec = AttentionSpec { window, ..heads.into() };
        for starts in batches {
            let t = *starts.last().unwrap();
            let what = format!("attention {queries}/{keys}x{size} {starts:?} window {window:?}");
            let (qkv, gqkv) = check.pair(&[t, heads.width()], 2.0);
            let (dy, gdy) = check.pair(&[t, queries * size], 1.0);
            let sequences = Sequences::new(starts, heads, &Device::Cpu).unwrap();
            let gsequences = Sequences::new(starts, heads, &check.cuda).unwrap();
            let y = attention::forward(&qkv, spec, &sequences, None).unwrap();
            let gy = attention::forward(&gqkv, spec, &gsequences, None).unwrap();
            check.same(&what, &y.output, &gy.output, 2.0 * check.bound);
            let (sums, gsums) = (y.log_sums.to_vec().unwrap(), gy.log_sums.to_vec().unwrap());
            check.close(&format!("{what} log-sums"), &sums, &gsums, 1e-3);
            let d = attention::backward(&dy, &qkv, &y, spec, &sequences).unwrap();
            let gd = attention::backward(&gdy, &gqkv, &gy, spec, &gsequences).unwrap();
            check.same(&format!("{what} d"), &d, &gd, 3.0 * check.bound);
            let again = attention::backward(&gdy, &gqkv, &gy, spec, &gsequences).unwrap();
            check.same(&format!("{what} d again"), &gd, &again, 0.0);
        }
    }
}

fn attentions_behind_a_past(check: &mut Check) {
    for (heads, window) in heads_and_windows() {
        let Heads { queries, keys, size } = heads;
        let spec = AttentionSpec { window, ..heads.into() };
        for (past_len, starts) in
            [(5, &[0, 1][..]), (700, &[0, 1]), (2051, &[0, 8]), (64, &[0, 7]), (701, &[0, 50, 51, 180, 300])]
        {
            let t = *starts.last().unwrap();
            let what =
                format!("attention {queries}/{keys}x{size} after {past_len} {starts:?} window {window:?}");
            // In two pieces, as a cache grows.
            let (first, gfirst) = check.pair(&[past_len / 2 + 1, heads.width()], 2.0);
            let (second, gsecond) = check.pair(&[past_len - past_len / 2 - 1, heads.width()], 2.0);
            let mut past = Past::new(&first, heads).unwrap();
            let mut gpast = Past::new(&gfirst, heads).unwrap();
            past.append(&second, heads).unwrap();
            gpast.append(&gsecond, heads).unwrap();
            let (qkv, gqkv) = check.pair(&[t, heads.width()], 2.0);
            let sequences = Sequences::new(starts, heads, &Device::Cpu).unwrap();
            let gsequences = Sequences::new(starts, heads, &check.cuda).unwrap();
            let y = attention::forward(&qkv, spec, &sequences, Some(&past)).unwrap();
            let gy = attention::forward(&gqkv, spec, &gsequences, Some(&gpast)).unwrap();
            check.same(&what, &y.output, &gy.output, 2.0 * check.bound);
        }
    }
}

fn optimizer(check: &mut Check) {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    for len in [1, 17, 100_003] {
        let (mut parameters, mut gparameters) = check.vectors(len, 1.0);
        let mut moments = Moments::new(len, &Device::Cpu).unwrap();
        let mut gmoments = Moments::new(len, &check.cuda).unwrap();
        for (rate, scale) in [(0.01f32, 1.0f32), (0.02, 0.5), (0.0, 0.25)] {
            let (gradients, ggradients) = check.vectors(len, 2.0);
            let (norm, gnorm) = (gradient_norm(&gradients).unwrap(), gradient_norm(&ggradients).unwrap());
            check.close(&format!("norm {len}"), &[norm as f32], &[gnorm as f32], 1e-6);
            optimizer.step(&mut parameters, &gradients, scale, &mut moments, rate).unwrap();
            optimizer.step(&mut gparameters, &ggradients, scale, &mut gmoments, rate).unwrap();
        }
        let (found, gfound) = (parameters.to_vec().unwrap(), gparameters.to_vec().unwrap());
        check.close(&format!("adamw {len}"), &found, &gfound, 1e-6);
    }
    // In unified memory a step gives the same bits.
    let len = 100_003;
    let (parameters, _) = check.vectors(len, 1.0);
    let (gradients, _) = check.vectors(len, 1.0);
    let step = |moments: Moments| {
        let on_gpu = |vector: &Vector| Vector::from_vec(vector.to_vec().unwrap(), &check.cuda).unwrap();
        let (mut parameters, gradients, mut moments) = (on_gpu(&parameters), on_gpu(&gradients), moments);
        for _ in 0..2 {
            optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, 0.01).unwrap();
        }
        let moments = moments.to_tensors().unwrap();
        (parameters.to_vec().unwrap(), moments.iter().map(|moment| moment.bytes.to_vec()).collect::<Vec<_>>())
    };
    for spec in [MomentsSpec::exact(len), MomentsSpec::in_8_bits(std::iter::once(0..len))] {
        let paged = spec.clone().paged();
        let [plain, paged] = [&spec, &paged].map(|spec| step(Moments::of(spec, &check.cuda).unwrap()));
        assert!(plain == paged, "paged moments give other bits: {spec:?}");
    }
    // In 8 bits: two tensors whose blocks run on, one behind an incomplete block, one too small for it.
    let (tensors, len) = ([0..51_200, 51_200..70_003, 70_003..100_000, 100_000..100_003], 100_003);
    let (mut parameters, mut gparameters) = check.vectors(len, 1.0);
    let mut moments = Moments::of(&MomentsSpec::in_8_bits(tensors.clone()), &Device::Cpu).unwrap();
    let mut gmoments = Moments::of(&MomentsSpec::in_8_bits(tensors), &check.cuda).unwrap();
    for bound in [2.0, 1e-4, 1.0] {
        let (gradients, ggradients) = check.vectors(len, bound);
        let rates = [(0..51_200, 0.01), (51_200..len, 0.02)];
        optimizer.step_at_rates(&mut parameters, &gradients, 0.5, &mut moments, &rates).unwrap();
        optimizer.step_at_rates(&mut gparameters, &ggradients, 0.5, &mut gmoments, &rates).unwrap();
    }
    let (found, gfound) = (parameters.to_vec().unwrap(), gparameters.to_vec().unwrap());
    check.close("adamw in 8 bits", &found[..100_000], &gfound[..100_000], 0.0);
    let (moments, gmoments) = (moments.to_tensors().unwrap(), gmoments.to_tensors().unwrap());
    for (moment, gmoment) in moments.iter().zip(&gmoments) {
        let is_in_8_bits = moment.name.ends_with(".codes") || moment.name.ends_with(".absmax");
        if is_in_8_bits && *moment.bytes != *gmoment.bytes {
            check.failures.push(format!("adamw in 8 bits: {} differs", moment.name));
        }
    }
}
