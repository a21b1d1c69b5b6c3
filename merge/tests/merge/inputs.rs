//! Bases and adapters as others name and write them, and what is refused.

use std::fs;

use common::checkpoint::{INDEX, Tensor, write_file};

use crate::place::*;

#[test]
fn names_of_a_model_without_its_head_are_read() {
    let parent = workplace();
    let expected = {
        run(&parent, &["adapter", "--base", "base", "-o", "m"]).success();
        parent.bytes("m/model.safetensors")
    };
    let rename = |rename: &dyn Fn(&str) -> String| {
        let tensors: Vec<Tensor> =
            weights().into_iter().map(|tensor| Tensor { name: rename(&tensor.name), ..tensor }).collect();
        write_file(&parent.path("base/model.safetensors"), &tensors).unwrap();
    };
    rename(&|name| name.trim_start_matches("model.").into());
    run(&parent, &["adapter", "--base", "base", "-o", "bare", "--verify"]).success();
    assert_eq!(parent.bytes("bare/model.safetensors"), expected);
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
    parent.write("base/config.json", config);
    parent.write("base/README.md", "---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n");
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
    parent.write("export.yaml", yaml);
    let assert = run(&parent, &["export.yaml"]).success();
    assert_eq!(assert.get_output().stdout, b"out/m\n");
    let result = parent.path("out/m");
    // 3 kB: the first tensor of 1,920 bytes, two of 1,600, and one of 2,688.
    assert_eq!(names_in(&result).iter().filter(|name| name.starts_with("model-")).count(), 3);
    assert!(result.join(INDEX).exists());
    let name = format!("{UP}.weight");
    assert_folded(&result, &name, &folded(&original(&name), &[(UP, 4, 2.0)]));
}

#[test]
fn what_does_not_fit_is_named_and_leaves_nothing() {
    let parent = workplace();
    let before = parent.names("");
    let error_of = |modules: &[(&str, usize)], keys: &str, more: &[Tensor]| {
        adapter(&parent.path("adapter"), "../base", keys, modules, more);
        let assert = run(&parent, &["adapter", "-o", "m"]).code(1);
        assert_eq!(parent.names(""), before, "nothing is left behind");
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
    adapter(&parent.path("adapter"), "Qwen/Qwen2.5-7B", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4)], &[]);
    let error = stderr_of(&run(&parent, &["adapter"]).code(1));
    assert!(error.contains("hint: fetch Qwen/Qwen2.5-7B"), "{error}");
    fs::rename(parent.path("base"), parent.path("Qwen2.5-7B")).unwrap();
    run(&parent, &["adapter"]).success();
}
