//! `quant_state`: the JSON that bitsandbytes writes beside a packed weight, in a U8 tensor.

use serde::Deserialize;

use super::QuantType;
use crate::checkpoint::Dtype;
use crate::{Result, bail, error};

/// The block sizes that bitsandbytes has kernels for.
pub const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// The name of the tensor that holds the quant_state of a weight.
pub(super) fn key(weight: &str, quant_type: QuantType) -> String {
    format!("{weight}.quant_state.bitsandbytes__{quant_type}")
}

/// The JSON as it is stored; without double quantization it has the first four keys only.
#[derive(Debug, Deserialize)]
struct Json {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// A quant_state that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub quant_type: QuantType,
    pub block_size: usize,
    /// The dtype that the weight had, and that dequantizing rounds to.
    pub dtype: Dtype,
    /// The shape of the weight, `[N, K]`.
    pub shape: [usize; 2],
    /// The offset of double-quantized absmax, and the number of blocks whose codes share a scale.
    pub nested: Option<(f32, usize)>,
}

impl State {
    /// Reads the JSON. Errors say what is wrong with it; the caller names the tensor.
    pub(super) fn read(json: &[u8]) -> Result<Self> {
        let json: Json = serde_json::from_slice(json)?;
        let Some(quant_type) = QuantType::from_name(&json.quant_type) else {
            bail!(Unsupported, "unknown quant_type {:?}, expected nf4 or fp4", json.quant_type);
        };
        if !BLOCK_SIZES.contains(&json.blocksize) {
            bail!(Unsupported, "unknown blocksize {}, expected one of {BLOCK_SIZES:?}", json.blocksize);
        }
        let dtype = match json.dtype.as_str() {
            "bfloat16" => Dtype::BF16,
            "float16" => Dtype::F16,
            "float32" => Dtype::F32,
            other => bail!(Unsupported, "unknown dtype {other:?}, expected bfloat16, float16 or float32"),
        };
        let Ok(shape) = <[usize; 2]>::try_from(json.shape.as_slice()) else {
            bail!(Malformed, "shape {:?}, expected the two dimensions of a linear weight", json.shape);
        };
        let nested = match (json.nested_offset, json.nested_blocksize) {
            (None, None) => None,
            (Some(offset), Some(block_size)) => {
                if block_size == 0 || json.nested_dtype.as_deref().is_some_and(|dtype| dtype != "float32") {
                    bail!(
                        Malformed,
                        "nested_blocksize {block_size} with nested_dtype {:?}",
                        json.nested_dtype
                    );
                }
                if !(offset as f32).is_finite() {
                    bail!(Malformed, "nested_offset {offset} is not a finite f32");
                }
                Some((offset as f32, block_size))
            }
            _ => bail!(Malformed, "nested_offset and nested_blocksize belong together, one is missing"),
        };
        Ok(Self { quant_type, block_size: json.blocksize, dtype, shape, nested })
    }

    /// The JSON as Python writes it. The offset is padded with spaces, so that the length does not depend
    /// on it and the layout of a file is known before its weights are quantized.
    pub(super) fn to_json(&self) -> Result<Vec<u8>> {
        let dtype = dtype_name(self.dtype)?;
        let [rows, columns] = self.shape;
        let mut json = format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{dtype}", "shape": [{rows}, {columns}]"#,
            self.quant_type, self.block_size
        );
        if let Some((offset, block_size)) = self.nested {
            let offset = format!("{:?}", f64::from(offset));
            json += &format!(
                r#", "nested_blocksize": {block_size}, "nested_dtype": "float32", "nested_offset": {offset:<24}"#
            );
        }
        Ok((json + "}").into_bytes())
    }
}

/// The name that torch has for a dtype of weights.
fn dtype_name(dtype: Dtype) -> Result<&'static str> {
    match dtype {
        Dtype::BF16 => Ok("bfloat16"),
        Dtype::F16 => Ok("float16"),
        Dtype::F32 => Ok("float32"),
        other => Err(error!(Unsupported, "{other} weights cannot be quantized, expected BF16, F16 or F32")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_bitsandbytes_writes() {
        let json = br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 200], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.13111978769302368}"#;
        let state = State::read(json).unwrap();
        assert_eq!(state.shape, [96, 200]);
        assert_eq!(state.nested, Some((0.131_119_79, 256)));
        let written = String::from_utf8(state.to_json().unwrap()).unwrap();
        assert_eq!(written.replace("68     }", "68}"), std::str::from_utf8(json).unwrap());
        let plain = State { nested: None, ..state };
        assert_eq!(
            plain.to_json().unwrap(),
            br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 200]}"#
        );
    }

    #[test]
    fn the_length_does_not_depend_on_the_offset() {
        let state = |offset| State {
            quant_type: QuantType::Nf4,
            block_size: 64,
            dtype: Dtype::BF16,
            shape: [3, 4],
            nested: Some((offset, 256)),
        };
        let length = state(0.0).to_json().unwrap().len();
        for offset in [1.0, 0.1, 1.234_567_9e-4, 1e-5, f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX, 1e15] {
            let json = state(offset).to_json().unwrap();
            assert_eq!(json.len(), length, "{offset}");
            assert_eq!(State::read(&json).unwrap(), state(offset));
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let read = |json: &str| State::read(json.as_bytes()).unwrap_err().to_string();
        let json = |quant_type: &str, block_size: u32, dtype: &str, shape: &str| {
            format!(
                r#"{{"quant_type":"{quant_type}","blocksize":{block_size},"dtype":"{dtype}","shape":{shape}}}"#
            )
        };
        assert!(read(&json("af4", 64, "float32", "[1,2]")).contains("af4"));
        assert!(read(&json("nf4", 0, "float32", "[1,2]")).contains("blocksize 0"));
        assert!(read(&json("nf4", 63, "float32", "[1,2]")).contains("blocksize 63"));
        assert!(read(&json("nf4", 64, "int8", "[1,2]")).contains("int8"));
        assert!(read(&json("nf4", 64, "float32", "[1,2,3]")).contains("[1, 2, 3]"));
        assert!(read(&json("nf4", 64, "float32", "[-1]")).contains("invalid value"));
    }
}
