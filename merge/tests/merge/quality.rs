//! What quantization moved, `--verify` and `--requantize`.

use std::fs;

use common::checkpoint::{Checkpoint, Dtype, Tensor, write_file};
use common::nf4::Quantized;

use crate::place::*;

#[test]
fn onto_the_original_what_quantization_moved_is_said_and_recorded() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--base", "base", "-o", "m", "--verify"]).success();
    assert!(stderr_of(&assert).contains("‖W − dequantized‖ / ‖ΔW‖ = 0.0"), "{}", stderr_of(&assert));
    let name = format!("{Q}.weight");
    assert_folded(&parent.path("m"), &name, &folded(&original(&name), &[(Q, 4, 2.0)]));
    let made_by: serde_json::Value = serde_json::from_slice(&parent.bytes("m/made-by.json")).unwrap();
    let base = &made_by["results"]["base"];
    assert_eq!(base["weights"], "original");
    assert!(base["quantization_error_over_update"].as_f64().unwrap() > 0.0);
}

#[test]
fn onto_an_original_without_a_4_bit_twin_what_quantization_would_move_is_said() {
    let parent = workplace();
    let ratio = |output: &str| {
        run(&parent, &["adapter", "--base", "base", "-o", output]).success();
        let made_by = fs::read(parent.path(output).join("made-by.json")).unwrap();
        let made_by: serde_json::Value = serde_json::from_slice(&made_by).unwrap();
        made_by["results"]["base"]["quantization_error_over_update"].as_f64().unwrap()
    };
    let with_twin = ratio("with");
    adapter(&parent.path("adapter"), "../base", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4), (UP, 4)], &[]);
    let assert = run(&parent, &["adapter"]).success();
    assert!(stderr_of(&assert).contains("should the adapter have been trained over NF4"));
    let without = ratio("without");
    assert!((without / with_twin - 1.0).abs() < 0.2, "{without}, {with_twin} from the whole tensor");
}

#[test]
fn verifying_forgives_what_cancels_and_finds_what_was_changed() {
    let parent = workplace();
    let base = parent.path("base");
    // The update all but cancels the weight, and f32 keeps the last bits of both.
    let opposite: Vec<f32> = folded_exactly(&vec![0.0; 32 * 24], &[(Q, 4, -2.0)]);
    let mut tensors = weights();
    tensors[1] = Tensor::from_f32(format!("{Q}.weight"), vec![32, 24], &opposite);
    write_file(&base.join("model.safetensors"), &tensors).unwrap();
    let verify = || run(&parent, &["adapter", "--base", "base", "-o", "m", "--verify"]);
    let assert = verify().success();
    assert!(stderr_of(&assert).contains("rows computed again and found equal"), "{}", stderr_of(&assert));

    let file = parent.path("m/model.safetensors");
    let intact = fs::read(&file).unwrap();
    for tensor in Checkpoint::open(&parent.path("m")).unwrap().tensors() {
        let mut bytes = intact.clone();
        let place = intact.windows(tensor.bytes.len()).position(|part| *part == *tensor.bytes).unwrap();
        // The highest byte of each number, which has its exponent.
        let width = tensor.bytes.len() / tensor.shape.iter().product::<usize>();
        for top in (place + width - 1..place + tensor.bytes.len()).step_by(width) {
            bytes[top] ^= 0x3f;
        }
        fs::write(&file, bytes).unwrap();
        assert!(stderr_of(&verify().code(1)).contains(&tensor.name), "{}", tensor.name);
    }
}

#[test]
fn quantizing_again_says_what_it_costs() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--requantize", "-o", "m"]).success();
    assert!(stderr_of(&assert).contains("warning: --requantize"), "{}", stderr_of(&assert));
    let name = format!("{Q}.weight");
    let result = parent.path("m");
    let quantized = Quantized::load(&Checkpoint::open(&result).unwrap(), &name).unwrap().unwrap();
    let found = quantized.dequantize();
    let expected = folded(&dequantized(&parent, &name), &[(Q, 4, 2.0)]);
    assert_eq!(quantized.dtype(), Dtype::BF16, "it says what it was quantized from");
    let most = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.17 * most));
    assert_eq!(config_of(result)["quantization_config"]["quant_method"], "bitsandbytes");
    run(&parent, &["adapter", "--requantize", "--base", "base", "-o", "n"]).code(2);
}

#[test]
fn what_no_adapter_changes_is_quantized_as_it_was() {
    let parent = workplace();
    adapter(&parent.path("adapter"), "../nf4", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4)], &[]);
    run(&parent, &["adapter", "--requantize", "-o", "m"]).success();
    let (before, after) = (parent.path("nf4"), parent.path("m"));
    let (before, after) = (Checkpoint::open(&before).unwrap(), Checkpoint::open(&after).unwrap());
    for name in before.names().filter(|name| name.starts_with(UP)) {
        assert_eq!(before.tensor(name).unwrap().bytes[..], after.tensor(name).unwrap().bytes[..], "{name}");
    }
}
