//! What a model becomes, and when it is made again.

use std::fs;
use std::path::Path;

use common::checkpoint::{Checkpoint, Dtype, INDEX, Index, Tensor, sharded_name, write_file};
use common::nf4::{QuantType, Quantized, Scheme};

use crate::model::*;

#[test]
fn a_model_becomes_the_same_model_in_4_bits() {
    let (parent, source) = model();
    let assert = quantize(&parent).arg("source").assert().success();
    assert_eq!(assert.get_output().stdout, b"source-nf4\n");
    let result = parent.path("source-nf4");
    assert_eq!(
        parent.names("source-nf4"),
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
    let mut command = quantize(&parent);
    command.args(["source", "-o", "q", "--compute-dtype", "float16"]).args(options);
    command.assert().success();
    let written = Checkpoint::open(&parent.path("q")).unwrap();
    let quantized = Quantized::load(&written, Q).unwrap().unwrap();
    assert_eq!((quantized.quant_type(), quantized.block_size()), (QuantType::Fp4, 128));
    assert_eq!(written.tensor(&format!("{Q}.absmax")).unwrap().dtype, Dtype::F32);
    assert_eq!(written.tensor(UP).unwrap().dtype, Dtype::BF16);
    let config = parent.bytes("q/config.json");
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
    quantize(&parent).args(["source", "-o", "whole"]).assert().success();
    let line = |name: &str| format!("{}\n", source.join(name).display());
    // The second file before the first and before the index.
    let lines = ["config.json", &sharded_name(2, 2), "tokenizer.json", INDEX, &sharded_name(1, 2)].map(line);
    let input = lines.concat() + &format!("{}\n", source.display());
    quantize(&parent).args(["-o", "piped"]).write_stdin(input).assert().success();
    let unlike_in_time = |files: Vec<(String, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|(name, _)| name != "made-by.json").collect()
    };
    assert!(unlike_in_time(parent.contents("whole")) == unlike_in_time(parent.contents("piped")));
}

#[test]
fn an_upstream_that_fails_leaves_no_result_and_what_was_done_is_used() {
    let (parent, source) = model();
    let line = |name: &str| format!("{}\n", source.join(name).display());
    let input = ["config.json", INDEX, &sharded_name(1, 2)].map(line).concat();
    let assert = quantize(&parent).args(["-o", "q"]).write_stdin(input).assert().code(1);
    let stderr = stderr_of(&assert);
    assert!(stderr.contains(&format!("upstream ended before {}", sharded_name(2, 2))), "{stderr}");
    assert_eq!(parent.names(""), [".q.qlora-tools", "source"]);
    let assert = quantize(&parent).args(["source", "-o", "q"]).assert().success();
    assert!(stderr_of(&assert).contains(&format!("{} is already quantized", sharded_name(1, 2))));
    assert_eq!(parent.names(""), ["q", "source"]);
}

#[test]
fn the_same_work_is_done_once_and_changed_weights_are_noticed() {
    let (parent, source) = model();
    let run = |arguments: &[&str]| quantize(&parent).args(["source", "-o", "q"]).args(arguments).assert();
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
    let run = |arguments: &[&str]| quantize(&parent).args(["source", "-o", "q"]).args(arguments).assert();
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
        assert_eq!(tokenizer(&parent.path("q")), tokenizer(&source));
        assert_eq!(parent.path("q/chat_template.jinja").exists(), template.exists());
    }
    // What no result takes along may change.
    parent.write("source/README.md", "more about it");
    assert!(stderr_of(&run(&[]).success()).contains("already made"));
}

#[test]
fn a_head_that_differs_from_the_table_is_not_tied() {
    let (parent, source) = model();
    let config = CONFIG.replacen('{', r#"{"tie_word_embeddings": true, "#, 1);
    parent.write("source/config.json", config);
    let table = |name: &str| Tensor { name: name.into(), ..weight(HEAD, [33, 96]) };
    let mut other = table(HEAD);
    other.bytes = other.bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    for (head, tied) in [(table(HEAD), true), (other, false)] {
        rename(&source, &|name| name.into());
        let mut all = tensors();
        all[3] = head;
        all.push(table("model.embed_tokens.weight"));
        write_file(&source.join("model.safetensors"), &all).unwrap();
        quantize(&parent).args(["source", "-o", "q", "--force"]).assert().success();
        let config: serde_json::Value = serde_json::from_slice(&parent.bytes("q/config.json")).unwrap();
        assert_eq!(config["tie_word_embeddings"], tied);
    }
}

#[test]
fn templates_go_along_and_links_out_of_the_model_do_not() {
    let (parent, source) = model();
    fs::create_dir(source.join("additional_chat_templates")).unwrap();
    parent.write("source/additional_chat_templates/tool_use.jinja", "tools");
    parent.write("id_rsa", "secret");
    std::os::unix::fs::symlink("../id_rsa", source.join("notes.txt")).unwrap();
    let quantized = |output: &str| quantize(&parent).args(["source", "-o", output]).assert();
    let said = stderr_of(&quantized("q").success());
    assert!(said.contains("not copied (2): README.md, notes.txt"), "{said}");
    let tools = parent.path("q/additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read_to_string(tools).unwrap(), "tools");
    assert!(!parent.path("q/notes.txt").exists());
    assert!(stderr_of(&quantized("q").success()).contains("already made"));

    std::os::unix::fs::symlink("../id_rsa", source.join("LICENSE")).unwrap();
    let said = stderr_of(&quantized("linked").code(1));
    assert!(said.contains("LICENSE is a link out of the model's directory"), "{said}");
    assert!(said.contains("hint: if that file belongs to the model: cp --remove-destination "), "{said}");
    assert!(!parent.path("linked").exists());
}
