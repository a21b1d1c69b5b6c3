//! Linear layers, with and without adapters.

use common::checkpoint::Tensor as Stored;
use common::device::{Device, Tensor, Vector};
use common::kernels::dropout::Dropout;
use common::kernels::linear::{self, AdapterSlot, Linear, Parameters, Projection, Weight};
use common::kernels::philox::Draws;
use common::nf4::{QuantType, Quantized, Scheme};

use super::MANY_ROWS;
use super::check::{Check, on_gpu};

/// Projections of a stack: outputs, and the rank of the adapter where there is one.
type Shapes = &'static [(usize, Option<usize>)];

const SHAPES: [Shapes; 4] = [
    &[(64, Some(8))],
    &[(96, Some(4)), (32, None), (40, Some(16))],
    &[(72, Some(3))],
    &[(128, None), (64, None)],
];

fn kinds() -> [Kind; 4] {
    let nf4 = Scheme::default();
    [
        Kind::Dense,
        Kind::Quantized(nf4),
        Kind::Quantized(Scheme { double_quant: false, block_size: 128, ..nf4 }),
        Kind::Quantized(Scheme { quant_type: QuantType::Fp4, block_size: 256, ..nf4 }),
    ]
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn linear_layers_are_their_twins() {
    on_gpu(|check| {
        for kind in kinds() {
            for (k, t, shapes) in [
                (64, 1, SHAPES[0]),
                (96, 3, SHAPES[1]),
                (576, 8, SHAPES[1]),
                (200, 5, SHAPES[0]),
                (96, 9, SHAPES[1]),
                (576, 16, SHAPES[0]),
                (1184, 31, SHAPES[2]),
                (2048, 32, SHAPES[3]),
                (160, 33, SHAPES[1]),
                (4096, 64, SHAPES[1]),
                (576, 65, SHAPES[1]),
                (192, 130, SHAPES[2]),
                (320, 77, SHAPES[3]),
            ] {
                layer(check, kind, k, t, shapes);
            }
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn linear_layers_of_many_rows_are_their_twins() {
    on_gpu(|check| layer(check, Kind::Quantized(Scheme::default()), 64, MANY_ROWS, SHAPES[1]));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn adapters_beside_a_residual_arrive() {
    on_gpu(residual);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn weights_are_dequantized_as_bitsandbytes_does() {
    on_gpu(dequantized);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn adapters_are_copied_when_that_is_asked_for() {
    on_gpu(refreshed);
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

/// A stack without adapters, with them, with dropout and with a residual.
fn layer(check: &mut Check, kind: Kind, k: usize, t: usize, shapes: Shapes) {
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
        let (host, gpu) = (Parameters { values: &host, dropout }, Parameters { values: &gpu, dropout });
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
    let project = |x: &Tensor, linear: &Linear| linear::project(x, linear).unwrap().wait().unwrap();
    let (logits, glogits) = (project(&x, &linear), project(&gx, &glinear));
    check.close(&format!("{what} project"), &logits, &glogits, check.bound);
}

/// What adapters add to a residual that is large beside it is not rounded away: on average it arrives.
fn residual(check: &mut Check) {
    let ([linear, mut glinear], parameters) = stack(check, Kind::Dense, 64, SHAPES[0]);
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
}

/// Dequantized weights are what bitsandbytes rounds to 16 bits, to the bit.
fn dequantized(check: &mut Check) {
    for kind in &kinds()[1..] {
        let Weight::Quantized(quantized) = weight(check, *kind, [72, 200]) else { panic!("{kind:?}") };
        let expected = quantized.clone().with_dtype(check.float16.dtype()).dequantize();
        let projection =
            Projection { name: "w".into(), weight: Weight::Quantized(quantized), bias: None, adapter: None };
        let linear = Linear::new(vec![projection]).unwrap().to_device(&check.cuda).unwrap();
        let identity: Vec<f32> = (0..200 * 200).map(|i| if i % 201 == 0 { 1.0 } else { 0.0 }).collect();
        let x = Tensor::on(&check.cuda, identity, &[200, 200]).unwrap();
        let found = linear::project(&x, &linear).unwrap().wait().unwrap();
        let transposed: Vec<f32> = (0..72 * 200).map(|i| found[i % 200 * 72 + i / 200]).collect();
        check.close(&format!("dequantize {kind:?}"), &expected, &transposed, 0.0);
    }
}

/// A GPU multiplies with the copies of the adapters that were made last, and not without any.
fn refreshed(check: &mut Check) {
    let ([linear, mut glinear], parameters) = stack(check, Kind::Dense, 64, SHAPES[1]);
    let (x, gx) = check.pair(&[9, 64], 1.0);
    let changed: Vec<f32> = parameters.iter().map(|value| value * 0.5 + 0.125).collect();
    let first = Vector::from_vec(parameters, &check.cuda).unwrap();
    let error = linear::forward(&gx, &glinear, Some((&first).into()), None).err().unwrap();
    assert!(error.to_string().contains("not refreshed"), "{error}");
    for values in [first, Vector::from_vec(changed, &check.cuda).unwrap()] {
        glinear.refresh_adapters(&values).unwrap();
        let host = Vector::Cpu(values.to_vec().unwrap());
        let y = linear::forward(&x, &linear, Some((&host).into()), None).unwrap().y;
        let gy = linear::forward(&gx, &glinear, Some((&values).into()), None).unwrap().y;
        check.same("refreshed adapters", &y, &gy, 2.0 * check.bound);
    }
}
