//! Models as others name and write them, and what is refused.

use std::fs;

use common::checkpoint::{Checkpoint, sharded_name, write_file};

use crate::model::*;

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let (parent, source) = model();
    let error_of = |config: &str| {
        parent.write("source/config.json", config);
        let assert = quantize(&parent).args(["source", "-o", "q"]).assert().code(1);
        assert_eq!(parent.names(""), ["source"]);
        stderr_of(&assert)
    };
    assert!(error_of(r#"{"model_type": "gpt2x"}"#).contains("unknown model_type \"gpt2x\""));
    let error = error_of(r#"{"model_type": "gpt2"}"#);
    assert!(error.contains("\"gpt2\" is not supported: its models have learned positions"), "{error}");
    assert!(error.contains("hint: the nearest is llama; supported are qwen2 (Qwen2, Qwen2.5), "), "{error}");
    for (model_type, what, nearest) in [
        ("qwen2_vl", "reads images or sound", "qwen2"),
        ("llama4", "attention in chunks", "llama"),
        ("whisper", "an encoder of sound", ""),
        ("qwen3_next", "linear attention", "qwen3_moe"),
        ("qwen3_5", "linear attention", "qwen3"),
        ("gpt_oss", "attention sinks", "qwen3_moe"),
        ("gemma4", "heads of two sizes", "gemma3_text"),
        ("gemma3n", "embeddings of each layer", "gemma3_text"),
        ("deepseek_v3", "latent attention (MLA)", "qwen3_moe"),
        ("glm4_moe_lite", "latent attention (MLA)", "qwen3_moe"),
        ("glm4_moe", "a mixture of experts of a kind of its own", "qwen3_moe"),
        ("jamba", "state-space layers (Mamba)", "llama"),
        ("falcon_h1", "state-space layers (Mamba)", "llama"),
        ("granitemoehybrid", "state-space layers (Mamba)", "granite"),
        ("lfm2", "layers of convolution", "qwen3"),
        ("bert", "an encoder, which generates no text", ""),
        ("t5", "an encoder before its decoder", ""),
    ] {
        let error = error_of(&format!(r#"{{"model_type": "{model_type}"}}"#));
        assert!(error.contains(&format!("{model_type:?} is not supported: its models have ")), "{error}");
        let nearest = if nearest.is_empty() { String::new() } else { format!("the nearest is {nearest}; ") };
        assert!(error.contains(what) && error.contains(&format!("hint: {nearest}supported are ")), "{error}");
    }
    let with = |more: &str| CONFIG.replacen('{', &format!("{{{more}, "), 1);
    let gptq =
        error_of(&with(r#""quantization_config": {"quant_method": "gptq"}, "_name_or_path": "a/model""#));
    assert!(gptq.contains("quantized with gptq") && gptq.contains(": fetch a/model\n"), "{gptq}");
    let done =
        error_of(&with(r#""quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}"#));
    assert!(done.contains("already quantized, with bitsandbytes") && done.contains("lora-train"), "{done}");
    assert!(error_of("{").contains("config.json"));
    fs::remove_file(source.join("config.json")).unwrap();
    let assert = quantize(&parent).arg("source").assert().code(1);
    assert!(stderr_of(&assert).contains("has no config.json"));
    quantize(&parent).arg("nowhere").assert().code(1);
    quantize(&parent).args(["source", "--block-size", "63"]).assert().code(2);
    quantize(&parent).args(["source", "--keep", "("]).assert().code(2);
}

#[test]
fn names_of_a_model_without_its_head_are_read() {
    let (parent, source) = model();
    rename(&source, &|name| name.into());
    quantize(&parent).args(["source", "-o", "q"]).assert().success();
    let expected = parent.bytes("q/model.safetensors");
    rename(&source, &|name| name.trim_start_matches("model.").into());
    let arguments = ["source", "-o", "bare", "--report", "report.jsonl"];
    quantize(&parent).args(arguments).assert().success();
    assert_eq!(parent.bytes("bare/model.safetensors"), expected);
    assert_eq!(parent.text("report.jsonl").lines().count(), 2);
    let verify = ["--verify", "bare", "--against", "source"];
    assert!(stderr_of(&quantize(&parent).args(verify).assert().success()).contains("2 weights"));
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
        let assert = quantize(&parent).args(["source", "-o", "q"]).assert().code(1);
        let error = stderr_of(&assert);
        let first = format!("{wrap}lm_head.weight");
        assert!(error.contains(said) && error.contains(hint) && error.contains(&first), "{error}");
        assert_eq!(parent.names(""), ["source"]);
    }
}

/// Weights that GPTQ has packed, in a model whose config.json does not say so.
#[test]
fn packed_weights_are_refused_by_what_packed_them() {
    let (parent, source) = model();
    for (packed, said) in [(".qweight", "GPTQ or AWQ"), (".weight_packed", "compressed-tensors")] {
        rename(&source, &|name| name.replace(".weight", packed));
        let assert = quantize(&parent).args(["source", "-o", "q"]).assert().code(1);
        let error = stderr_of(&assert);
        assert!(error.contains(said) && error.contains("begin with the original model"), "{error}");
    }
}

#[test]
fn pickled_weights_are_refused_with_what_converts_them() {
    let (parent, source) = model();
    for name in parent.names("source") {
        if name.contains("safetensors") {
            fs::remove_file(source.join(name)).unwrap();
        }
    }
    parent.write("source/pytorch_model.bin", "pickle");
    let assert = quantize(&parent).arg("source").assert().code(1);
    let error = stderr_of(&assert);
    assert!(error.contains("has no model.safetensors") && error.contains("python3 -c "), "{error}");
    assert!(error.ends_with(" source source-safetensors\n"), "{error}");
    fs::rename(source.join("pytorch_model.bin"), source.join("model-Q4_K_M.gguf")).unwrap();
    let error = stderr_of(&quantize(&parent).arg("source").assert().code(1));
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
    let assert = quantize(&parent).args(["source", "-o", "q"]).assert().code(1);
    assert!(stderr_of(&assert).contains(&format!("tensor {UP} has NaN at [3, 5]")), "{}", stderr_of(&assert));
    assert_eq!(parent.names(""), ["source"], "nothing is left behind");
}

/// As `fetch --cache` and the hub's own tools leave it: links into blobs, and a ref that names the commit.
#[test]
fn a_model_in_the_hubs_cache_is_found_by_its_name() {
    let (parent, source) = model();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = parent.path("hub/models--owner--tiny");
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
        let mut command = quantize(&parent);
        command.arg(model).env("HF_HUB_CACHE", parent.path("hub"));
        command.assert()
    };
    let done = run("owner/tiny").success();
    assert!(stderr_of(&done).contains(snapshot.to_str().unwrap()), "{}", stderr_of(&done));
    run("source").success();
    let weights = |output: &str| {
        let checkpoint = Checkpoint::open(&parent.path(output)).unwrap();
        checkpoint.tensors().map(|tensor| (tensor.name.clone(), tensor.bytes.to_vec())).collect::<Vec<_>>()
    };
    assert!(weights("tiny-nf4") == weights("source-nf4"));
    let missing = run("owner/$(id)").failure();
    assert!(stderr_of(&missing).contains("hint: fetch 'owner/$(id)' downloads"), "{}", stderr_of(&missing));
}
