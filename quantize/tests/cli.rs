//! The tool as a user runs it, on small models made here.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Checkpoint, Dtype, INDEX, Index, Tensor, sharded_name, write_file};
use common::nf4::{QuantType, Quantized, Scheme};
use tempfile::TempDir;

fn quantize() -> Command {
    Command::cargo_bin("quantize").unwrap()
}

fn weight(name: &str, shape: [usize; 2]) -> Tensor {
    let bytes = (0..shape[0] * shape[1])
        .flat_map(|i| {
            let value = ((i * 7919 + name.len() * 31) % 2003) as f32 / 1000.0 - 1.0;
            ((value.to_bits() >> 16) as u16).to_le_bytes()
        })
        .collect::<Vec<u8>>();
    Tensor { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.into() }
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

const CONFIG: &str = r#"{"model_type": "qwen2", "torch_dtype": "bfloat16", "hidden_size": 96,
    "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 33,
    "max_position_embeddings": 16, "rms_norm_eps": 1e-6}"#;

fn tensors() -> Vec<Tensor> {
    vec![weight(Q, [48, 96]), weight(UP, [64, 96]), weight(NORM, [1, 96]), weight(HEAD, [33, 96])]
}

/// A model in two files, `source` below a directory of its own.
fn model() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let source = parent.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("config.json"), CONFIG).unwrap();
    fs::write(source.join("tokenizer.json"), "{}").unwrap();
    fs::write(source.join("README.md"), "about").unwrap();
    let mut index = Index::default();
    for (number, part) in tensors().chunks(2).enumerate() {
        let file = sharded_name(number + 1, 2);
        write_file(&source.join(&file), part).unwrap();
        for tensor in part {
            index.weight_map.insert(tensor.name.clone(), file.clone());
        }
    }
    fs::write(source.join(INDEX), index.to_json().unwrap()).unwrap();
    (parent, source)
}

fn stderr_of(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    names_in(directory)
        .into_iter()
        .map(|name| (name.clone(), fs::read(directory.join(name)).unwrap()))
        .collect()
}

#[test]
fn a_model_becomes_the_same_model_in_4_bits() {
    let (parent, source) = model();
    let assert = quantize().current_dir(parent.path()).arg("source").assert().success();
    assert_eq!(assert.get_output().stdout, b"source-nf4\n");
    let result = parent.path().join("source-nf4");
    assert_eq!(
        names_in(&result),
        ["config.json", "made-by.json", &sharded_name(1, 2), &sharded_name(2, 2), INDEX, "tokenizer.json"]
    );
    let written = Checkpoint::open(&result).unwrap();
    for name in [Q, UP] {
        let expected =
            Quantized::quantize(&Checkpoint::open(&source).unwrap().tensor(name).unwrap(), Scheme::default());
        let found = Quantized::load(&written, name).unwrap().unwrap();
        assert_eq!(found.dequantize(), expected.unwrap().dequantize(), "{name}");
    }
    for tensor in &tensors()[2..] {
        assert_eq!(*written.tensor(&tensor.name).unwrap().bytes, *tensor.bytes, "{}", tensor.name);
    }
    let index = Index::read(&result.join(INDEX)).unwrap();
    assert_eq!(index.weight_map.len(), written.names().count(), "the index names every tensor");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(result.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!(config["quantization_config"]["bnb_4bit_quant_type"], "nf4");
    assert_eq!(config["quantization_config"]["bnb_4bit_compute_dtype"], "bfloat16");
}

#[test]
fn every_option_reaches_the_result() {
    let (parent, _) = model();
    let options = ["--quant-type", "fp4", "--block-size", "128", "--no-double-quant", "--keep", "up_proj"];
    let mut command = quantize();
    command
        .current_dir(parent.path())
        .args(["source", "-o", "q", "--compute-dtype", "float16"])
        .args(options);
    command.assert().success();
    let written = Checkpoint::open(&parent.path().join("q")).unwrap();
    let quantized = Quantized::load(&written, Q).unwrap().unwrap();
    assert_eq!((quantized.quant_type(), quantized.block_size()), (QuantType::Fp4, 128));
    assert_eq!(written.tensor(&format!("{Q}.absmax")).unwrap().dtype, Dtype::F32);
    assert_eq!(written.tensor(UP).unwrap().dtype, Dtype::BF16);
    let config = fs::read(parent.path().join("q/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let config = &config["quantization_config"];
    assert_eq!(config["bnb_4bit_quant_type"], "fp4");
    assert_eq!(config["bnb_4bit_use_double_quant"], false);
    assert_eq!(config["bnb_4bit_compute_dtype"], "float16");
    assert_eq!(config["llm_int8_skip_modules"], serde_json::json!(["lm_head", "model.layers.0.mlp.up_proj"]));
}

#[test]
fn files_are_taken_as_they_arrive() {
    let (parent, source) = model();
    quantize().current_dir(parent.path()).args(["source", "-o", "whole"]).assert().success();
    let line = |name: &str| format!("{}\n", source.join(name).display());
    // The second file before the first and before the index.
    let lines = ["config.json", &sharded_name(2, 2), "tokenizer.json", INDEX, &sharded_name(1, 2)].map(line);
    let input = lines.concat() + &format!("{}\n", source.display());
    quantize().current_dir(parent.path()).args(["-o", "piped"]).write_stdin(input).assert().success();
    let unlike_in_time = |files: Vec<(String, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|(name, _)| name != "made-by.json").collect()
    };
    assert!(
        unlike_in_time(bytes_of(&parent.path().join("whole")))
            == unlike_in_time(bytes_of(&parent.path().join("piped")))
    );
}

#[test]
fn an_upstream_that_fails_leaves_no_result_and_what_was_done_is_used() {
    let (parent, source) = model();
    let line = |name: &str| format!("{}\n", source.join(name).display());
    let input = ["config.json", INDEX, &sharded_name(1, 2)].map(line).concat();
    let assert = quantize().current_dir(parent.path()).args(["-o", "q"]).write_stdin(input).assert().code(1);
    let stderr = stderr_of(&assert);
    assert!(stderr.contains(&format!("upstream ended before {}", sharded_name(2, 2))), "{stderr}");
    assert_eq!(names_in(parent.path()), [".q.qlora-tools", "source"]);
    let assert = quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().success();
    assert!(stderr_of(&assert).contains(&format!("{} is already quantized", sharded_name(1, 2))));
    assert_eq!(names_in(parent.path()), ["q", "source"]);
}

#[test]
fn the_same_work_is_done_once_and_changed_weights_are_noticed() {
    let (parent, source) = model();
    let run = |arguments: &[&str]| {
        quantize().current_dir(parent.path()).args(["source", "-o", "q"]).args(arguments).assert()
    };
    run(&[]).success();
    let assert = run(&[]).success();
    assert!(stderr_of(&assert).contains("already made"));
    assert_eq!(assert.get_output().stdout, b"q\n");
    run(&["--block-size", "128"]).code(1);

    write_file(&source.join(sharded_name(1, 2)), &[weight(Q, [48, 96]), weight(UP, [64, 96])]).unwrap();
    let assert = run(&[]).code(1);
    assert!(stderr_of(&assert).contains("made from something else"), "{}", stderr_of(&assert));
    run(&["--force"]).success();
}

#[test]
fn a_companion_that_changed_came_or_went_is_noticed() {
    let (parent, source) = model();
    let run = |arguments: &[&str]| {
        quantize().current_dir(parent.path()).args(["source", "-o", "q"]).args(arguments).assert()
    };
    run(&[]).success();
    let template = source.join("chat_template.jinja");
    let changes: [&dyn Fn(); 3] = [
        &|| fs::write(source.join("tokenizer.json"), r#"{"version": "1.0"}"#).unwrap(),
        &|| fs::write(&template, "{{ messages }}").unwrap(),
        &|| fs::remove_file(&template).unwrap(),
    ];
    for change in changes {
        change();
        let stderr = stderr_of(&run(&[]).code(1));
        assert!(stderr.contains("made from something else"), "{stderr}");
        assert!(stderr.contains("hint: --force replaces it"), "{stderr}");
        run(&["--force"]).success();
        assert!(stderr_of(&run(&[]).success()).contains("already made"));
        let tokenizer = |directory: &Path| fs::read(directory.join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer(&parent.path().join("q")), tokenizer(&source));
        assert_eq!(parent.path().join("q/chat_template.jinja").exists(), template.exists());
    }
    // What no result takes along may change.
    fs::write(source.join("README.md"), "more about it").unwrap();
    assert!(stderr_of(&run(&[]).success()).contains("already made"));
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let (parent, source) = model();
    let error_of = |config: &str| {
        fs::write(source.join("config.json"), config).unwrap();
        let assert = quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().code(1);
        assert_eq!(names_in(parent.path()), ["source"]);
        stderr_of(&assert)
    };
    assert!(error_of(r#"{"model_type": "gpt2"}"#).contains("unknown model_type \"gpt2\""));
    let with = |more: &str| CONFIG.replacen('{', &format!("{{{more}, "), 1);
    let gptq =
        error_of(&with(r#""quantization_config": {"quant_method": "gptq"}, "_name_or_path": "a/model""#));
    assert!(gptq.contains("quantized with gptq") && gptq.contains(": fetch a/model\n"), "{gptq}");
    let done =
        error_of(&with(r#""quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}"#));
    assert!(done.contains("already quantized, with bitsandbytes") && done.contains("lora-train"), "{done}");
    assert!(error_of("{").contains("config.json"));
    fs::remove_file(source.join("config.json")).unwrap();
    let assert = quantize().current_dir(parent.path()).arg("source").assert().code(1);
    assert!(stderr_of(&assert).contains("has no config.json"));
    quantize().current_dir(parent.path()).arg("nowhere").assert().code(1);
    quantize().args(["source", "--block-size", "63"]).assert().code(2);
    quantize().current_dir(parent.path()).args(["source", "--keep", "("]).assert().code(2);
}

/// Writes the model's tensors under other names, in one file.
fn rename(source: &Path, rename: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("model") {
            fs::remove_file(path).unwrap();
        }
    }
    let renamed: Vec<Tensor> =
        tensors().into_iter().map(|tensor| Tensor { name: rename(&tensor.name), ..tensor }).collect();
    write_file(&source.join("model.safetensors"), &renamed).unwrap();
}

#[test]
fn names_of_a_model_without_its_head_are_read() {
    let (parent, source) = model();
    rename(&source, &|name| name.into());
    quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().success();
    let expected = fs::read(parent.path().join("q/model.safetensors")).unwrap();
    rename(&source, &|name| name.trim_start_matches("model.").into());
    let arguments = ["source", "-o", "bare", "--report", "report.jsonl"];
    quantize().current_dir(parent.path()).args(arguments).assert().success();
    assert_eq!(fs::read(parent.path().join("bare/model.safetensors")).unwrap(), expected);
    assert_eq!(fs::read_to_string(parent.path().join("report.jsonl")).unwrap().lines().count(), 2);
    let verify = ["--verify", "bare", "--against", "source"];
    assert!(
        stderr_of(&quantize().current_dir(parent.path()).args(verify).assert().success())
            .contains("2 weights")
    );
}

#[test]
fn names_that_nothing_reads_are_refused() {
    let (parent, source) = model();
    for (wrap, said, hint) in [
        ("_orig_mod.", "torch.compile", "save_pretrained"),
        ("module.", "DataParallel", "model.module.save_pretrained"),
        ("transformer.", "no linear weight found", "save_pretrained"),
    ] {
        rename(&source, &|name| format!("{wrap}{name}"));
        let assert = quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().code(1);
        let error = stderr_of(&assert);
        let first = format!("{wrap}lm_head.weight");
        assert!(error.contains(said) && error.contains(hint) && error.contains(&first), "{error}");
        assert_eq!(names_in(parent.path()), ["source"]);
    }
}

/// Weights that GPTQ has packed, in a model whose config.json does not say so.
#[test]
fn packed_weights_are_refused_by_what_packed_them() {
    let (parent, source) = model();
    for (packed, said) in [(".qweight", "GPTQ or AWQ"), (".weight_packed", "compressed-tensors")] {
        rename(&source, &|name| name.replace(".weight", packed));
        let assert = quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().code(1);
        let error = stderr_of(&assert);
        assert!(error.contains(said) && error.contains("begin with the original model"), "{error}");
    }
}

#[test]
fn a_head_that_differs_from_the_table_is_not_tied() {
    let (parent, source) = model();
    let config = CONFIG.replacen('{', r#"{"tie_word_embeddings": true, "#, 1);
    fs::write(source.join("config.json"), config).unwrap();
    let table = |name: &str| Tensor { name: name.into(), ..weight(HEAD, [33, 96]) };
    let mut other = table(HEAD);
    other.bytes = other.bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    for (head, tied) in [(table(HEAD), true), (other, false)] {
        rename(&source, &|name| name.into());
        let mut all = tensors();
        all[3] = head;
        all.push(table("model.embed_tokens.weight"));
        write_file(&source.join("model.safetensors"), &all).unwrap();
        quantize().current_dir(parent.path()).args(["source", "-o", "q", "--force"]).assert().success();
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(parent.path().join("q/config.json")).unwrap()).unwrap();
        assert_eq!(config["tie_word_embeddings"], tied);
    }
}

#[test]
fn pickled_weights_are_refused_with_what_converts_them() {
    let (parent, source) = model();
    for name in names_in(&source) {
        if name.contains("safetensors") {
            fs::remove_file(source.join(name)).unwrap();
        }
    }
    fs::write(source.join("pytorch_model.bin"), "pickle").unwrap();
    let assert = quantize().current_dir(parent.path()).arg("source").assert().code(1);
    let error = stderr_of(&assert);
    assert!(error.contains("has no model.safetensors") && error.contains("python3 -c "), "{error}");
    assert!(error.ends_with(" source source-safetensors\n"), "{error}");
    fs::rename(source.join("pytorch_model.bin"), source.join("model-Q4_K_M.gguf")).unwrap();
    let error = stderr_of(&quantize().current_dir(parent.path()).arg("source").assert().code(1));
    assert!(error.contains("hint: model-Q4_K_M.gguf is of a format that is not read"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let (parent, source) = model();
    let mut bad = weight(UP, [64, 96]);
    let mut bytes = bad.bytes.to_vec();
    bytes[2 * (3 * 96 + 5)..][..2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    bad.bytes = bytes.into();
    write_file(&source.join(sharded_name(1, 2)), &[weight(Q, [48, 96]), bad]).unwrap();
    let assert = quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().code(1);
    assert!(stderr_of(&assert).contains(&format!("tensor {UP} has NaN at [3, 5]")), "{}", stderr_of(&assert));
    assert_eq!(names_in(parent.path()), ["source"], "nothing is left behind");
}

#[test]
fn the_report_has_a_line_for_each_weight() {
    let (parent, _) = model();
    let arguments = ["source", "-o", "q", "--report", "errors.jsonl"];
    let assert = quantize().current_dir(parent.path()).args(arguments).assert().success();
    assert!(stderr_of(&assert).contains(" dB, largest error "), "{}", stderr_of(&assert));
    let text = fs::read_to_string(parent.path().join("errors.jsonl")).unwrap();
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
    fs::remove_file(parent.path().join("errors.jsonl")).unwrap();
    quantize().current_dir(parent.path()).args(arguments).assert().success();
    assert_eq!(fs::read_to_string(parent.path().join("errors.jsonl")).unwrap(), text);
}

#[test]
fn verifying_finds_what_was_changed() {
    let (parent, source) = model();
    quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().success();
    let verify =
        || quantize().current_dir(parent.path()).args(["--verify", "q", "--against", "source"]).assert();
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
    quantize().args(["--verify", "q"]).assert().code(2);
}

/// As `fetch --cache` and the hub's own tools leave it: links into blobs, and a ref that names the commit.
#[test]
fn a_model_in_the_hubs_cache_is_found_by_its_name() {
    let (parent, source) = model();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = parent.path().join("hub/models--owner--tiny");
    let snapshot = repository.join("snapshots").join(commit);
    for directory in [repository.join("blobs"), repository.join("refs"), snapshot.clone()] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(repository.join("refs/main"), commit).unwrap();
    for (number, entry) in fs::read_dir(&source).unwrap().map(Result::unwrap).enumerate() {
        fs::copy(entry.path(), repository.join(format!("blobs/{number}"))).unwrap();
        let link = snapshot.join(entry.file_name());
        std::os::unix::fs::symlink(format!("../../blobs/{number}"), link).unwrap();
    }
    let run = |model: &str| {
        let mut command = quantize();
        command.arg(model).current_dir(parent.path()).env("HF_HUB_CACHE", parent.path().join("hub"));
        command.assert()
    };
    let done = run("owner/tiny").success();
    assert!(stderr_of(&done).contains(snapshot.to_str().unwrap()), "{}", stderr_of(&done));
    run("source").success();
    let weights = |output: &str| {
        let checkpoint = Checkpoint::open(&parent.path().join(output)).unwrap();
        checkpoint.tensors().map(|tensor| (tensor.name.clone(), tensor.bytes.to_vec())).collect::<Vec<_>>()
    };
    assert!(weights("tiny-nf4") == weights("source-nf4"));
    let missing = run("owner/$(id)").failure();
    assert!(stderr_of(&missing).contains("hint: fetch 'owner/$(id)' downloads"), "{}", stderr_of(&missing));
}

#[test]
fn templates_go_along_and_links_out_of_the_model_do_not() {
    let (parent, source) = model();
    fs::create_dir(source.join("additional_chat_templates")).unwrap();
    fs::write(source.join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    fs::write(parent.path().join("id_rsa"), "secret").unwrap();
    std::os::unix::fs::symlink("../id_rsa", source.join("notes.txt")).unwrap();
    let quantized =
        |output: &str| quantize().current_dir(parent.path()).args(["source", "-o", output]).assert();
    let said = stderr_of(&quantized("q").success());
    assert!(said.contains("not copied (2): README.md, notes.txt"), "{said}");
    let tools = parent.path().join("q/additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read_to_string(tools).unwrap(), "tools");
    assert!(!parent.path().join("q/notes.txt").exists());
    assert!(stderr_of(&quantized("q").success()).contains("already made"));

    std::os::unix::fs::symlink("../id_rsa", source.join("LICENSE")).unwrap();
    let said = stderr_of(&quantized("linked").code(1));
    assert!(said.contains("LICENSE is a link out of the model's directory"), "{said}");
    assert!(said.contains("hint: if that file belongs to the model: cp --remove-destination "), "{said}");
    assert!(!parent.path().join("linked").exists());
}

#[test]
fn verifying_finds_every_part_that_was_damaged() {
    let (parent, _) = model();
    quantize().current_dir(parent.path()).args(["source", "-o", "q"]).assert().success();
    let file = parent.path().join("q").join(sharded_name(1, 2));
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
        let assert =
            quantize().current_dir(parent.path()).args(["--verify", "q", "--against", "source"]).assert();
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
