//! Speed of NF4 on this machine's processor: `cargo run --release -p common --example nf4_speed`.

use std::time::Instant;

use common::checkpoint::{Dtype, Tensor};
use common::nf4::{Quantized, Scheme};
use rayon::prelude::*;

/// Rows and columns of the weight that is measured.
const SHAPE: [usize; 2] = [4096, 4096];
const REPEATS: usize = 15;

fn main() -> common::Result<()> {
    let [rows, columns] = SHAPE;
    let count = rows * columns;
    let bytes: Vec<u8> = (0..count as u32)
        .flat_map(|i| {
            let value = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
            half::bf16::from_f32(value).to_le_bytes()
        })
        .collect();
    let tensor = Tensor { name: "w".into(), dtype: Dtype::BF16, shape: SHAPE.to_vec(), bytes: bytes.into() };
    let report = |what: &str, seconds: f64| {
        common::cli::answer(format_args!("{what}: {:.0} M weights/s\n", count as f64 / seconds / 1e6))
    };
    report(
        "quantize, bf16, double quantization",
        median(|| Quantized::quantize(&tensor, Scheme::default()).map(drop))?,
    )?;
    let weight = Quantized::quantize(&tensor, Scheme::default())?;
    let rows_each = 64;
    let mut out = vec![0.0; count];
    report(
        "dequantize into 64 MiB of f32",
        median(|| {
            out.par_chunks_mut(rows_each * columns).enumerate().for_each(|(chunk, out)| {
                weight.dequantize_rows(chunk * rows_each..(chunk + 1) * rows_each, out);
            });
            Ok(())
        })?,
    )?;
    report(
        "dequantize into buffers that stay in cache",
        median(|| {
            (0..rows / rows_each).into_par_iter().for_each_init(
                || vec![0.0; 8 * columns],
                |buffer, chunk| {
                    for part in 0..rows_each / 8 {
                        let start = chunk * rows_each + part * 8;
                        weight.dequantize_rows(start..start + 8, buffer);
                    }
                },
            );
            Ok(())
        })?,
    )?;
    Ok(())
}

/// The median time of a call, in seconds.
fn median(mut work: impl FnMut() -> common::Result<()>) -> common::Result<f64> {
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}
