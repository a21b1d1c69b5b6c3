use std::path::Path;

use common::text::{ChatTemplate, LabelOptions, Tokenizer};
use serde_json::json;

use super::*;

fn write(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), text).unwrap();
    file
}

fn load_text(text: &str, strict: bool) -> Result<Vec<Record>> {
    load(&Source::file(write(text).path()), strict)
}

fn turns(record: &Record) -> Vec<(&str, &str)> {
    record
        .conversation
        .messages
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_deref().unwrap_or_default()))
        .collect()
}

#[test]
fn alpaca_rows_as_llama_factory_reads_them() {
    let rows = json!([
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Hi", "input": "", "output": "", "system": "Be brief.", "history": [["a", "b"], ["c", "d"]]},
    ]);
    let records = load_text(&rows.to_string(), true).unwrap();
    assert_eq!(turns(&records[0]), [("user", "Add.\n1 2"), ("assistant", "3")]);
    let long = [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "Hi"),
        ("assistant", ""),
    ];
    assert_eq!(turns(&records[1]), long);
}

#[test]
fn sharegpt_and_openai_messages_in_json_lines() {
    let text = "\u{FEFF}{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}], \"system\": \"s\"}\r\n\n\
        {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"q\"}]}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n";
    let records = load_text(text, true).unwrap();
    assert_eq!(turns(&records[0]), [("system", "s"), ("user", "q"), ("assistant", "a")]);
    assert_eq!(turns(&records[1]), [("user", "q"), ("assistant", "a")]);
    assert_eq!(records[1].place.row, 3, "lines are counted as an editor counts them");
}

#[test]
fn tool_calls_of_either_kind_become_the_same() {
    let arguments = json!({"city": "Saltmere"});
    let sharegpt = json!({"tools": "[{\"name\": \"tide\"}]", "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json!({"name": "tide", "arguments": arguments}).to_string()},
        {"from": "observation", "value": "2.5"},
        {"from": "gpt", "value": "a"}]});
    let openai = json!({"tools": [{"type": "function", "function": {"name": "tide"}}], "messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "tide", "arguments": arguments.to_string()}}]},
        {"role": "tool", "content": "2.5"},
        {"role": "assistant", "content": "a"}]});
    let records = load_text(&format!("{sharegpt}\n{openai}\n"), true).unwrap();
    assert_eq!(records[0].conversation, records[1].conversation);
    let call: &Message = &records[0].conversation.messages[1];
    assert_eq!(call.extra["tool_calls"][0]["function"]["arguments"], arguments);
    assert_eq!(records[0].conversation.tools[0]["function"]["name"], "tide");
}

#[test]
fn malformed_rows_are_skipped_or_with_strict_refused() {
    let good = json!({"instruction": "q", "output": "a"});
    for (bad, expected) in [
        (json!({"instruction": "q"}), "no answer: output is missing"),
        (json!({"instruction": "q", "output": null}), "no answer: output is missing"),
        (json!({"instruction": "q", "output": 3}), "output: a text expected, found a number"),
        (json!({"output": "a"}), "neither instruction nor input"),
        (json!({"instruction": "q", "output": "a", "history": [["only one"]]}), "history, entry 1"),
        (json!(["q", "a"]), "an object expected, found a list"),
    ] {
        let text = json!([good, bad]).to_string();
        assert_eq!(load_text(&text, false).unwrap().len(), 1, "{bad}");
        let error = load_text(&text, true).unwrap_err();
        assert!(error.to_string().contains(&format!(", row 2: {expected}")), "{error}");
    }
    let broken_line = format!("{good}\n{{\"instruction\": \n{good}\n");
    assert_eq!(load_text(&broken_line, false).unwrap().len(), 2);
    assert!(load_text(&broken_line, true).unwrap_err().to_string().contains(", line 2: not valid JSON"));
}

#[test]
fn malformed_messages_say_which() {
    for (messages, expected) in [
        (json!([{"role": "user", "content": "q"}]), "no answer"),
        (json!([{"role": "user", "content": "q"}, {"role": "assistant"}]), "message 2: no answer"),
        (json!([{"role": "narrator", "content": "q"}]), "message 1: role: \"narrator\" is none of the roles"),
        (
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            "message 1: content: only parts of type",
        ),
        (json!("q"), "messages: a list of messages expected, found a text"),
    ] {
        let error = load_text(&json!([{"messages": messages}]).to_string(), false).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn data_without_a_usable_row_is_an_error() {
    for (text, expected) in [
        ("", "is empty"),
        ("[]", "there are no rows"),
        ("[{\"a\": 1}]", "row 1: instruction and output, messages or conversations expected, found a"),
        ("[{\"instruction\": ", "is not valid JSON"),
        ("instruction,output\n", "found 'i'"),
    ] {
        let error = load_text(text, false).unwrap_err();
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
    }
    let error = load(&Source::file("no/such/file.json"), false).unwrap_err();
    assert!(error.to_string().contains("no/such/file.json"), "{error}");
}

#[test]
fn dataset_info_names_columns_and_tags() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, value: serde_json::Value| {
        fs_err::write(directory.path().join(name), value.to_string()).unwrap();
    };
    write(
        "dataset_info.json",
        json!({
            "mine": {"file_name": "mine.json", "columns": {"prompt": "q", "response": "a"}},
            "talks": {"file_name": "talks.json", "formatting": "sharegpt", "num_samples": 1,
                      "columns": {"messages": "talk"},
                      "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"}},
            "liked": {"file_name": "liked.json", "ranking": true},
            "online": {"hf_hub_url": "someone/something"},
        }),
    );
    write("mine.json", json!([{"q": "1", "a": "2"}]));
    let talk = json!({"talk": [{"who": "me", "says": "1"}, {"who": "it", "says": "2"}]});
    write("talks.json", json!([talk, talk]));
    for name in ["mine", "talks"] {
        let records = load(&Source::named(name, directory.path()).unwrap(), true).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(turns(&records[0]), [("user", "1"), ("assistant", "2")], "{name}");
    }
    for (name, expected) in
        [("liked", "ranking"), ("online", "file_name"), ("other", "has no dataset \"other\"")]
    {
        let error = Source::named(name, directory.path()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// The tokenizer of a real model, for tests that need one.
fn model() -> Option<(Tokenizer, ChatTemplate)> {
    let fallback = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/SmolLM2-135M-Instruct");
    let directory = std::env::var_os("QLORA_TEST_MODEL").map_or(fallback, PathBuf::from);
    if !directory.join("tokenizer.json").exists() {
        cli::talk_in_tests();
        cli::note(format_args!("skipped: no model in {} (QLORA_TEST_MODEL)", directory.display()));
        return None;
    }
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, &tokenizer).unwrap();
    Some((tokenizer, template))
}

#[test]
fn examples_keep_their_order_and_cutoffs_are_counted() {
    let Some((tokenizer, template)) = model() else { return };
    let rows: Vec<Value> = (0..3000)
        .map(|i| json!({"instruction": format!("Say {i}."), "output": format!("{i} {}", "and on ".repeat(i % 3 * 20))}))
        .collect();
    let records = load_text(&Value::from(rows).to_string(), true).unwrap();
    let whole = encode(&records, &tokenizer, &template, &LabelOptions::answers(2048), true).unwrap();
    assert_eq!((whole.examples.len(), whole.shortened_answers), (3000, 0));
    for (i, example) in whole.examples.iter().enumerate().step_by(997) {
        let text = tokenizer.decode(&example.tokens).unwrap();
        assert!(text.contains(&format!("Say {i}.")), "{text}");
    }
    let short = encode(&records, &tokenizer, &template, &LabelOptions::answers(64), true).unwrap();
    assert_eq!((short.shortened_answers, short.endless_answers), (2000, 2000));
    assert!(short.tokens() <= 64 * 3000 && short.trained_tokens() < short.tokens());
}

#[test]
fn data_in_which_nothing_is_trained_is_refused() {
    let Some((tokenizer, template)) = model() else { return };
    let records = load_text("[{\"instruction\": \"q\", \"output\": \"a\"}]", true).unwrap();
    let error = encode(&records, &tokenizer, &template, &LabelOptions::answers(0), true).unwrap_err();
    assert!(error.to_string().contains("no token is trained"), "{error}");
    let template = ChatTemplate::from_source("{{ raise_exception('never') }}", Default::default()).unwrap();
    let error = encode(&records, &tokenizer, &template, &LabelOptions::answers(99), false).unwrap_err();
    assert!(error.to_string().contains("row 1: the chat template says: never"), "{error}");
}

#[test]
fn the_demo_sets_of_llama_factory_are_usable_to_the_last_row() {
    let fallback = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let data = std::env::var_os("QLORA_TEST_SHARED").map_or(fallback, PathBuf::from).join("data");
    if !data.join("dataset_info.json").exists() {
        cli::talk_in_tests();
        cli::note(format_args!("skipped: no data in {} (QLORA_TEST_SHARED)", data.display()));
        return;
    }
    let directory = data.join("qwen2.5-tokenizer");
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, &tokenizer).unwrap();
    for name in ["identity", "alpaca_en_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo"] {
        let records = load(&Source::named(name, &data).unwrap(), true).unwrap();
        let options = LabelOptions::answers(2048);
        let dataset = encode(&records, &tokenizer, &template, &options, true).unwrap();
        assert_eq!(dataset.examples.len(), records.len(), "{name}");
    }
}
