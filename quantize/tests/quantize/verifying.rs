//! `--report` and `--verify`.

use std::fs;

use common::checkpoint::{Checkpoint, Tensor, sharded_name, write_file};

use crate::model::*;

#[test]
fn the_report_has_a_line_for_each_weight() {
    let (parent, _) = model();
    let arguments = ["source", "-o", "q", "--report", "errors.jsonl"];
    let assert = quantize(&parent).args(arguments).assert().success();
    assert!(stderr_of(&assert).contains(" dB, largest error "), "{}", stderr_of(&assert));
    let text = parent.text("errors.jsonl");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let (snr, rms) = (line["snr_db"].as_f64().unwrap(), line["rms"].as_f64().unwrap());
        // Evenly spread numbers of magnitude up to 1 have an RMS of 0.58.
        assert!((15.0..25.0).contains(&snr), "{line}");
        assert!((10.0_f64.powf(snr / 20.0) * rms - 0.58).abs() < 0.05, "{line}");
        assert!(line["max"].as_f64().unwrap() < 0.2);
    }
    // Again, for a result that is there.
    fs::remove_file(parent.path("errors.jsonl")).unwrap();
    quantize(&parent).args(arguments).assert().success();
    assert_eq!(parent.text("errors.jsonl"), text);
}

#[test]
fn verifying_finds_what_was_changed() {
    let (parent, source) = model();
    quantize(&parent).args(["source", "-o", "q"]).assert().success();
    let verify = || quantize(&parent).args(["--verify", "q", "--against", "source"]).assert();
    assert!(stderr_of(&verify().success()).contains("2 weights in 4 bits are equal to the bit"));

    let file = source.join(sharded_name(2, 2));
    let intact = fs::read(&file).unwrap();
    let mut changed = intact.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&file, changed).unwrap();
    assert!(stderr_of(&verify().code(1)).contains("differs from"));
    fs::write(&file, intact).unwrap();

    let mut other = weight(UP, [64, 96]);
    let mut bytes = other.bytes.to_vec();
    bytes[2 * (7 * 96 + 11)..][..2].copy_from_slice(&[0, 0]);
    other.bytes = bytes.into();
    write_file(&source.join(sharded_name(1, 2)), &[weight(Q, [48, 96]), other]).unwrap();
    let error = stderr_of(&verify().code(1));
    assert!(error.contains(UP) && error.contains("[7, 10]"), "{error}");
    quantize(&parent).args(["--verify", "q"]).assert().code(2);
}

#[test]
fn verifying_finds_every_part_that_was_damaged() {
    let (parent, _) = model();
    quantize(&parent).args(["source", "-o", "q"]).assert().success();
    let file = parent.path("q").join(sharded_name(1, 2));
    let intact = fs::read(&file).unwrap();
    let tensors: Vec<Tensor> = Checkpoint::open_file(&file).unwrap().tensors().collect();
    let verify = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = tensors.clone();
        let tensor = damaged.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let mut bytes = tensor.bytes.to_vec();
        change(&mut bytes);
        (tensor.shape, tensor.bytes) = (vec![bytes.len()], bytes.into());
        if !name.ends_with("nf4") {
            tensor.shape = vec![tensor.bytes.len() * 8 / tensor.dtype.bitsize()];
        }
        write_file(&file, &damaged).unwrap();
        let assert = quantize(&parent).args(["--verify", "q", "--against", "source"]).assert();
        let error = stderr_of(&assert.code(1));
        fs::write(&file, &intact).unwrap();
        error
    };
    let scale = |factor: f32| {
        move |bytes: &mut Vec<u8>| {
            let value = f32::from_le_bytes(bytes[..4].try_into().unwrap());
            bytes[..4].copy_from_slice(&(value * factor).to_le_bytes());
        }
    };
    let error = verify(&format!("{Q}.nested_absmax"), &scale(1.01));
    assert!(error.contains("nested_absmax has"), "{error}");
    let error = verify(&format!("{Q}.nested_quant_map"), &scale(1.01));
    assert!(error.contains("nested_quant_map is not"), "{error}");
    let error = verify(&format!("{Q}.absmax"), &|bytes| bytes[3] = bytes[3].wrapping_add(9));
    assert!(error.contains("absmax has code"), "{error}");
    let state = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replace(from, to).into_bytes();
        }
    };
    let name = format!("{Q}.quant_state.bitsandbytes__nf4");
    let error = verify(&name, &state("\"nested_offset\": 0.", "\"nested_offset\": 1."));
    assert!(error.contains("nested_offset is 1."), "{error}");
    let error = verify(&name, &state("bfloat16", "float32"));
    assert!(error.contains("dequantizes to F32, its source is BF16"), "{error}");
}
