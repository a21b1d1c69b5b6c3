//! The reference.

use rayon::prelude::*;

use super::Activation;
use crate::kernels::exp::exp;
use crate::kernels::simd::vectorized;

pub(super) fn forward(gate_up: &[f32], f: usize, activation: Activation) -> Vec<f32> {
    match activation {
        Activation::Silu => forward_with(gate_up, f, |gate| gate * sigmoid(gate)),
        Activation::GeluTanh => forward_with(gate_up, f, |gate| gate * sigmoid(2.0 * gelu_inner(gate))),
    }
}

/// dgate_up and h: `dup = dh · activation(gate)` and `dgate = dh · up · activation'(gate)`.
pub(super) fn backward(
    dh: &[f32],
    gate_up: &[f32],
    f: usize,
    activation: Activation,
) -> (Vec<f32>, Vec<f32>) {
    match activation {
        Activation::Silu => backward_with(dh, gate_up, f, |gate, up, dh| {
            let s = sigmoid(gate);
            [dh * up * s * (1.0 + gate * (1.0 - s)), dh * gate * s, gate * s * up]
        }),
        Activation::GeluTanh => backward_with(dh, gate_up, f, |gate, up, dh| {
            // ½(1 + tanh(x)) is sigmoid(2x).
            let s = sigmoid(2.0 * gelu_inner(gate));
            let slope = s + 2.0 * gate * s * (1.0 - s) * gelu_inner_slope(gate);
            [dh * up * slope, dh * gate * s, gate * s * up]
        }),
    }
}

#[inline(always)]
fn forward_with(gate_up: &[f32], f: usize, activation: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut h = vec![0.0; gate_up.len() / 2];
    h.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).for_each(|(h, gate_up)| {
        let (gate, up) = gate_up.split_at(f);
        vectorized(
            #[inline(always)]
            || {
                for ((h, &gate), &up) in h.iter_mut().zip(gate).zip(up) {
                    *h = activation(gate) * up;
                }
            },
        );
    });
    h
}

/// `parts` gives dgate, dup and h of a gate, an up and a dh.
#[inline(always)]
fn backward_with(
    dh: &[f32],
    gate_up: &[f32],
    f: usize,
    parts: impl Fn(f32, f32, f32) -> [f32; 3] + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate_up, mut h) = (vec![0.0; gate_up.len()], vec![0.0; dh.len()]);
    let outputs = dgate_up.par_chunks_mut(2 * f).zip(h.par_chunks_mut(f));
    let rows = outputs.zip(gate_up.par_chunks(2 * f)).zip(dh.par_chunks(f));
    rows.for_each(|(((dgate_up, h), gate_up), dh)| {
        let (gate, up) = gate_up.split_at(f);
        let (dgate, dup) = dgate_up.split_at_mut(f);
        vectorized(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(dh);
                let outputs = dgate.iter_mut().zip(&mut *dup).zip(h.iter_mut());
                for (((dgate, dup), h), ((&gate, &up), &dh)) in outputs.zip(inputs) {
                    [*dgate, *dup, *h] = parts(gate, up, dh);
                }
            },
        );
    });
    (dgate_up, h)
}

/// √(2/π) · (x + 0.044715x³), of which GELU's approximation takes the tanh.
#[inline(always)]
fn gelu_inner(x: f32) -> f32 {
    ROOT * (x + 0.044_715 * x * x * x)
}

/// The derivative of [`gelu_inner`].
#[inline(always)]
fn gelu_inner_slope(x: f32) -> f32 {
    ROOT * (1.0 + 3.0 * 0.044_715 * x * x)
}

/// √(2/π)
const ROOT: f32 = 0.797_884_6;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
