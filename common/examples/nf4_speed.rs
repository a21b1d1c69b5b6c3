//! Speed of the 4-bit codec on this machine's processor, a JSON line for each measure:
//! `cargo run --release -p common --example nf4_speed`.

use std::time::Instant;

use common::checkpoint::{Dtype, Tensor, cast_from_f32};
use common::nf4::{Quantized, Scheme};
use common::{Result, cli};
use rayon::prelude::*;

/// Qwen2.5-7B's gate projection.
const SHAPE: [usize; 2] = [18944, 3584];
const COUNT: usize = SHAPE[0] * SHAPE[1];
const REPEATS: usize = 9;
/// Rows that a thread dequantizes at a time: 112 KiB of f32, which stay in its cache.
const ROWS: usize = 8;

fn main() -> Result<()> {
    let weight = bf16_weight()?;
    report("quantize", &mut || Quantized::quantize(&weight, Scheme::default()).map(drop))?;
    let quantized = Quantized::quantize(&weight, Scheme::default())?;
    let mut out = vec![0.0; COUNT];
    report("dequantize", &mut || {
        out.par_chunks_mut(ROWS * SHAPE[1]).enumerate().for_each(|(block, out)| {
            quantized.dequantize_rows(block * ROWS..(block + 1) * ROWS, out);
        });
        Ok(())
    })?;
    report("dequantize in cache", &mut || {
        (0..SHAPE[0] / ROWS).into_par_iter().for_each_init(
            || vec![0.0; ROWS * SHAPE[1]],
            |buffer, block| quantized.dequantize_rows(block * ROWS..(block + 1) * ROWS, buffer),
        );
        Ok(())
    })
}

/// Numbers of -1 to 1 in no order.
fn bf16_weight() -> Result<Tensor> {
    let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..COUNT).map(number).collect();
    let mut bytes = vec![0; 2 * COUNT];
    cast_from_f32(Dtype::BF16, &values, &mut bytes)?;
    Ok(Tensor { name: "weight".into(), dtype: Dtype::BF16, shape: SHAPE.to_vec(), bytes: bytes.into() })
}

/// Prints the median speed of a call that goes once over the weight.
fn report(measure: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (speed, fastest) = (COUNT as f64 / times[REPEATS / 2] / 1e6, COUNT as f64 / times[0] / 1e6);
    cli::answer(format_args!(
        "{{\"measure\": \"{measure}\", \"value\": {speed:.0}, \"unit\": \"M weights/s\", \"fastest\": {fastest:.0}}}\n"
    ))
}
