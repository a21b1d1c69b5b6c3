//! Operations that take each row, or each element, on its own.

use common::device::{Device, Tensor};
use common::kernels::dropout::{self, Dropout};
use common::kernels::glu::{self, Activation};
use common::kernels::philox::Draws;
use common::kernels::rms_norm::{self, HeadNorms};
use common::kernels::rope::{self, Angles, Pairs, RotatedHeads};

use super::MANY_ROWS;
use super::check::{Check, on_gpu};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn rows_are_their_twins() {
    on_gpu(|check| {
        for (t, c) in [(1, 8), (3, 72), (65, 576), (17, 3584), (5, 12_296)] {
            rows(check, t, c);
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn many_rows_are_their_twins() {
    on_gpu(|check| rows(check, MANY_ROWS, 16));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn heads_are_their_twins() {
    on_gpu(|check| {
        for (t, heads, rest, d) in
            [(1, 1, 0, 64), (33, 12, 3, 64), (9, 32, 4, 128), (7, 5, 2, 80), (4, 3, 1, 96)]
        {
            rows_of_heads(check, t, heads, rest, d);
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn many_rows_of_heads_are_their_twins() {
    on_gpu(|check| rows_of_heads(check, MANY_ROWS, 2, 1, 64));
}

/// Norms, sums, dropout, SwiGLU and the choice of rows, for matrices [T, C].
fn rows(check: &mut Check, t: usize, c: usize) {
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
    if c.is_multiple_of(16) {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            gated_units(check, &format!("{activation:?} {what}"), activation, (&x, &gx));
        }
    }
    check.same(&format!("scale {what}"), &x.scale(0.22).unwrap(), &gx.scale(0.22).unwrap(), check.bound);
    let rows: Vec<u32> = (0..t as u32).rev().step_by(2).collect();
    let (some, gsome) = (x.gather_rows(&rows).unwrap(), gx.gather_rows(&rows).unwrap());
    check.same(&format!("gather {what}"), &some, &gsome, 0.0);
    let (back, gback) = (some.scatter_rows(&rows, t).unwrap(), gsome.scatter_rows(&rows, t).unwrap());
    check.same(&format!("scatter {what}"), &back, &gback, 0.0);
}

/// A gated linear unit, forward and backward.
fn gated_units(check: &mut Check, what: &str, activation: Activation, (x, gx): (&Tensor, &Tensor)) {
    let (t, f) = (x.shape()[0], x.shape()[1] / 2);
    let h = glu::forward(x, activation).unwrap();
    check.same(&format!("glu {what}"), &h, &glu::forward(gx, activation).unwrap(), check.bound);
    let (dh, gdh) = check.pair(&[t, f], 1.0);
    let (d, h) = glu::backward(dh, x.clone(), activation).unwrap();
    // Over the inputs where no other tensor shares them, else beside them.
    let (gd, gh) = glu::backward(gdh.clone(), gx.clone(), activation).unwrap();
    check.same(&format!("glu d {what}"), &d, &gd, check.bound);
    check.same(&format!("glu d h {what}"), &h, &gh, check.bound);
    check.same(&format!("glu d h {what} again"), &glu::forward(gx, activation).unwrap(), &gh, 0.0);
    let own = Tensor::on(&check.cuda, gx.to_vec().unwrap(), gx.shape()).unwrap();
    let (in_place, h_in_place) = glu::backward(gdh, own, activation).unwrap();
    check.same(&format!("glu d in place {what}"), &gd, &in_place, 0.0);
    check.same(&format!("glu d h in place {what}"), &gh, &h_in_place, 0.0);
}

/// Rotary embedding and the norms of heads, for rows of `heads` heads of `d` columns, and `rest` that stay as they are.
fn rows_of_heads(check: &mut Check, t: usize, heads: usize, rest: usize, d: usize) {
    let width = (heads + rest) * d;
    let (x, gx) = check.pair(&[t, width], 2.0);
    let (dy, gdy) = check.pair(&[t, width], 1.0);
    let positions: Vec<u32> = (0..t as u32).map(|t| t * 977).collect();
    // All elements of a head, or a part of them.
    for (half, pairs) in [
        (d / 2, Pairs::Halves),
        (d / 4, Pairs::Halves),
        (d / 2, Pairs::Neighbours),
        (d / 4, Pairs::Neighbours),
    ] {
        let rotated = RotatedHeads { count: heads, size: d, pairs };
        let frequencies: Vec<f32> = (0..half).map(|i| 1e4f32.powf(-(i as f32) / half as f32)).collect();
        let angles = Angles::new(&positions, &frequencies, 1.0, &Device::Cpu).unwrap();
        let gangles = Angles::new(&positions, &frequencies, 1.0, &check.cuda).unwrap();
        let what = format!("{t}x{heads}+{rest}x{d} {pairs:?} {half}");
        let (y, gy) = (rope::forward(&x, rotated, &angles), rope::forward(&gx, rotated, &gangles));
        check.same(&format!("rope {what}"), &y.unwrap(), &gy.unwrap(), check.bound);
        let (dx, gdx) = (rope::backward(&dy, rotated, &angles), rope::backward(&gdy, rotated, &gangles));
        check.same(&format!("rope d {what}"), &dx.unwrap(), &gdx.unwrap(), check.bound);
    }
    if heads < 2 {
        return;
    }
    // Each head on its own, and all but the last as one, where the rest is as wide as the last.
    for sizes in [[(heads - 1, d), (1, d)], [(1, (heads - 1) * d), (1, d)]] {
        let what = format!("{t}x{sizes:?}+{rest}x{d}");
        let (weights, gweights) = check.vectors(heads * d, 1.5);
        let norms = HeadNorms::new(weights, sizes).unwrap();
        let gnorms = HeadNorms::new(gweights, sizes).unwrap();
        let y = rms_norm::forward_heads(&x, &norms, 1e-6).unwrap();
        let gy = rms_norm::forward_heads(&gx, &gnorms, 1e-6).unwrap();
        check.same(&format!("rms_norm of heads {what}"), &y, &gy, check.bound);
        let dx = rms_norm::backward_heads(&dy, &x, &norms, 1e-6).unwrap();
        let gdx = rms_norm::backward_heads(&gdy, &gx, &gnorms, 1e-6).unwrap();
        check.same(&format!("rms_norm of heads dx {what}"), &dx, &gdx, check.bound);
    }
}
