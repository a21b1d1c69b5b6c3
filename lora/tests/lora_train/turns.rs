//! What the turns of a row mean: which are trained, who speaks, and what is called.

use serde_json::{Value, json};

use crate::place::Place;

/// What a dry run on these rows says, with `arguments`.
fn shown(rows: Value, arguments: &str) -> String {
    let place = Place::new();
    place.write("rows.json", rows.to_string());
    place.run(&format!("model --data rows.json -o out --dry-run --show-examples 9 {arguments}")).1
}

/// A user's and an assistant's turn, with more fields in the latter.
fn turns(question: &str, answer: &str, more: Value) -> [Value; 2] {
    let mut answer = json!({"role": "assistant", "content": answer});
    answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    [json!({"role": "user", "content": question}), answer]
}

#[test]
fn a_turn_of_weight_0_is_not_trained() {
    for off in [json!({"weight": 0}), json!({"weight": 0.0}), json!({"train": false}), json!({"loss": false})]
    {
        let on = json!({"weight": 1, "train": true, "loss": null});
        let messages = [turns("q1", "bad", off.clone()), turns("q2", "good", on)].concat();
        let said = shown(json!([{"messages": messages}]), "");
        let (bad, good) = ("assistant\nbad<|im_end|>\n", "assistant\n«good<|im_end|>\n»");
        assert!(said.contains(bad) && said.contains(good), "{off}: {said}");
        assert!(said.contains("1 answers have weight 0 (or train: false) and are not trained\n"), "{said}");
        let said = shown(json!([{"messages": messages}]), "--train-on-prompt");
        let both =
            "«<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n»bad<|im_end|>\n«<|im_start|>user\nq2";
        assert!(said.contains(both), "{off}: {said}");
    }
}

#[test]
fn an_example_without_a_trained_answer_is_dropped_and_counted() {
    let row = |off: Value| json!({"messages": turns("q", "a", off)});
    let said = shown(json!([row(json!({"weight": 0})), row(json!({}))]), "");
    assert!(
        said.contains("1 examples have no other answer and are dropped")
            && said.contains("Num examples = 1\n"),
        "{said}"
    );
    let place = Place::new();
    place.write("rows.json", json!([row(json!({"weight": 0}))]).to_string());
    let (code, said) = place.fail("model --data rows.json -o out --dry-run");
    assert!(code == 1 && said.contains("1 answers have weight 0 (or train: false)"), "{said}");
    place.write("rows.json", json!([row(json!({"weight": 0.5})), row(json!({}))]).to_string());
    let (_, said) = place.run("model --data rows.json -o out --dry-run");
    assert!(said.contains("row 1: messages, message 2: weight: 0 or 1 expected, found 0.5"), "{said}");
}

#[test]
fn a_system_message_goes_before_a_column() {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let talk = [turn("human", "q"), turn("gpt", "a")];
    let with_system = [&[turn("system", "MESSAGE")], &talk[..]].concat();
    let rows = json!([
        {"conversations": with_system, "system": "COLUMN"},
        {"conversations": talk, "system": "COLUMN"},
        {"conversations": with_system},
    ]);
    let said = shown(rows, "");
    let system = |text: &str| format!(":\n<|im_start|>system\n{text}<|im_end|>\n<|im_start|>user\nq");
    assert_eq!(said.matches(&system("MESSAGE")).count(), 2, "{said}");
    assert_eq!(said.matches(&system("COLUMN")).count(), 1, "{said}");
    assert_eq!(said.matches("<|im_start|>system").count(), 3, "{said}");
}

/// What stands between the prompt and the end of the turn in the text of a function call.
fn called(text: &str, template: &str) -> String {
    let tools = json!([{"name": "weather", "description": "d", "parameters": {"type": "object"}}]);
    let row = json!({"tools": tools, "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": text},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "a"}]});
    let said = shown(json!([row]), &format!("--template {template}"));
    let call = said.split('«').nth(1).unwrap_or_else(|| panic!("{text}: {said}"));
    call.split("<|im_end|>").next().unwrap().to_owned()
}

/// The first three are what LLaMA-Factory's `FunctionFormatter` writes.
#[test]
fn thoughts_before_a_function_call_are_kept() {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    let marked = format!("<tool_call>\n{call}\n</tool_call>");
    for (text, kept) in [
        (format!("<think>\nI need it.\n</think>\n\n{call}"), "<think>\nI need it.\n</think>\n\n"),
        (format!("<think>I need it.</think>\n\n{marked}"), "<think>I need it.</think>\n\n"),
        (format!("Let me look.\n{marked}"), "Let me look.\n"),
        (format!("<think>I need it.</think>\n\n{call}"), "<think>I need it.</think>\n\n"),
        (format!("\n<think>I need it.</think>{marked}\n"), "<think>I need it.</think>\n"),
    ] {
        assert_eq!(called(&text, "qwen"), format!("{kept}{marked}"), "{text:?}");
    }
    let thought = format!("<think>\nI need it.\n</think>\n\n{marked}");
    assert_eq!(called(&thought, "qwen3"), thought, "no empty thought beside it");
    for text in [call.to_owned(), marked.clone(), format!("[{call}]")] {
        assert!(called(&text, "qwen").ends_with(&marked), "{text:?}");
        assert!(!called(&text, "qwen").contains("think"), "{text:?}");
    }
    let two = called(&format!("<think>x</think>{marked}\n{marked}"), "qwen");
    assert_eq!(two.matches(&marked).count(), 2, "{two}");
}

#[test]
fn a_function_call_that_is_none_is_malformed() {
    for (text, expected) in [
        ("<think>never closed {\"name\": \"f\"}", "<think> is never closed"),
        ("<think>x</think> no call", "a function call is not valid JSON"),
        ("<tool_call>{\"name\": \"f\"}", "<tool_call> is never closed"),
        ("<tool_call>nonsense</tool_call>", "a function call is not valid JSON"),
    ] {
        let place = Place::new();
        let row = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": text}]});
        place.write("rows.json", json!([row]).to_string());
        let (code, said) = place.fail("model --data rows.json -o out --dry-run --strict");
        assert!(code == 1 && said.contains(expected) && said.contains("hint: "), "{text}: {said}");
    }
}

#[test]
fn a_call_that_the_template_does_not_write_is_not_trained() {
    let tools = json!([{"name": "f", "parameters": {"type": "object"}}]);
    let row = json!({"tools": tools, "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "a"}]});
    let said = shown(json!([row]), "");
    let turns = "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>\n»";
    assert!(said.contains(turns), "{said}");
    assert!(said.contains("1 answers call tools, which the chat template does not write"), "{said}");
    assert!(said.contains("1 examples have tools, which the chat template does not write"), "{said}");
    let said = shown(json!([row]), "--template qwen");
    assert!(!said.contains("does not write") && said.contains("«<tool_call>"), "{said}");
}
