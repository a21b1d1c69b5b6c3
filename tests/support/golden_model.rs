//! The tiny models of every family that transformers made (`scripts/golden/tiny_models.py`), with a tokenizer in
//! which every token is a character, and what transformers and PEFT make of them (`scripts/golden/families.py`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The tokens that are no single character: four answers to questions with choices, a newline, and the end of a
/// turn.
const TEXTS: [(usize, &str); 6] = [(62, " A"), (64, " B"), (91, " C"), (93, " D"), (94, END), (95, "\n")];
const END: &str = "~";

/// The chat template, under which each answer ends with `~`.
pub const CHAT_TEMPLATE: &str =
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}~{% endif %}{% endfor %}";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The names of all models, sorted.
///
/// # Panics
///
/// Where they are not there.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(golden().join("models")).expect("the tiny models");
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    assert!(names.len() >= 21, "{names:?}");
    names
}

/// The directory of a model, in which `nf4` is the same model in 4 bits and `adapter` an adapter of it.
pub fn directory(name: &str) -> PathBuf {
    golden().join("models").join(name)
}

/// A file of references.
pub fn reference(file: &str) -> PathBuf {
    golden().join(file)
}

/// What transformers makes of a model: its prompt, its answers and its losses.
///
/// # Panics
///
/// Where it is not known.
pub fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(reference("families.json")).expect("families.json");
    let mut all: Map<String, Value> = serde_json::from_str(&text).expect("families.json");
    all.remove(name)
        .unwrap_or_else(|| panic!("families.json has no {name}; scripts/golden/families.py makes it"))
}

/// Copies a model into `directory`, which is created, and adds the files of its texts.
///
/// # Panics
///
/// Where a file cannot be written.
pub fn write(name: &str, directory: &Path) {
    std::fs::create_dir_all(directory).expect("a model directory");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(self::directory(name).join(file), directory.join(file)).expect("a file of the model");
    }
    write_texts(directory);
}

/// Writes the tokenizer and the chat template into a model's directory.
///
/// # Panics
///
/// Where a file cannot be written.
pub fn write_texts(directory: &Path) {
    let settings = json!({"eos_token": END, "chat_template": CHAT_TEMPLATE});
    for (file, content) in [("tokenizer.json", tokenizer()), ("tokenizer_config.json", settings)] {
        std::fs::write(directory.join(file), content.to_string()).expect("a file of the model");
    }
}

/// The text of tokens.
///
/// # Panics
///
/// Where they are no list of tokens.
pub fn text(tokens: &Value) -> String {
    let tokens: Vec<usize> = serde_json::from_value(tokens.clone()).expect("tokens");
    let text = |token: &usize| match TEXTS.iter().find(|(id, _)| id == token) {
        Some((_, text)) => (*text).to_string(),
        None => char::from(*token as u8 + 32).to_string(),
    };
    tokens.iter().map(text).collect()
}

/// A tokenizer of 96 tokens: printable characters, newline, and four tokens for answers.
fn tokenizer() -> Value {
    let letters = (0..96).filter(|id| TEXTS.iter().all(|(other, _)| other != id));
    let mut vocabulary: Map<String, Value> =
        letters.map(|id| (char::from(id as u8 + 32).to_string(), json!(id))).collect();
    vocabulary.extend(TEXTS.iter().map(|(id, text)| ((*text).into(), json!(id))));
    let added = |(id, content): &(usize, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *content == END})
    };
    let added_tokens: Vec<Value> = TEXTS.iter().filter(|(_, text)| *text != "\n").map(added).collect();
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "added_tokens": added_tokens,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    })
}
