use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use super::*;

fn write(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), text).unwrap();
    file
}

fn load_text(text: &str, strict: bool) -> Result<Vec<Record>> {
    load(&DataSource::file(write(text).path()), strict)
}

/// All records of a source.
fn load(source: &DataSource, strict: bool) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    records(source, strict, &mut |batch, _| {
        all.extend_from_slice(batch);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// Records as examples.
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
        {"instruction": "", "input": "1 2", "output": "3"},
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
    assert_eq!(turns(&records[2]), [("user", "1 2"), ("assistant", "3")], "no line for what is empty");
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
        (json!("q"), "messages: a list expected, found a text"),
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
    let error = load(&DataSource::file("no/such/file.json"), false).unwrap_err();
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
                      "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it", "system_tag": null}},
            "nulls": {"file_name": "usual.json", "formatting": null, "ranking": null, "num_samples": null,
                      "columns": null, "tags": null, "split": null, "subset": null, "hf_hub_url": null},
            "liked": {"file_name": "liked.json", "ranking": true},
            "neither": {"ms_hub_url": "someone/something"},
        }),
    );
    write("mine.json", json!([{"q": "1", "a": "2"}]));
    let talk = json!({"talk": [{"who": "me", "says": "1"}, {"who": "it", "says": "2"}]});
    write("talks.json", json!([talk, talk]));
    write(
        "usual.json",
        json!([{"instruction": "1", "output": "2", "system": "not named", "history": [["a", "b"]]}]),
    );
    for name in ["mine", "talks", "nulls"] {
        let records = load(&DataSource::named(name, directory.path(), 1).unwrap(), true).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(turns(&records[0]), [("user", "1"), ("assistant", "2")], "{name}");
    }
    for (name, expected) in [
        ("liked", "ranking"),
        ("neither", "neither file_name nor hf_hub_url"),
        ("other", "has no dataset \"other\""),
    ] {
        let error = DataSource::named(name, directory.path(), 1).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// The tokenizer of a real model, for tests that need one.
#[test]
fn csv_with_quotes_line_breaks_and_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let text = "\u{FEFF}instruction,input,output,history\r\n\"Add, \"\"please\"\"\",\"1\n2\",3,\r\n\
        Hi,,\"[1, 2]\",\"[[\"\"a\"\", \"\"b\"\"]]\"\r\nonly,three,cells\r\nHo,,hum,nonsense\r\n";
    fs_err::write(&path, text).unwrap();
    let records = load(&DataSource::file(&path), false).unwrap();
    assert_eq!(turns(&records[0]), [("user", "Add, \"please\"\n1\n2"), ("assistant", "3")]);
    let expected = [("user", "a"), ("assistant", "b"), ("user", "Hi"), ("assistant", "[1, 2]")];
    assert_eq!(turns(&records[1]), expected);
    assert_eq!(records.len(), 2);
    let error = load(&DataSource::file(&path), true).unwrap_err();
    assert!(error.to_string().contains("row 3: ") && error.to_string().contains("3 fields"), "{error}");
    let tabs = folder.path().join("rows.tsv");
    fs_err::write(
        &tabs,
        "messages\n[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]\n"
            .replace('"', "\"\"")
            .replacen("[{", "\"[{", 1)
            .replacen("}]", "}]\"", 1),
    )
    .unwrap();
    assert_eq!(turns(&load(&DataSource::file(&tabs), true).unwrap()[0]), [("user", "q"), ("assistant", "a")]);
}

#[test]
fn parquet_as_pyarrow_writes_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/rows");
    let records = load(&DataSource::file(golden.join("alpaca.parquet")), false).unwrap();
    assert_eq!(turns(&records[0]), [("user", "Add.\n1 2"), ("assistant", "3")]);
    assert_eq!(turns(&records[1]), [("user", "Greet in 中文."), ("assistant", "你好 🙂")]);
    assert_eq!(records.len(), 2);
    let error = load(&DataSource::file(golden.join("alpaca.parquet")), true).unwrap_err();
    assert!(error.to_string().contains("row 3: no answer"), "{error}");
    let records = load(&DataSource::file(golden.join("messages.parquet")), true).unwrap();
    assert_eq!(turns(&records[2]), [("user", "q2"), ("assistant", "a2")]);
    let damaged = fs_err::read(golden.join("messages.parquet")).unwrap();
    for length in [5, 100, damaged.len() - 1] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), &damaged[..length]).unwrap();
        assert!(load(&DataSource::file(file.path()), false).is_err(), "{length} bytes");
    }
}

#[test]
fn rows_are_read_in_batches_and_no_further_than_wanted() {
    let rows: String =
        (0..2500).map(|i| format!("{}\n", json!({"instruction": i.to_string(), "output": "a"}))).collect();
    let list = format!("[{}]", rows.trim_end().replace('\n', ","));
    for text in [rows, list + "x"] {
        let file = write(&text);
        let mut source = DataSource::file(file.path());
        source.max_samples = Some(2100);
        let (mut sizes, mut positions) = (Vec::new(), Vec::new());
        records(&source, true, &mut |batch, position| {
            sizes.push(batch.len());
            positions.push(position);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(sizes, [1024, 1024, 52], "rows after them are not read");
        assert!(positions.is_sorted() && positions[2] <= text.len() as u64, "{positions:?}");
    }
}

#[test]
fn a_dataset_may_be_a_folder_or_have_a_repository() {
    let folder = tempfile::tempdir().unwrap();
    let row = json!([{"instruction": "q", "output": "a"}]).to_string();
    fs_err::create_dir(folder.path().join("parts")).unwrap();
    for name in ["parts/b.json", "parts/a.json"] {
        fs_err::write(folder.path().join(name), &row).unwrap();
    }
    let info = json!({"parts": {"file_name": "parts"}, "bad": {"hf_hub_url": "no-owner"}});
    fs_err::write(folder.path().join("dataset_info.json"), info.to_string()).unwrap();
    let source = DataSource::named("parts", folder.path(), 1).unwrap();
    assert_eq!(load(&source, true).unwrap().len(), 2);
    let error = DataSource::named("bad", folder.path(), 1).unwrap_err();
    assert!(error.to_string().contains("OWNER/NAME expected"), "{error}");
    assert_eq!(hub::repository("https://host/datasets/o/n").unwrap(), "o/n");
}

#[test]
fn every_public_dataset_is_described_as_a_file_would_describe_it() {
    let known: serde_json::Map<String, Value> = serde_json::from_str(include_str!("known.json")).unwrap();
    assert!(known.contains_key("alpaca_gpt4_zh"));
    for (name, entry) in known {
        let url = entry["hf_hub_url"].as_str().unwrap();
        assert_eq!(hub::repository(url).unwrap(), url, "{name}");
        for column in entry.get("columns").and_then(Value::as_object).into_iter().flat_map(|c| c.keys()) {
            assert!(
                ["prompt", "query", "response", "system", "messages", "tools"].contains(&column.as_str())
            );
        }
    }
    let error = DataSource::named("no_such_data", Path::new("/nowhere"), 1).unwrap_err();
    assert!(error.hint_text().unwrap().contains("--dataset-dir"), "{error}");
}
