//! The reference.

use rayon::prelude::*;

use crate::kernels::exp::exp;
use crate::kernels::simd::vectorized;

pub(super) fn forward(gate_up: &[f32], f: usize) -> Vec<f32> {
    let mut h = vec![0.0; gate_up.len() / 2];
    h.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).for_each(|(h, gate_up)| {
        let (gate, up) = gate_up.split_at(f);
        vectorized(|| {
            for ((h, &gate), &up) in h.iter_mut().zip(gate).zip(up) {
                *h = gate * sigmoid(gate) * up;
            }
        });
    });
    h
}

/// dgate_up and h. With `s = sigmoid(gate)`: `dup = dh · gate · s` and
/// `dgate = dh · up · s · (1 + gate · (1 − s))`.
pub(super) fn backward(dh: &[f32], gate_up: &[f32], f: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate_up, mut h) = (vec![0.0; gate_up.len()], vec![0.0; dh.len()]);
    let outputs = dgate_up.par_chunks_mut(2 * f).zip(h.par_chunks_mut(f));
    let rows = outputs.zip(gate_up.par_chunks(2 * f)).zip(dh.par_chunks(f));
    rows.for_each(|(((dgate_up, h), gate_up), dh)| {
        let (gate, up) = gate_up.split_at(f);
        let (dgate, dup) = dgate_up.split_at_mut(f);
        vectorized(|| {
            let inputs = gate.iter().zip(up).zip(dh);
            let outputs = dgate.iter_mut().zip(dup).zip(h.iter_mut());
            for (((dgate, dup), h), ((&gate, &up), &dh)) in outputs.zip(inputs) {
                let s = sigmoid(gate);
                *dup = dh * gate * s;
                *dgate = dh * up * s * (1.0 + gate * (1.0 - s));
                *h = gate * s * up;
            }
        });
    });
    (dgate_up, h)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
