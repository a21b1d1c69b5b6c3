//! The plan of a run's memory: made from headers, before any weight is read.

use common::nf4::Scheme;
use serde_json::{Value, json};
use tests::hollow_model;

use crate::place::Place;
use crate::training::RUN;

/// Qwen2.5-7B's shape.
fn qwen() -> Value {
    json!({"model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "tie_word_embeddings": false})
}

/// The number behind `what` in a line of the output.
fn number(said: &str, what: &str) -> u64 {
    let behind = said.split_once(what).unwrap_or_else(|| panic!("{what:?} is missing from {said}")).1;
    behind.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_dry_run_plans_by_headers_and_reads_no_weight() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 1 -o out -v --device cpu");
    for (scheme, more) in [
        (None, ""),
        (None, "--quantization-bit 4"),
        (Some(Scheme::default()), ""),
        (Some(Scheme { double_quant: false, ..Scheme::default() }), "--optim paged_adamw_8bit"),
    ] {
        let bytes = hollow_model::write_model(&qwen(), scheme, &place.path("model"));
        let (_, said) = place.run(&format!("{run} {more} --dry-run"));
        assert!(said.contains("Number of trainable parameters = 20185088\n"), "{said}");
        assert!(said.contains("blocks recomputed") && said.contains("***** Schedule *****"), "{said}");
        let weights = number(&said, "Weights = ");
        match more.contains("quantization") {
            // bf16 embeddings and head, and half a byte and a little more for each other number.
            true => assert!((2079 + 3111..2079 + 3400).contains(&weights), "{weights}"),
            // Norms and biases are widened, codebooks and states are not kept.
            false => assert!(weights.abs_diff(bytes >> 20) < 8, "{weights} of {}", bytes >> 20),
        }
        let adapters = number(&said, "Adapters and their gradients = ");
        assert_eq!(adapters, (8 * 20_185_088_u64).div_ceil(1 << 20));
        let moments = if more.contains("8bit") { 40..42 } else { 154..155 };
        assert!(moments.contains(&number(&said, "optimizer = ")), "{said}");
        assert!(number(&said, "peak memory ") < 200, "weights were read: {said}");
    }
    // A run does read them, and finds that they are not there.
    let (code, said) = place.fail(&run);
    assert!(code == 1 && said.contains("quant_state"), "{said}");
}

#[test]
fn a_dry_run_finds_what_is_missing_in_the_headers() {
    let place = Place::new();
    let mut config = place.json("model/config.json");
    config["num_hidden_layers"] = json!(3);
    place.write("model/config.json", config.to_string());
    let (_, said) = place.fail(&format!("{RUN} -o out --dry-run"));
    assert!(said.contains("has no tensor model.layers.2.self_attn.q_proj.weight"), "{said}");
    config["num_hidden_layers"] = json!(2);
    config["intermediate_size"] = json!(129);
    place.write("model/config.json", config.to_string());
    let (_, said) = place.fail(&format!("{RUN} -o out --dry-run"));
    assert!(said.contains("mlp.gate_proj.weight: shape [129, 64] expected, found [128, 64]"), "{said}");
    assert!(!place.path("out").exists());
}

#[test]
fn a_dry_run_of_a_continued_run_begins_where_that_stands() {
    let place = Place::new();
    place.train(&format!("{RUN} --max-steps 4 --save-steps 2 -o out"));
    let resumed = format!("{RUN} --max-steps 4 --resume-from-checkpoint out/checkpoint-2 -o other --dry-run");
    let (_, said) = place.run(&resumed);
    assert!(said.contains("Continues after step 2\n"), "{said}");
    let other = resumed.replace("--max-steps 4", "--max-steps 5");
    assert!(place.fail(&other).1.contains("max_steps was 4, now 5"));
    let (_, said) = place.run(&format!("{RUN} --max-steps 1 --adapter-name-or-path out -o other --dry-run"));
    let (_, new) = place.run(&format!("{RUN} --max-steps 1 -o other --dry-run"));
    let trainable = |said: &str| number(said, "trainable parameters = ");
    assert_eq!(trainable(&said), trainable(&new));
}
