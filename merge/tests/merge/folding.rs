//! An adapter folded into its base: scales, ranks, several adapters, biases.

use common::checkpoint::{Checkpoint, Tensor};

use crate::place::*;

#[test]
fn an_adapter_is_folded_into_the_dequantized_weights_of_its_base() {
    let parent = workplace();
    let assert = run(&parent, &["adapter", "--verify"]).success();
    assert_eq!(assert.get_output().stdout, b"adapter-merged\n");
    let result = parent.path("adapter-merged");
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
fn scales_ranks_and_alphas_are_those_of_the_adapter() {
    let parent = workplace();
    let keys = r#""r": 4, "lora_alpha": 8, "use_rslora": true, "fan_in_fan_out": true,
        "rank_pattern": {"up_proj": 9}, "alpha_pattern": {"mlp.up_proj": 6}"#;
    adapter(&parent.path("adapter"), "../base", keys, &[(Q, 4), (UP, 9)], &[]);
    run(&parent, &["adapter", "-o", "m"]).success();
    for (module, rank, scale) in [(Q, 4, 4.0), (UP, 9, 2.0)] {
        let name = format!("{module}.weight");
        assert_folded(&parent.path("m"), &name, &folded(&original(&name), &[(module, rank, scale)]));
    }
}

#[test]
fn several_adapters_count_for_their_weights() {
    let parent = workplace();
    adapter(&parent.path("second"), "../base", r#""r": 2, "lora_alpha": 2"#, &[(UP, 2)], &[]);
    let arguments = ["adapter", "second", "--base", "base", "--weights", "0.5,-0.25", "-o", "m", "--verify"];
    run(&parent, &arguments).success();
    let name = format!("{UP}.weight");
    let expected = folded(&original(&name), &[(UP, 4, 1.0), (UP, 2, -0.25)]);
    assert_folded(&parent.path("m"), &name, &expected);
    run(&parent, &["adapter", "second", "--weights", "0.5", "-o", "n"]).code(2);
}

#[test]
fn biases_and_whole_modules_replace_those_of_the_base() {
    let parent = workplace();
    let bias = numbers(32, 9);
    let more = [Tensor::from_f32(format!("base_model.model.{Q}.base_layer.bias"), vec![32], &bias)];
    adapter(
        &parent.path("adapter"),
        "../base",
        r#""r": 4, "lora_alpha": 8, "bias": "all""#,
        &[(Q, 4)],
        &more,
    );
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    assert_folded(&parent.path("m"), &format!("{Q}.bias"), &folded(&bias, &[]));
}
