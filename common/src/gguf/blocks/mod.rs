//! Encodes numbers as the types of GGUF store them, with the bytes of llama.cpp's `ggml-quants.c` without an
//! importance matrix.
//!
//! Each file follows the reference function of its types operation by operation, because sums of floats depend
//! on their order. The sub-blocks of a block are searched side by side, one in each lane of a register, which changes
//! the order of no sum.

mod decode;
mod k_quants;
mod plain;
mod q6_k;
mod wide;

use half::{bf16, f16};
use pulp::Arch;

use super::TensorType;
use crate::kernels::simd::vectorized;

/// Encodes or decodes block by block, compiled for the widest instruction set there is. A macro, because a function that
/// is passed on is not inlined, and only what is inlined is compiled so.
macro_rules! each {
    ($values:expr, $out:expr, $convert:expr) => {
        vectorized(
            #[inline(always)]
            || {
                for (block, out) in $values.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
                    $convert(block, out);
                }
            },
        )
    };
}

/// Encodes whole rows: `values` are rows of any number of blocks, and `out` takes their bytes. Returns the index of
/// the first value that the type cannot hold: one that is not finite, or too large for 16 bits.
pub fn encode_rows(kind: TensorType, values: &[f32], out: &mut [u8]) -> Option<usize> {
    let most = match kind {
        TensorType::F32 => f32::MAX,
        TensorType::BF16 => f32::from(bf16::MAX),
        _ => f32::from(f16::MAX),
    };
    let fits = |value: &f32| value.abs() <= most;
    if let Some(index) = values.iter().position(|value| !fits(value)) {
        return Some(index);
    }
    match kind {
        TensorType::F32 => each!(values, out, plain::f32),
        TensorType::F16 => each!(values, out, plain::f16),
        TensorType::BF16 => each!(values, out, plain::bf16),
        TensorType::Q4_0 => each!(values, out, plain::q4_0),
        TensorType::Q5_0 => each!(values, out, plain::q5_0),
        TensorType::Q5_1 => each!(values, out, plain::q5_1),
        TensorType::Q8_0 => each!(values, out, plain::q8_0),
        TensorType::Q4K => k_quants::q4_k(Arch::new(), values, out),
        TensorType::Q5K => k_quants::q5_k(Arch::new(), values, out),
        TensorType::Q6K => q6_k::q6_k(Arch::new(), values, out),
    }
    None
}

/// Decodes whole blocks: `bytes` are those of any number of rows, and `out` takes their values.
pub fn decode_rows(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => each!(bytes, out, decode::f32),
        TensorType::F16 => each!(bytes, out, decode::f16),
        TensorType::BF16 => each!(bytes, out, decode::bf16),
        TensorType::Q4_0 => each!(bytes, out, decode::q4_0),
        TensorType::Q5_0 => each!(bytes, out, decode::q5_0),
        TensorType::Q5_1 => each!(bytes, out, decode::q5_1),
        TensorType::Q8_0 => each!(bytes, out, decode::q8_0),
        TensorType::Q4K => each!(bytes, out, decode::q4_k),
        TensorType::Q5K => each!(bytes, out, decode::q5_k),
        TensorType::Q6K => each!(bytes, out, decode::q6_k),
    }
}

/// 1.5 · 2²³, to which numbers below 2²² are added exactly but for their fractions.
const SHIFT: f32 = 12_582_912.0;

/// The nearest whole number, and of two equally near the even one, of a magnitude below 2²².
#[inline(always)]
fn nearest(value: f32) -> f32 {
    (value + SHIFT) - SHIFT
}

/// The rows of a matrix as columns.
#[inline(always)]
fn transposed<T: Copy + Default, const ROWS: usize, const COLUMNS: usize>(
    rows: &[[T; COLUMNS]; ROWS],
) -> [[T; ROWS]; COLUMNS] {
    let mut columns = [[T::default(); ROWS]; COLUMNS];
    for (at, row) in rows.iter().enumerate() {
        for (column, &value) in columns.iter_mut().zip(row) {
            column[at] = value;
        }
    }
    columns
}

/// Whole numbers below 256 as bytes.
#[inline(always)]
fn bytes<const ROWS: usize, const COLUMNS: usize>(numbers: &[[f32; COLUMNS]; ROWS]) -> [[u8; COLUMNS]; ROWS] {
    let mut bytes = [[0; COLUMNS]; ROWS];
    for (byte, &number) in bytes.as_flattened_mut().iter_mut().zip(numbers.as_flattened()) {
        *byte = number as u8;
    }
    bytes
}

/// The bytes of a half-precision float.
#[inline(always)]
fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::super::tensor_type::ALL;
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::hex;

    /// The blocks of ggml, of values of many distributions.
    #[test]
    fn blocks_are_ggmls() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf/blocks.safetensors");
        let golden = Checkpoint::open_file(&file).unwrap();
        let values = golden.tensor("values").unwrap();
        let (rows, values) = (values.shape[0], values.to_f32().unwrap());
        for kind in [
            TensorType::Q4_0,
            TensorType::Q5_0,
            TensorType::Q5_1,
            TensorType::Q8_0,
            TensorType::Q4K,
            TensorType::Q5K,
            TensorType::Q6K,
        ] {
            let expected = golden.tensor(&kind.to_string()).unwrap();
            let row_bytes = kind.row_bytes(256);
            let mut found = vec![0; rows * row_bytes];
            assert_eq!(encode_rows(kind, &values, &mut found), None);
            for (row, (found, expected)) in
                found.chunks(row_bytes).zip(expected.bytes.chunks(row_bytes)).enumerate()
            {
                assert_eq!(found, expected, "{kind}, row {row}");
            }
        }
    }

    /// Every instruction set gives the same bytes, for any number of blocks.
    #[test]
    fn blocks_are_alike_under_every_instruction_set() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf/blocks.safetensors");
        let golden = Checkpoint::open_file(&file).unwrap();
        let values = golden.tensor("values").unwrap().to_f32().unwrap();
        let mut sets = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
        type Encode = fn(Arch, &[f32], &mut [u8]);
        for (name, encode) in
            [("Q4_K", k_quants::q4_k as Encode), ("Q5_K", k_quants::q5_k), ("Q6_K", q6_k::q6_k)]
        {
            let expected = golden.tensor(name).unwrap();
            let row = expected.shape[1];
            for (arch, blocks) in sets.iter().flat_map(|arch| [1, 2, 5].map(|blocks| (*arch, blocks))) {
                let mut found = vec![0; blocks * row];
                encode(arch, &values[..blocks * 256], &mut found);
                assert_eq!(found, expected.bytes[..blocks * row], "{name}, {arch:?}, {blocks}");
            }
        }
    }

    /// The numbers that gguf-py computes of the same blocks, by the SHA-256 of their bytes.
    #[test]
    fn numbers_of_blocks_are_gguf_pys() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf");
        let golden = Checkpoint::open_file(&folder.join("blocks.safetensors")).unwrap();
        let hashes = std::fs::read(folder.join("dequantized.json")).unwrap();
        let hashes: std::collections::BTreeMap<String, String> = serde_json::from_slice(&hashes).unwrap();
        assert_eq!(hashes.len(), 7);
        for (name, expected) in hashes {
            let kind = ALL.into_iter().find(|kind| kind.to_string() == name).unwrap();
            let blocks = golden.tensor(&name).unwrap();
            let mut values = vec![0.0; blocks.shape[0] * 256];
            decode_rows(kind, &blocks.bytes, &mut values);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(hex(Sha256::digest(bytes)), expected, "{name}");
        }
    }

    #[test]
    fn what_16_bits_cannot_hold_is_found() {
        let mut out = [0; 68];
        let mut values = [1.0; 64];
        values[40] = f32::NAN;
        assert_eq!(encode_rows(TensorType::Q8_0, &values, &mut out), Some(40));
        values[40] = 70_000.0;
        assert_eq!(encode_rows(TensorType::Q8_0, &values, &mut out), Some(40));
        assert_eq!(encode_rows(TensorType::BF16, &values[..34], &mut out), None);
        assert_eq!(encode_rows(TensorType::F32, &[f32::INFINITY], &mut out), Some(0));
    }
}
