//! What `lora-train` trains on, as a user says it.

use serde_json::json;

use crate::place::Place;

/// A place with a dataset called `words` in a dataset_info.json.
fn place() -> Place {
    let place = Place::new();
    let row = |i: usize| json!({"ask": format!("q{i}"), "say": format!("a{i}"), "before": [["h", "i"]]});
    let columns = json!({"prompt": "ask", "response": "say", "history": "before"});
    let info = json!({"words": {"file_name": "words.json", "columns": columns}});
    place.write("words.json", (0..6).map(row).collect::<serde_json::Value>().to_string());
    place.write("dataset_info.json", info.to_string());
    place
}

/// Trains for a step on the named dataset, and returns what is said.
fn train(place: &Place, arguments: &str) -> String {
    place.run(&format!("model --dataset words --dataset-dir . --max-steps 1 -o out --force {arguments}")).1
}

#[test]
fn datasets_by_name_and_examples_to_look_at() {
    let place = place();
    let said = train(&place, "--max-samples 4 --show-examples 1");
    assert!(said.contains("Num examples = 4\n"), "{said}");
    let shown = "<|im_start|>user\nh<|im_end|>\n<|im_start|>assistant\n«i<|im_end|>\n»\
        <|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\n«a0<|im_end|>\n»";
    assert!(said.contains(shown), "{said}");
    assert!(!said.contains("q1"), "one was asked for");
    assert!(!place.path("out/chat_template.jinja").exists(), "the model's own is with the tokenizer");
}

#[test]
fn what_is_trained_can_be_chosen() {
    let place = place();
    let said = train(&place, "--show-examples 1 --mask-history");
    assert!(said.contains("assistant\ni<|im_end|>\n") && said.contains("«a0<|im_end|>\n»"), "{said}");
    let said = train(&place, "--show-examples 1 --train-on-prompt");
    assert!(said.contains("«<|im_start|>user\nh"), "{said}");
}

#[test]
fn a_template_by_name_goes_with_the_adapter() {
    let place = place();
    let said = train(&place, "--template default --show-examples 1");
    assert!(said.contains("Human: h<|im_end|>\nAssistant:«i<|im_end|>\n»Human: q0<|im_end|>\n"), "{said}");
    let kept = fs_err::read_to_string(place.path("out/chat_template.jinja")).unwrap();
    assert!(kept.contains("Human: "), "{kept}");
    let checkpoint = fs_err::read_to_string(place.path("out/checkpoint-1/chat_template.jinja"));
    assert_eq!(checkpoint.unwrap(), kept);
}
