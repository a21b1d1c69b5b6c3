//! The 4-bit codec against bitsandbytes: hard small blocks, every linear of a real model, and
//! checkpoints that transformers and bitsandbytes saved. The goldens are written by
//! scripts/golden/nf4.py, nf4_variants.py, nf4_smollm2.py and tiny_models.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::adapter::Adapter;
use common::checkpoint::{Checkpoint, Tensor};
use common::hex;
use common::nf4::{Absmax, BLOCK_SIZES, DynamicMap, NF4, QuantType, Quantized, Scheme};
use serde_json::Value;
use sha2::{Digest, Sha256};

const PLAIN: Scheme = Scheme { double_quant: false, ..NESTED };
const NESTED: Scheme = Scheme { quant_type: QuantType::Nf4, block_size: 64, double_quant: true };

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// Linear layers in the blocks of a model.
fn linears(directory: &Path) -> usize {
    common::model::Config::read(directory).unwrap().projections().count()
}

/// The directories of `scripts/golden/tiny_models.py`.
fn models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden().join("models")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// The absmax codes, each within one step of `expected`, or within a cell of the 65,536 into which
/// bitsandbytes' CPU build cuts -1..1 to look codes up: the steps around zero are finer than that.
/// Where the nested absmax is zero or denormal codes mean nothing.
fn assert_codes_near(name: &str, quantized: &Quantized, expected: &[u8]) {
    let Absmax::Nested { codes, map, absmax, .. } = quantized.absmax() else {
        panic!("{name} is not nested")
    };
    for (block, (&found, &expected)) in codes.iter().zip(expected).enumerate() {
        let apart = (map[usize::from(found)] - map[usize::from(expected)]).abs();
        let near = found.abs_diff(expected) <= 1 || apart <= 2.0 / 65536.0;
        assert!(
            near || !absmax[block / 256].is_normal(),
            "{name}: absmax code {found} of block {block}, not {expected}"
        );
    }
}

#[test]
fn hard_blocks_are_those_of_bitsandbytes() {
    let golden = Checkpoint::open_file(&golden().join("nf4.safetensors")).unwrap();
    assert_eq!(golden.tensor("quant_map").unwrap().to_f32().unwrap(), NF4);
    assert_eq!(golden.tensor("nested_quant_map").unwrap().to_f32().unwrap(), DynamicMap::signed().values);
    let names: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix("/input")).collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let part = |part: &str| golden.tensor(&format!("{name}/{part}")).unwrap();
        let input = part("input");
        let quantized = Quantized::quantize(&input, PLAIN).unwrap();
        assert!(**quantized.packed() == *part("packed").bytes, "{name}");
        let Absmax::Plain(absmax) = quantized.absmax() else { panic!() };
        let mut expected = part("absmax").to_f32().unwrap();
        if name == "zero_tail" {
            // A short last block of zeros: bitsandbytes has 1e-38 on a CPU, 0 on a GPU.
            *expected.last_mut().unwrap() = 0.0;
        }
        assert_eq!(*absmax, expected, "{name}");

        // The golden is not rounded to the input's dtype, which only F32 inputs show.
        if input.dtype == common::checkpoint::Dtype::F32 {
            assert!(quantized.dequantize() == part("dequantized").to_f32().unwrap(), "{name}");
        }
        let nested = Quantized::quantize(&input, NESTED).unwrap();
        assert_codes_near(name, &nested, &part("dq.absmax").bytes);
    }
}

#[test]
fn every_block_size_of_both_types_is_that_of_bitsandbytes() {
    let golden = Checkpoint::open_file(&golden().join("nf4_variants.safetensors")).unwrap();
    let input = golden.tensor("input").unwrap();
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        for block_size in BLOCK_SIZES {
            let part = |part: &str| golden.get(&format!("{quant_type}.{block_size}.{part}"));
            let quantized =
                Quantized::quantize(&input, Scheme { quant_type, block_size, double_quant: false }).unwrap();
            assert!(**quantized.packed() == *part("packed").unwrap().bytes, "{quant_type} {block_size}");
            let Absmax::Plain(absmax) = quantized.absmax() else { panic!() };
            assert_eq!(*absmax, part("absmax").unwrap().to_f32().unwrap(), "{quant_type} {block_size}");
            if let Some(expected) = part("dequantized") {
                assert!(quantized.dequantize() == expected.to_f32().unwrap(), "{quant_type} {block_size}");
            }
        }
    }
}

#[test]
fn every_linear_of_a_real_model_is_packed_as_bitsandbytes_packs_it() {
    let Some(model) = tests::needs::model() else { return };
    let checkpoint = Checkpoint::open(&model).unwrap();
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden().join("nf4_smollm2.json")).unwrap()).unwrap();
    let linears = golden["linears"].as_object().unwrap();
    assert_eq!(linears.len(), 210);
    for (name, expected) in linears {
        let quantized = Quantized::quantize(&checkpoint.tensor(name).unwrap(), PLAIN).unwrap();
        assert_eq!(sha256(quantized.packed()), expected["packed"], "{name}");
        let Absmax::Plain(absmax) = quantized.absmax() else { panic!() };
        let bytes: Vec<u8> = absmax.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), expected["absmax"], "{name}");
        let nested = Quantized::quantize(&checkpoint.tensor(name).unwrap(), NESTED).unwrap();
        let Absmax::Nested { offset, .. } = nested.absmax() else { panic!() };
        let expected = expected["nested_offset"].as_f64().unwrap() as f32;
        assert!((offset - expected).abs() <= 8.0 * f32::EPSILON * expected, "{name}: {offset} {expected}");
    }
}

#[test]
fn checkpoints_that_transformers_saved_are_read_and_written_alike() {
    for directory in models() {
        let dense = Checkpoint::open(&directory).unwrap();
        let saved = Checkpoint::open(&directory.join("nf4")).unwrap();
        let mut count = 0;
        for name in dense.names() {
            let Some(theirs) = Quantized::load(&saved, name).unwrap() else {
                let values = |checkpoint: &Checkpoint| checkpoint.tensor(name).unwrap().to_f32().unwrap();
                assert!(values(&saved) == values(&dense), "{} {name}", directory.display());
                continue;
            };
            count += 1;
            let ours = Quantized::quantize(&dense.tensor(name).unwrap(), NESTED).unwrap();
            assert_eq!(theirs.shape(), ours.shape());
            assert!(**theirs.packed() == **ours.packed(), "{} {name}", directory.display());
            let Absmax::Nested { codes, .. } = theirs.absmax() else { panic!() };
            assert_codes_near(name, &ours, codes);
            for tensor in ours.to_tensors(name).unwrap() {
                assert_same_kind(&tensor, &saved.tensor(&tensor.name).unwrap());
            }
            // Each number is off by no more than half a gap and what double quantization adds.
            let weight = dense.tensor(name).unwrap().to_f32().unwrap();
            for (found, weight) in theirs.dequantize().iter().zip(&weight) {
                assert!((found - weight).abs() < 0.2, "{name}: {found} {weight}");
            }
        }
        assert_eq!(count, linears(&directory), "{}", directory.display());
    }
}

fn assert_same_kind(ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dtype, theirs.dtype, "{}", ours.name);
    if !ours.name.contains("quant_state") {
        assert_eq!(ours.shape, theirs.shape, "{}", ours.name);
    }
}

#[test]
fn adapters_that_peft_saved_are_read() {
    for directory in models() {
        let adapter = Adapter::load(&directory.join("adapter")).unwrap();
        let file = Checkpoint::open_file(&directory.join("adapter/adapter_model.safetensors")).unwrap();
        let pairs = file.names().filter(|name| name.contains(".lora_A.")).count();
        assert_eq!(adapter.modules.len() + adapter.experts.len(), pairs, "{}", directory.display());
        if adapter.experts.is_empty() {
            assert_eq!(pairs, linears(&directory), "{}", directory.display());
        }
        let lora = &adapter.modules["model.layers.1.self_attn.o_proj"];
        assert_eq!((lora.rank, lora.outputs, lora.scale), (4, 64, 2.0), "{}", directory.display());
    }
}
