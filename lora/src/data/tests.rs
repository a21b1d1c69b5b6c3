use std::ops::ControlFlow;

use common::Result;
use common::data::{DataSource, Encoder, Malformed, Record, records};
use common::text::{ChatTemplate, LabelOptions, Tokenizer};
use serde_json::{Value, json};

use super::*;

/// All records of a source.
fn load(source: &DataSource) -> Vec<Record> {
    let mut all = Vec::new();
    let sink = &mut |batch: &[Record], _| {
        all.extend_from_slice(batch);
        Ok(ControlFlow::Continue(()))
    };
    records(source, true, sink).unwrap();
    all
}

fn load_text(text: &str) -> Vec<Record> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), text).unwrap();
    load(&DataSource::file(file.path()))
}

/// Records as examples.
fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    options: &LabelOptions,
    strict: bool,
) -> Result<store::Examples> {
    let folder = tempfile::tempdir().unwrap();
    let encoder = Encoder::new(tokenizer, template, *options, strict);
    let mut file = EncodedFile::new(encoder, folder.path())?;
    file.add(records)?;
    file.finish(Malformed::default(), None)
}

/// The tokenizer of a real model, for tests that need one.
fn model() -> Option<(Tokenizer, ChatTemplate)> {
    let directory = ::tests::needs::model()?;
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
    let records = load_text(&Value::from(rows).to_string());
    let whole = encode(&records, &tokenizer, &template, &LabelOptions::answers(2048), true).unwrap();
    assert_eq!((whole.summary().examples, whole.summary().warnings.len()), (3000, 0));
    for i in (0..3000).step_by(997) {
        let text = tokenizer.decode(&whole.get(i).unwrap().tokens).unwrap();
        assert!(text.contains(&format!("Say {i}.")), "{text}");
    }
    let short = encode(&records, &tokenizer, &template, &LabelOptions::answers(64), true).unwrap();
    let store::Summary { tokens, trained, warnings, .. } = short.summary();
    let warning =
        "2000 answers are shortened to fit 64 tokens (--cutoff-len); 2000 of them lost their end token";
    assert_eq!(warnings, &[warning.to_owned()]);
    assert!(*tokens <= 64 * 3000 && trained < tokens);
}

#[test]
fn data_in_which_nothing_is_trained_is_refused() {
    let Some((tokenizer, template)) = model() else { return };
    let records = load_text("[{\"instruction\": \"q\", \"output\": \"a\"}]");
    let error = encode(&records, &tokenizer, &template, &LabelOptions::answers(0), true).unwrap_err();
    assert!(error.to_string().contains("no token is trained"), "{error}");
    let template = ChatTemplate::from_source("{{ raise_exception('never') }}", Default::default()).unwrap();
    let error = encode(&records, &tokenizer, &template, &LabelOptions::answers(99), false).unwrap_err();
    assert!(error.to_string().contains("row 1: the chat template says: never"), "{error}");
}

#[test]
fn the_demo_sets_of_llama_factory_are_usable_to_the_last_row() {
    let Some(data) = ::tests::needs::shared("data") else { return };
    let directory = data.join("qwen2.5-tokenizer");
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, &tokenizer).unwrap();
    for name in ["identity", "alpaca_en_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo"] {
        let records = load(&DataSource::named(name, &data, 1).unwrap());
        let options = LabelOptions::answers(2048);
        let dataset = encode(&records, &tokenizer, &template, &options, true).unwrap();
        assert_eq!(dataset.summary().examples, records.len(), "{name}");
    }
}
