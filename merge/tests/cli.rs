//! The tool as a user runs it, on small models and adapters made here.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Checkpoint, Dtype, INDEX, Tensor, cast_from_f32, write_file};
use common::nf4::{Quantized, Scheme};
use tempfile::TempDir;

const Q: &str = "model.layers.0.self_attn.q_proj";
const UP: &str = "model.layers.0.mlp.up_proj";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn merge() -> Command {
    Command::cargo_bin("merge").unwrap()
}

/// Numbers that look like weights, the same for the same seed.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_000.0 - 1.0).collect()
}

fn bf16(name: &str, shape: &[usize], seed: usize) -> Tensor {
    let values = numbers(shape.iter().product(), seed);
    let mut bytes = vec![0; 2 * values.len()];
    cast_from_f32(Dtype::BF16, &values, &mut bytes).unwrap();
    Tensor { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.into() }
}

/// Two linear weights, a bias, and a table that is also the head.
fn weights() -> Vec<Tensor> {
    vec![
        bf16(EMBEDDING, &[40, 24], 1),
        bf16(&format!("{Q}.weight"), &[32, 24], 2),
        bf16(&format!("{Q}.bias"), &[32], 3),
        bf16(&format!("{UP}.weight"), &[56, 24], 4),
    ]
}

/// A directory with a model `base`, its 4-bit twin `nf4`, and an adapter `adapter` of `nf4`.
fn workplace() -> TempDir {
    let parent = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "qwen2", "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#;
    for name in ["base", "nf4"] {
        let directory = parent.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("config.json"), config).unwrap();
        fs::write(directory.join("tokenizer_config.json"), "{}").unwrap();
    }
    write_file(&parent.path().join("base/model.safetensors"), &weights()).unwrap();
    let quantized: Vec<Tensor> = weights()
        .into_iter()
        .flat_map(|tensor| match tensor.name.contains("proj.weight") {
            true => {
                Quantized::quantize(&tensor, Scheme::default()).unwrap().to_tensors(&tensor.name).unwrap()
            }
            false => vec![tensor],
        })
        .collect();
    write_file(&parent.path().join("nf4/model.safetensors"), &quantized).unwrap();
    let config = config.replace('}', r#", "quantization_config": {"quant_method": "bitsandbytes"}}"#);
    fs::write(parent.path().join("nf4/config.json"), config).unwrap();
    adapter(&parent.path().join("adapter"), "../nf4", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4), (UP, 4)], &[]);
    parent
}

/// Outputs of the linear weight of a module.
fn outputs(module: &str) -> usize {
    if module == UP {
        56
    } else if module == Q {
        32
    } else {
        40
    }
}

/// Writes an adapter with a rank for each module; `more` goes into the file as it is.
fn adapter(directory: &Path, base: &str, keys: &str, modules: &[(&str, usize)], more: &[Tensor]) {
    fs::create_dir_all(directory).unwrap();
    let config = format!(
        r#"{{"peft_type": "LORA", "base_model_name_or_path": "{base}", "target_modules": ["q_proj"], {keys}}}"#
    );
    fs::write(directory.join("adapter_config.json"), config).unwrap();
    let mut tensors = more.to_vec();
    for &(module, rank) in modules {
        let name = |part| format!("base_model.model.{module}.{part}.weight");
        let (a, b) = factors(module, rank);
        tensors.push(Tensor::from_f32(name("lora_A"), vec![rank, 24], &a));
        tensors.push(Tensor::from_f32(name("lora_B"), vec![outputs(module), rank], &b));
    }
    write_file(&directory.join("adapter_model.safetensors"), &tensors).unwrap();
}

fn factors(module: &str, rank: usize) -> (Vec<f32>, Vec<f32>) {
    (numbers(rank * 24, 5 + module.len()), numbers(outputs(module) * rank, 6 + module.len()))
}

/// `weight + scale · B · A` in f64.
fn folded_exactly(weight: &[f32], updates: &[(&str, usize, f64)]) -> Vec<f32> {
    let mut sums: Vec<f64> = weight.iter().map(|&value| f64::from(value)).collect();
    for &(module, rank, scale) in updates {
        let (a, b) = factors(module, rank);
        for (i, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (i / 24, i % 24);
            let product = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 24 + column]));
            *sum += scale * product.sum::<f64>();
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// [`folded_exactly`], rounded to bf16.
fn folded(weight: &[f32], updates: &[(&str, usize, f64)]) -> Vec<f32> {
    let sums = folded_exactly(weight, updates);
    let mut bytes = vec![0; 2 * sums.len()];
    cast_from_f32(Dtype::BF16, &sums, &mut bytes).unwrap();
    Tensor { name: "".into(), dtype: Dtype::BF16, shape: vec![sums.len()], bytes: bytes.into() }
        .to_f32()
        .unwrap()
}

/// Equal but for one step of bf16 in the rare number that lies in the middle of two.
fn assert_folded(directory: &Path, name: &str, expected: &[f32]) {
    let found = Checkpoint::open(directory).unwrap().tensor(name).unwrap();
    assert_eq!(found.dtype, Dtype::BF16);
    for (i, (found, expected)) in found.to_f32().unwrap().iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= expected.abs() / 128.0,
            "{name} [{i}]: {found}, expected {expected}"
        );
    }
    let differing = found.to_f32().unwrap().iter().zip(expected).filter(|(a, b)| a != b).count();
    assert!(differing * 100 <= expected.len(), "{name}: {differing} of {} numbers differ", expected.len());
}

fn original(name: &str) -> Vec<f32> {
    weights().into_iter().find(|tensor| tensor.name == name).unwrap().to_f32().unwrap()
}

/// A weight of `nf4` as a model that computes in f32 sees it.
fn dequantized(parent: &TempDir, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(&parent.path().join("nf4")).unwrap();
    Quantized::load(&checkpoint, name).unwrap().unwrap().with_dtype(Dtype::F32).dequantize()
}

fn run(parent: &TempDir, arguments: &[&str]) -> assert_cmd::assert::Assert {
    merge().current_dir(parent.path()).args(arguments).assert()
}

fn stderr_of(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn config_of(directory: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_adapter_is_folded_into_the_dequantized_weights_of_its_base() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--verify"]).success();
    assert_eq!(assert.get_output().stdout, b"adapter-merged\n");
    let result = parent.path().join("adapter-merged");
    assert_eq!(
        names_in(&result),
        ["config.json", "made-by.json", "model.safetensors", "tokenizer_config.json"]
    );
    for module in [Q, UP] {
        let name = format!("{module}.weight");
        assert_folded(&result, &name, &folded(&dequantized(&parent, &name), &[(module, 4, 2.0)]));
    }
    let written = Checkpoint::open(&result).unwrap();
    assert_eq!(written.names().count(), 4, "nothing is left of the quantization");
    assert_eq!(written.tensor(EMBEDDING).unwrap().to_f32().unwrap(), original(EMBEDDING));
    let config = config_of(result);
    assert!(config.get("quantization_config").is_none());
    assert_eq!(config["tie_word_embeddings"], true);
}

#[test]
fn the_template_an_adapter_was_trained_with_goes_along() {
    let parent = workplace();
    fs::write(parent.path().join("nf4/chat_template.jinja"), "of the base").unwrap();
    run(&parent, &["adapter", "-o", "plain"]).success();
    fs::write(parent.path().join("adapter/chat_template.jinja"), "of the adapter").unwrap();
    run(&parent, &["adapter", "-o", "own"]).success();
    let template = |name| fs::read_to_string(parent.path().join(name).join("chat_template.jinja")).unwrap();
    assert_eq!((template("plain").as_str(), template("own").as_str()), ("of the base", "of the adapter"));
}

#[test]
fn onto_the_original_what_quantization_moved_is_said_and_recorded() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--base", "base", "-o", "m", "--verify"]).success();
    assert!(stderr_of(&assert).contains("‖W − dequantized‖ / ‖ΔW‖ = 0.0"), "{}", stderr_of(&assert));
    let name = format!("{Q}.weight");
    assert_folded(&parent.path().join("m"), &name, &folded(&original(&name), &[(Q, 4, 2.0)]));
    let made_by: serde_json::Value =
        serde_json::from_slice(&fs::read(parent.path().join("m/made-by.json")).unwrap()).unwrap();
    let base = &made_by["results"]["base"];
    assert_eq!(base["weights"], "original");
    assert!(base["quantization_error_over_update"].as_f64().unwrap() > 0.0);
}

#[test]
fn onto_an_original_without_a_4_bit_twin_what_quantization_would_move_is_said() {
    let parent = workplace();
    let ratio = |output: &str| {
        run(&parent, &["adapter", "--base", "base", "-o", output]).success();
        let made_by = fs::read(parent.path().join(output).join("made-by.json")).unwrap();
        let made_by: serde_json::Value = serde_json::from_slice(&made_by).unwrap();
        made_by["results"]["base"]["quantization_error_over_update"].as_f64().unwrap()
    };
    let with_twin = ratio("with");
    adapter(&parent.path().join("adapter"), "../base", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4), (UP, 4)], &[]);
    let assert = run(&parent, &["adapter"]).success();
    assert!(stderr_of(&assert).contains("should the adapter have been trained over NF4"));
    let without = ratio("without");
    assert!((without / with_twin - 1.0).abs() < 0.2, "{without}, {with_twin} from the whole tensor");
}

#[test]
fn verifying_forgives_what_cancels_and_finds_what_was_changed() {
    let parent = workplace();
    let base = parent.path().join("base");
    // The update all but cancels the weight, and f32 keeps the last bits of both.
    let opposite: Vec<f32> = folded_exactly(&vec![0.0; 32 * 24], &[(Q, 4, -2.0)]);
    let mut tensors = weights();
    tensors[1] = Tensor::from_f32(format!("{Q}.weight"), vec![32, 24], &opposite);
    write_file(&base.join("model.safetensors"), &tensors).unwrap();
    let verify = || run(&parent, &["adapter", "--base", "base", "-o", "m", "--verify"]);
    let assert = verify().success();
    assert!(stderr_of(&assert).contains("rows computed again and found equal"), "{}", stderr_of(&assert));

    let file = parent.path().join("m/model.safetensors");
    let intact = fs::read(&file).unwrap();
    for tensor in Checkpoint::open(&parent.path().join("m")).unwrap().tensors() {
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
fn scales_ranks_and_alphas_are_those_of_the_adapter() {
    let parent = workplace();
    let keys = r#""r": 4, "lora_alpha": 8, "use_rslora": true, "fan_in_fan_out": true,
        "rank_pattern": {"up_proj": 9}, "alpha_pattern": {"mlp.up_proj": 6}"#;
    adapter(&parent.path().join("adapter"), "../base", keys, &[(Q, 4), (UP, 9)], &[]);
    run(&parent, &["adapter", "-o", "m"]).success();
    for (module, rank, scale) in [(Q, 4, 4.0), (UP, 9, 2.0)] {
        let name = format!("{module}.weight");
        assert_folded(&parent.path().join("m"), &name, &folded(&original(&name), &[(module, rank, scale)]));
    }
}

#[test]
fn several_adapters_count_for_their_weights() {
    let parent = workplace();
    adapter(&parent.path().join("second"), "../base", r#""r": 2, "lora_alpha": 2"#, &[(UP, 2)], &[]);
    let arguments = ["adapter", "second", "--base", "base", "--weights", "0.5,-0.25", "-o", "m", "--verify"];
    run(&parent, &arguments).success();
    let name = format!("{UP}.weight");
    let expected = folded(&original(&name), &[(UP, 4, 1.0), (UP, 2, -0.25)]);
    assert_folded(&parent.path().join("m"), &name, &expected);
    run(&parent, &["adapter", "second", "--weights", "0.5", "-o", "n"]).code(2);
}

#[test]
fn biases_and_whole_modules_replace_those_of_the_base() {
    let parent = workplace();
    let bias = numbers(32, 9);
    let more = [Tensor::from_f32(format!("base_model.model.{Q}.base_layer.bias"), vec![32], &bias)];
    adapter(
        &parent.path().join("adapter"),
        "../base",
        r#""r": 4, "lora_alpha": 8, "bias": "all""#,
        &[(Q, 4)],
        &more,
    );
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    assert_folded(&parent.path().join("m"), &format!("{Q}.bias"), &folded(&bias, &[]));
}

#[test]
fn a_trained_head_no_longer_shares_the_table() {
    let parent = workplace();
    adapter(&parent.path().join("adapter"), "../base", r#""r": 4, "lora_alpha": 8"#, &[("lm_head", 4)], &[]);
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    let result = parent.path().join("m");
    assert_folded(&result, HEAD, &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]));
    assert_eq!(
        Checkpoint::open(&result).unwrap().tensor(EMBEDDING).unwrap().to_f32().unwrap(),
        original(EMBEDDING)
    );
    assert_eq!(config_of(result)["tie_word_embeddings"], false);
}

/// `lm_head` is in the file beside the table that config.json ties it to: what transformers 5 then loads is
/// the stored head where it differs, and the table where it does not.
#[test]
fn a_stored_head_stays_what_it_is() {
    let parent = workplace();
    let base = parent.path().join("base");
    let store = |head: Tensor| {
        let tensors: Vec<Tensor> = weights().into_iter().chain([head]).collect();
        write_file(&base.join("model.safetensors"), &tensors).unwrap();
    };
    let values = |result: &str, name: &str| {
        Checkpoint::open(&parent.path().join(result)).unwrap().tensor(name).unwrap().to_f32().unwrap()
    };
    let tied = |result: &str| config_of(parent.path().join(result))["tie_word_embeddings"].clone();
    let train = |name: &str, modules: &[(&str, usize)], more: &[Tensor]| {
        let keys = r#""r": 4, "lora_alpha": 8"#;
        adapter(&parent.path().join(name), "../base", keys, modules, more);
    };
    train("block", &[(Q, 4)], &[]);
    train("head", &[("lm_head", 4)], &[]);
    let table = Tensor::from_f32(format!("base_model.model.{EMBEDDING}"), vec![40, 24], &numbers(40 * 24, 9));
    train("table", &[(Q, 4)], &[table]);

    let other = bf16(HEAD, &[40, 24], 8);
    let head = other.to_f32().unwrap();
    store(other);
    for (trained, expected) in
        [("block", head.clone()), ("head", folded(&head, &[("lm_head", 4, 2.0)])), ("table", head.clone())]
    {
        let result = format!("other-{trained}");
        run(&parent, &[trained, "-o", &result, "--verify"]).success();
        assert_folded(&parent.path().join(&result), HEAD, &expected);
        assert_eq!(tied(&result), false, "{trained}");
    }
    assert_eq!(values("other-head", EMBEDDING), original(EMBEDDING));

    store(Tensor { name: HEAD.into(), ..weights().remove(0) });
    run(&parent, &["block", "-o", "same-block", "--verify"]).success();
    assert_eq!(tied("same-block"), true, "nothing has changed");
    run(&parent, &["head", "-o", "same-head", "--verify"]).success();
    assert_folded(
        &parent.path().join("same-head"),
        HEAD,
        &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]),
    );
    run(&parent, &["table", "-o", "same-table", "--verify"]).success();
    assert_eq!(values("same-table", HEAD), original(EMBEDDING), "the head was not trained");
    assert_folded(&parent.path().join("same-table"), EMBEDDING, &folded(&numbers(40 * 24, 9), &[]));
    assert_eq!((tied("same-head"), tied("same-table")), (false.into(), false.into()));

    // Only the head is stored, which then is the table too.
    let mut tensors = weights();
    tensors[0].name = HEAD.into();
    write_file(&base.join("model.safetensors"), &tensors).unwrap();
    run(&parent, &["head", "-o", "only-head", "--verify"]).success();
    assert_eq!(values("only-head", EMBEDDING), original(EMBEDDING));
    assert_folded(
        &parent.path().join("only-head"),
        HEAD,
        &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]),
    );
    assert_eq!(tied("only-head"), false);
}

#[test]
fn names_of_a_model_without_its_head_are_read() {
    let parent = workplace();
    let expected = {
        run(&parent, &["adapter", "--base", "base", "-o", "m"]).success();
        fs::read(parent.path().join("m/model.safetensors")).unwrap()
    };
    let rename = |rename: &dyn Fn(&str) -> String| {
        let tensors: Vec<Tensor> =
            weights().into_iter().map(|tensor| Tensor { name: rename(&tensor.name), ..tensor }).collect();
        write_file(&parent.path().join("base/model.safetensors"), &tensors).unwrap();
    };
    rename(&|name| name.trim_start_matches("model.").into());
    run(&parent, &["adapter", "--base", "base", "-o", "bare", "--verify"]).success();
    assert_eq!(fs::read(parent.path().join("bare/model.safetensors")).unwrap(), expected);
    rename(&|name| format!("_orig_mod.{name}"));
    let error = stderr_of(&run(&parent, &["adapter", "--base", "base", "-o", "wrapped"]).code(1));
    assert!(
        error.contains("_orig_mod.") && error.contains("hint: save the model inside the wrapper"),
        "{error}"
    );
}

#[test]
fn a_base_in_another_quantization_is_refused_with_its_original() {
    let parent = workplace();
    let config = r#"{"model_type": "qwen2", "quantization_config": {"quant_method": "awq", "bits": 4}}"#;
    fs::write(parent.path().join("base/config.json"), config).unwrap();
    fs::write(parent.path().join("base/README.md"), "---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n")
        .unwrap();
    let error = stderr_of(&run(&parent, &["adapter", "--base", "base", "-o", "m"]).code(1));
    assert!(
        error.contains("quantized with awq") && error.contains("fetch Qwen/Qwen2.5-7B-Instruct"),
        "{error}"
    );
}

#[test]
fn llama_factorys_file_is_enough() {
    let parent = workplace();
    let yaml = "model_name_or_path: base\nadapter_name_or_path: adapter\ntemplate: qwen\nexport_dir: out/m\n\
                export_size: 0.000003\nexport_device: cpu\nexport_legacy_format: false\n";
    fs::write(parent.path().join("export.yaml"), yaml).unwrap();
    let assert = run(&parent, &["export.yaml"]).success();
    assert_eq!(assert.get_output().stdout, b"out/m\n");
    let result = parent.path().join("out/m");
    // 3 kB: the first tensor of 1,920 bytes, two of 1,600, and one of 2,688.
    assert_eq!(names_in(&result).iter().filter(|name| name.starts_with("model-")).count(), 3);
    assert!(result.join(INDEX).exists());
    let name = format!("{UP}.weight");
    assert_folded(&result, &name, &folded(&original(&name), &[(UP, 4, 2.0)]));
}

#[test]
fn quantizing_again_says_what_it_costs() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--requantize", "-o", "m"]).success();
    assert!(stderr_of(&assert).contains("warning: --requantize"), "{}", stderr_of(&assert));
    let name = format!("{Q}.weight");
    let result = parent.path().join("m");
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
    adapter(&parent.path().join("adapter"), "../nf4", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4)], &[]);
    run(&parent, &["adapter", "--requantize", "-o", "m"]).success();
    let (before, after) = (parent.path().join("nf4"), parent.path().join("m"));
    let (before, after) = (Checkpoint::open(&before).unwrap(), Checkpoint::open(&after).unwrap());
    for name in before.names().filter(|name| name.starts_with(UP)) {
        assert_eq!(before.tensor(name).unwrap().bytes[..], after.tensor(name).unwrap().bytes[..], "{name}");
    }
}

#[test]
fn what_does_not_fit_is_named_and_leaves_nothing() {
    let parent = workplace();
    let before = names_in(parent.path());
    let error_of = |modules: &[(&str, usize)], keys: &str, more: &[Tensor]| {
        adapter(&parent.path().join("adapter"), "../base", keys, modules, more);
        let assert = run(&parent, &["adapter", "-o", "m"]).code(1);
        assert_eq!(names_in(parent.path()), before, "nothing is left behind");
        stderr_of(&assert)
    };
    let plain = r#""r": 4, "lora_alpha": 8"#;
    let error = error_of(&[("model.layers.7.mlp.up_proj", 4)], plain, &[]);
    assert!(error.contains("changes model.layers.7.mlp.up_proj.weight, which"), "{error}");
    let error = error_of(&[(EMBEDDING.trim_end_matches(".weight"), 4)], r#""r": 8, "lora_alpha": 8"#, &[]);
    assert!(error.contains("rank 4, adapter_config.json says 8"), "{error}");
    let error = error_of(&[(Q, 4)], r#""r": 4, "lora_alpha": 8, "use_dora": true"#, &[]);
    assert!(error.contains("use_dora"), "{error}");
    let error = error_of(&[(Q, 4)], r#""r": 4, "lora_alpha": 1e39"#, &[]);
    assert!(error.contains(&format!("tensor {Q}.weight becomes")), "{error}");
    let extra = Tensor::from_f32("base_model.model.score.weight", vec![1], &[1.0]);
    assert!(error_of(&[(Q, 4)], plain, &[extra]).contains("changes score.weight"));
}

#[test]
fn a_base_that_is_missing_can_be_fetched_or_named() {
    let parent = workplace();
    adapter(&parent.path().join("adapter"), "Qwen/Qwen2.5-7B", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4)], &[]);
    let error = stderr_of(&run(&parent, &["adapter"]).code(1));
    assert!(error.contains("hint: fetch Qwen/Qwen2.5-7B"), "{error}");
    fs::rename(parent.path().join("base"), parent.path().join("Qwen2.5-7B")).unwrap();
    run(&parent, &["adapter"]).success();
}

#[test]
fn the_same_work_is_done_once_and_a_run_that_was_killed_goes_on() {
    let parent = workplace();
    let arguments = ["adapter", "-o", "m", "--shard-size", "3KB"];
    run(&parent, &arguments).success();
    let whole = fs::read(parent.path().join("m/model-00002-of-00003.safetensors")).unwrap();
    assert!(stderr_of(&run(&parent, &arguments).success()).contains("already made"));
    run(&parent, &["adapter", "-o", "m"]).code(1);

    // As a run leaves it that is killed in its second file.
    let (scratch, partial) = (parent.path().join(".m.qlora-tools"), parent.path().join(".m.qlora-tools/new"));
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join("lock"), "qlora-tools merge\n").unwrap();
    fs::rename(parent.path().join("m"), &partial).unwrap();
    let text = fs::read_to_string(partial.join("made-by.json")).unwrap();
    let mut made_by: serde_json::Value = serde_json::from_str(&text).unwrap();
    made_by["parts"].as_object_mut().unwrap().remove("model-00002-of-00003.safetensors");
    fs::write(partial.join("made-by.json"), made_by.to_string()).unwrap();
    fs::remove_file(partial.join("model-00002-of-00003.safetensors")).unwrap();
    fs::write(partial.join(".qlora-tools-Ab12Cd34Ef56"), "half").unwrap();
    let stderr = stderr_of(&run(&parent, &arguments).success());
    assert!(stderr.contains("model-00001-of-00003.safetensors is already merged"), "{stderr}");
    assert_eq!(fs::read(parent.path().join("m/model-00002-of-00003.safetensors")).unwrap(), whole);
    assert!(names_in(&parent.path().join("m")).iter().all(|name| !name.contains("qlora-tools")));
    assert!(!scratch.exists());
}

#[test]
fn an_output_has_nothing_to_do_with_an_input() {
    let parent = workplace();
    std::os::unix::fs::symlink("adapter", parent.path().join("link")).unwrap();
    fs::create_dir(parent.path().join("sub")).unwrap();
    let yaml = "model_name_or_path: nf4\nadapter_name_or_path: adapter\nexport_dir: nf4/merged\n";
    fs::write(parent.path().join("sub/export.yaml"), yaml).unwrap();
    let before = ["nf4", "adapter", "sub"].map(|name| names_in(&parent.path().join(name)));
    for force in [&[][..], &["--force"]] {
        for (output, relation) in [
            ("adapter", "is the input adapter"),
            ("link", "is the input adapter"),
            ("sub/../adapter", "is the input adapter"),
            ("link/new", "lies in the input adapter"),
            ("nf4/merged", "lies in the input"),
            ("/", "holds the input"),
        ] {
            let arguments = [&["adapter", "-o", output], force].concat();
            let error = stderr_of(&run(&parent, &arguments).code(2));
            assert!(error.contains(relation) && error.contains("\nhint: "), "{error}");
        }
        let error = stderr_of(&run(&parent, &[&["sub/export.yaml"], force].concat()).code(2));
        assert!(error.contains("lies in the input"), "{error}");
        let error = stderr_of(&run(&parent, &[&["sub/export.yaml", "-o", "sub"], force].concat()).code(2));
        assert!(error.contains("holds the input sub/export.yaml"), "{error}");
    }
    assert_eq!(before, ["nf4", "adapter", "sub"].map(|name| names_in(&parent.path().join(name))));
}

#[test]
fn what_somebody_else_made_is_not_replaced() {
    let parent = workplace();
    for (name, file) in [("home", "thesis.tex"), ("m.partial", "x"), (".p.qlora-tools", "notes.md")] {
        fs::create_dir(parent.path().join(name)).unwrap();
        fs::write(parent.path().join(name).join(file), "mine").unwrap();
    }
    for name in ["m.lock", "m.partial.lock"] {
        fs::write(parent.path().join(name), "mine").unwrap();
    }
    let refused = |output: &str, named: &str| {
        for force in [&[][..], &["--force"]] {
            let error = stderr_of(&run(&parent, &[&["adapter", "-o", output], force].concat()).code(1));
            assert!(error.contains(named) && error.contains("\nhint: "), "{error}");
        }
    };
    refused("home", "home holds thesis.tex, which merge did not make");
    refused("p", ".p.qlora-tools is in the way");
    run(&parent, &["adapter", "-o", "m"]).success();
    fs::write(parent.path().join("m/notes.md"), "mine").unwrap();
    let forced = ["adapter", "-o", "m", "--shard-size", "3KB", "--force"];
    assert!(stderr_of(&run(&parent, &forced).code(1)).contains("m holds notes.md"));
    fs::remove_file(parent.path().join("m/notes.md")).unwrap();
    run(&parent, &forced).success();
    for name in ["home/thesis.tex", "m.partial/x", "m.lock", "m.partial.lock", ".p.qlora-tools/notes.md"] {
        assert_eq!(fs::read_to_string(parent.path().join(name)).unwrap(), "mine");
    }
}

#[test]
fn a_change_in_any_file_of_the_base_is_noticed() {
    let parent = workplace();
    run(&parent, &["adapter", "-o", "m"]).success();
    for (file, text) in [
        ("tokenizer_config.json", r#"{"a": 1}"#),
        ("chat_template.jinja", "new"),
        ("generation_config.json", "{}"),
    ] {
        fs::write(parent.path().join("nf4").join(file), text).unwrap();
        let stale = stderr_of(&run(&parent, &["adapter", "-o", "m"]).code(1));
        assert!(stale.contains("made from something else") && stale.contains("--force"), "{file}: {stale}");
        run(&parent, &["adapter", "-o", "m", "--force"]).success();
        assert_eq!(fs::read_to_string(parent.path().join("m").join(file)).unwrap(), text);
        assert!(stderr_of(&run(&parent, &["adapter", "-o", "m"]).success()).contains("already made"));
    }
}

/// What `workplace` lacks for a chat: a tokenizer of three words, and a template.
fn with_chat(parent: &Path, template: &str) {
    let special = |id: usize, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": [special(0, "<end>"), special(1, "<turn>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<end>": 0, "<turn>": 1, "a": 2}, "unk_token": "a"}});
    for directory in ["base", "nf4"].map(|name| parent.join(name)) {
        fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(directory.join("tokenizer_config.json"), r#"{"eos_token": "<end>", "x": 1}"#).unwrap();
        fs::write(directory.join("special_tokens_map.json"), r#"{"eos_token": {"content": "<end>"}}"#)
            .unwrap();
        fs::write(directory.join("chat_template.jinja"), template).unwrap();
    }
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// An adapter that was trained to end its answers with another token than its base.
#[test]
fn the_end_of_text_is_the_adapters() {
    let place = workplace();
    let at = |name: &str| place.path().join(name);
    with_chat(place.path(), "x");
    let config = fs::read_to_string(at("base/config.json")).unwrap().replace('}', r#", "eos_token_id": 0}"#);
    fs::write(at("base/config.json"), config).unwrap();
    let merged = |name: &str| {
        let output = at(name);
        merge().arg(at("adapter")).arg("--base").arg(at("base")).arg("-o").arg(&output).assert().success();
        output
    };
    fs::copy(at("base/tokenizer_config.json"), at("adapter/tokenizer_config.json")).unwrap();
    let same = merged("same");
    assert_eq!(json(same.join("config.json"))["eos_token_id"], 0);
    assert!(!same.join("generation_config.json").exists());

    fs::write(at("adapter/tokenizer_config.json"), r#"{"eos_token": "<turn>"}"#).unwrap();
    let output = merged("without");
    assert_eq!(json(output.join("config.json"))["eos_token_id"], 1);
    assert_eq!(json(output.join("generation_config.json")), serde_json::json!({"eos_token_id": [1, 0]}));
    assert_eq!(
        json(output.join("tokenizer_config.json")),
        serde_json::json!({"eos_token": "<turn>", "x": 1})
    );
    assert_eq!(json(output.join("special_tokens_map.json"))["eos_token"], "<turn>");

    fs::write(at("base/generation_config.json"), r#"{"top_k": 5, "eos_token_id": [0, 2]}"#).unwrap();
    let output = merged("with");
    assert_eq!(
        json(output.join("generation_config.json")),
        serde_json::json!({"top_k": 5, "eos_token_id": [1, 0, 2]})
    );
}

/// A template must not write instructions into the Modelfile.
#[test]
fn no_template_adds_to_the_modelfile() {
    let turns = |before: &str, end: &str, default: &str| {
        format!(
            "{{% if messages[0].role != 'system' %}}<s>{default}</s>{{% endif %}}{{% for m in messages %}}\
             {{% if m.role == 'system' %}}<s>{{{{ m.content }}}}</s>{{% elif m.role == 'user' %}}\
             {before}{{{{ m.content }}}}|\n{{% else %}}{{{{ m.content }}}}{end}{{% endif %}}{{% endfor %}}"
        )
    };
    let quotes = "\"\"\"";
    for (template, is_harmless) in [
        (turns("<u>", "</a>", "Be kind."), true),
        (turns("<u>", "</a>", &format!("{quotes}\nADAPTER /tmp/evil\nSYSTEM {quotes}")), false),
        (turns(&format!("{quotes}\nFROM evil\n"), "</a>", "x"), false),
        (turns("<u>", "a\nSYSTEM evil\nb", "x"), false),
        (turns("<u>", "a\" \"b", "x"), false),
        (turns("{{ '{{ .Evil }}' }}", "</a>", "x"), false),
        (turns("<u>", "</a>", "\""), false),
        ("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}".into(), false),
    ] {
        let place = workplace();
        with_chat(place.path(), &template);
        let output = place.path().join("merged");
        merge().arg(place.path().join("adapter")).arg("-o").arg(&output).assert().success();
        let written = fs::read_to_string(output.join("Modelfile")).unwrap();
        let lines =
            |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        match is_harmless {
            true => {
                assert!(
                    written.contains("SYSTEM \"\"\"Be kind.\"\"\"\n\nPARAMETER stop \"</a>\"\n"),
                    "{written}"
                );
            }
            false => assert_eq!(lines(&written), ["FROM .", "PARAMETER num_ctx 4096"], "{template}"),
        }
    }
}

/// Adapters that PEFT saved, and what it made of them (scripts/golden/resized.py).
#[test]
fn tables_and_rows_for_tokens_are_merged_as_peft_merges_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/resized");
    let parent = tempfile::tempdir().unwrap();
    let mut adapters: Vec<String> = names_in(&golden).into_iter().filter(|name| name.contains('-')).collect();
    assert_eq!(adapters.len(), 11);
    for adapter in adapters.drain(..) {
        let result = parent.path().join(&adapter);
        let assert = merge().arg(golden.join(&adapter)).args(["--verify", "-o"]).arg(&result).assert();
        let said = stderr_of(&assert.success());
        let expected = Checkpoint::open_file(&golden.join(&adapter).join("merged.safetensors")).unwrap();
        let found = Checkpoint::open(&result).unwrap();
        let mut names: Vec<&str> = expected.names().collect();
        names.sort_unstable();
        let mut found_names: Vec<&str> = found.names().collect();
        found_names.sort_unstable();
        assert_eq!(found_names, names, "{adapter}");
        for name in names {
            let (expected, found) = (expected.tensor(name).unwrap(), found.tensor(name).unwrap());
            assert_eq!(found.shape, expected.shape, "{adapter}: {name}");
            for (found, expected) in found.to_f32().unwrap().iter().zip(expected.to_f32().unwrap()) {
                assert!((found - expected).abs() <= 1e-6, "{adapter}: {name} {found}, expected {expected}");
            }
        }
        let settings = fs::read(golden.join(&adapter).join("merged.json")).unwrap();
        let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
        let config = config_of(result);
        for key in ["vocab_size", "tie_word_embeddings"] {
            assert_eq!(config[key], settings[key], "{adapter}: {key}");
        }
        let is_resized = settings["vocab_size"] == 23;
        assert_eq!(
            said.contains("no tokenizer.json: the result's tokenizer is that of the base"),
            is_resized
        );
    }
}

#[test]
fn a_resized_adapter_brings_the_tokenizer_of_its_tokens() {
    let parent = workplace();
    let table = bf16("base_model.model.model.embed_tokens.weight", &[44, 24], 8);
    let head = Tensor { name: "base_model.model.lm_head.weight".into(), ..table.clone() };
    let (keys, folder) = (r#""r": 4, "lora_alpha": 8"#, parent.path().join("adapter"));
    adapter(&folder, "../base", keys, &[(Q, 4)], &[table, head]);
    for (directory, text) in [("base", "of the base"), ("adapter", "of the adapter")] {
        for file in ["tokenizer.json", "added_tokens.json"] {
            fs::write(parent.path().join(directory).join(file), text).unwrap();
        }
    }
    fs::write(parent.path().join("base/merges.txt"), "of the base").unwrap();
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    let text = |name: &str| fs::read_to_string(parent.path().join("m").join(name)).unwrap();
    assert_eq!(text("tokenizer.json") + &text("added_tokens.json"), "of the adapterof the adapter");
    assert_eq!(text("merges.txt"), "of the base");
    let config = config_of(parent.path().join("m"));
    assert_eq!((config["vocab_size"].as_u64(), &config["tie_word_embeddings"]), (Some(44), &true.into()));

    let table = bf16("base_model.model.model.embed_tokens.weight", &[44, 24], 8);
    adapter(&folder, "../base", keys, &[(Q, 4)], &[table]);
    let said = stderr_of(&run(&parent, &["adapter", "-o", "n"]).code(1));
    assert!(said.contains("would have 44 rows and lm_head.weight 40"), "{said}");
}

#[test]
fn templates_go_along_and_links_out_of_the_model_do_not() {
    let parent = workplace();
    let base = parent.path().join("nf4");
    let templates = base.join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("tool_use.jinja"), "tools of the base").unwrap();
    fs::write(base.join("chat_template.jinja"), "of the base").unwrap();
    fs::write(parent.path().join("id_rsa"), "secret").unwrap();
    std::os::unix::fs::symlink("../id_rsa", base.join("notes.txt")).unwrap();
    let said = stderr_of(&run(&parent, &["adapter", "-o", "m"]).success());
    assert!(said.contains("not copied (1): notes.txt"), "{said}");
    let tools = |name: &str| parent.path().join(name).join("additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read_to_string(tools("m")).unwrap(), "tools of the base");
    assert!(!parent.path().join("m/notes.txt").exists());

    fs::write(parent.path().join("adapter/chat_template.jinja"), "of the adapter").unwrap();
    run(&parent, &["adapter", "-o", "own"]).success();
    assert!(
        !tools("own").exists(),
        "a template of the base is none of a model that was trained with another"
    );

    std::os::unix::fs::symlink("../id_rsa", base.join("vocab.txt")).unwrap();
    let said = stderr_of(&run(&parent, &["adapter", "-o", "linked"]).code(1));
    assert!(said.contains("vocab.txt is a link out of the model's directory"), "{said}");
    assert!(said.contains("hint: if that file belongs to the model: cp --remove-destination "), "{said}");
    assert!(!parent.path().join("linked").exists());
}
