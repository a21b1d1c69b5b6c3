//! The text files of a model: what goes with an adapter, special tokens in data, and tokenizers that
//! were not made to be used.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::place::Place;

/// A place whose tokenizer.json is changed.
fn place(change: impl FnOnce(&mut Value)) -> Place {
    let place = Place::new();
    let mut tokenizer = place.json("model/tokenizer.json");
    change(&mut tokenizer);
    place.write("model/tokenizer.json", tokenizer.to_string());
    place.write("data.json", json!([{"instruction": "a".repeat(64), "output": "b"}]).to_string());
    place
}

const TRAIN: &str = "model --data data.json --max-steps 1 -o out";

#[test]
fn the_text_files_of_the_base_go_with_the_adapter() {
    let place = Place::new();
    fs_err::create_dir(place.path("model/additional_chat_templates")).unwrap();
    let files = ["generation_config.json", "additional_chat_templates/tool_use.jinja", "merges.txt"];
    place.write("model/additional_chat_templates/tool_use.jinja", "tools");
    place.write("model/merges.txt", "");
    place.write("model/notes.txt", "mine");
    place.train(TRAIN);
    for output in ["out", "out/checkpoint-1"] {
        for file in files {
            assert_eq!(
                place.bytes(&format!("{output}/{file}")),
                place.bytes(&format!("model/{file}")),
                "{file}"
            );
        }
        assert!(!place.path(output).join("notes.txt").exists());
    }
    // A template by name is for calls of tools as well.
    place.train(&format!("{TRAIN} --template default --force"));
    assert!(!place.path("out/checkpoint-1/additional_chat_templates").exists());
}

#[test]
fn a_link_out_of_the_model_is_refused_before_anything_is_trained() {
    let place = Place::new();
    place.write("id_rsa", "secret");
    std::os::unix::fs::symlink("../id_rsa", place.path("model/added_tokens.json")).unwrap();
    let (code, said) = place.fail(TRAIN);
    assert_eq!(code, 1);
    assert!(said.contains("added_tokens.json is a link out of the model's directory"), "{said}");
    assert!(said.contains("hint: if that file belongs to the model: cp --remove-destination "), "{said}");
}

#[test]
fn kept_tokens_are_of_the_same_templates() {
    let place = Place::new();
    let tokenized_before =
        || place.run(&format!("{TRAIN} --force")).1.contains("12 examples, tokenized before");
    assert!(!tokenized_before());
    assert!(tokenized_before());
    fs_err::create_dir(place.path("model/additional_chat_templates")).unwrap();
    for text in ["a", "b"] {
        place.write("model/additional_chat_templates/tool_use.jinja", text);
        assert!(!tokenized_before(), "{text}");
        assert!(tokenized_before(), "{text}");
    }
}

#[test]
fn the_text_of_a_special_token_is_text_unless_asked_for() {
    let place = Place::new();
    let rows = json!([
        {"instruction": "a", "output": "b<|im_start|>c"},
        {"instruction": "a", "output": "b"},
        {"instruction": "<|im_end|>", "output": "b"},
    ]);
    place.write("data.json", rows.to_string());
    // The row is 34 bytes and four special tokens: <|im_start|>user\na<|im_end|>\n and so on.
    let text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n«b<|im_start|>c<|im_end|>\n»";
    let lengths = |arguments: &str| {
        let (_, said) = place.run(&format!("{TRAIN} --force --show-examples 1 {arguments}"));
        assert!(said.contains(text), "{said}");
        let (_, length) = said.split_once("example 1, ").unwrap();
        (length.split(' ').next().unwrap().parse::<usize>().unwrap(), said)
    };
    let (as_text, said) = lengths("");
    assert!(said.contains("2 examples hold the text of a special token, which is trained as text"), "{said}");
    let (_, again) = lengths("");
    assert!(again.contains("2 examples hold the text of a special token"), "kept tokens say it too: {again}");
    let (as_token, said) = lengths("--split-special-tokens false");
    assert!(!said.contains("text of a special token"), "{said}");
    assert_eq!(as_text - as_token, "<|im_start|>".len() - 1);

    place.write("train.yaml", "model_name_or_path: model\nsplit_special_tokens: false\nmax_steps: 1\n");
    let (_, said) = place.run("train.yaml --data data.json -o yaml --show-examples 1");
    assert!(said.contains(&format!("example 1, {as_token} tokens")), "{said}");
}

#[test]
fn without_a_tokenizer_the_command_that_makes_one_is_named() {
    let place = Place::new();
    fs_err::remove_file(place.path("model/tokenizer.json")).unwrap();
    let (_, said) = place.fail(TRAIN);
    assert!(said.contains("model/tokenizer.json\n"), "{said}");
    assert!(said.contains("hint: the directory of a Hugging Face model holds tokenizer.json"), "{said}");
    place.write("model/tokenizer.model", "");
    let (_, said) = place.fail(TRAIN);
    assert!(
        said.contains("AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])' "),
        "{said}"
    );
    assert!(said.trim_end().ends_with("/model"), "{said}");
}

/// A map of characters in SentencePiece's format.
fn charsmap(array: &[u32], announced: u32, texts: &str) -> String {
    let mut bytes = announced.to_le_bytes().to_vec();
    bytes.extend(array.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(texts.as_bytes());
    BASE64_STANDARD.encode(bytes)
}

fn doubling(steps: usize) -> Vec<Value> {
    let step = json!({"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "aa"});
    vec![step; steps]
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

#[test]
fn no_tokenizer_makes_the_tool_panic_hang_or_fill_the_memory() {
    type Change = Box<dyn FnOnce(&mut Value)>;
    let set = |section: &'static str, value: Value| -> Change { Box::new(move |json| json[section] = value) };
    let normalizer = |value| set("normalizer", value);
    let model =
        |key: &'static str, value: Value| -> Change { Box::new(move |json| json["model"][key] = value) };
    let long = "x".repeat(2000);
    let cases: Vec<(&str, Change, &str)> = vec![
        ("catastrophe", set("pre_tokenizer", split("(\\w+\\w+)+[^\\w\\s]\\d")), "retry-limit"),
        (
            "replace bomb",
            normalizer(json!({"type": "Sequence", "normalizers": doubling(40)})),
            "its steps make",
        ),
        (
            "decoder bomb",
            set("decoder", json!({"type": "Sequence", "decoders": doubling(40)})),
            "its steps make",
        ),
        (
            "nested bombs",
            normalizer(json!({"type": "Sequence", "normalizers": [
                {"type": "Sequence", "normalizers": doubling(40)}]})),
            "its steps make",
        ),
        ("nothing to prepend", normalizer(json!({"type": "Prepend", "prepend": ""})), "nothing to prepend"),
        ("no length", set("pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "length is 0"),
        (
            "empty map",
            normalizer(json!({"type": "Precompiled", "precompiled_charsmap": ""})),
            "the map is empty",
        ),
        (
            "map of 4 GB",
            normalizer(
                json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&[0], u32::MAX - 3, "")}),
            ),
            "announces an array",
        ),
        (
            "map that leads out of itself",
            normalizer(
                json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&[0x3ff << 10], 4, "a\0")}),
            ),
            "index out of bounds",
        ),
        (
            "missing token",
            set(
                "post_processor",
                json!({"type": "TemplateProcessing", "special_tokens": {}, "pair": [],
                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}),
            ),
            "names the token \"<s>\"",
        ),
        (
            "text without end",
            set(
                "post_processor",
                json!({"type": "TemplateProcessing", "special_tokens": {}, "pair": [],
                    "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 3]}),
            ),
            "3 times the text",
        ),
        ("unknown step", set("pre_tokenizer", json!({"type": "Cut"})), "the step \"Cut\" of pretokenizers"),
        ("step without a type", set("decoder", json!({})), "a step has no type"),
        ("long pattern", set("pre_tokenizer", split(&"a?".repeat(9000))), "bytes of a pattern"),
        ("bad pattern", set("pre_tokenizer", split("(")), "end pattern with unmatched"),
        ("many steps", normalizer(json!({"type": "Sequence", "normalizers": doubling(65)})), "65 steps"),
        ("dropout", model("dropout", json!(0.1)), "makes tokens random"),
        ("id", model("vocab", json!({"a": 4_294_967_295_u64})), "the id of \"a\" is 4294967295"),
        ("long token", model("vocab", json!({long: 0})), "2000 bytes of a token"),
        ("merge of nothing", model("merges", json!([["qq", "zz"]])), "out of vocabulary"),
        ("no vocabulary", model("vocab", json!(7)), "it has no vocab"),
        ("no model", set("model", Value::Null), "it has no model"),
    ];
    for (name, change, reason) in cases {
        let (code, said) = place(change).fail(TRAIN);
        assert_eq!(code, 1, "{name}: {said}");
        assert!(said.contains(reason), "{name}: {said}");
        assert!(said.contains("/model/tokenizer.json: ") || said.contains("tokenizer fails"), "{said}");
        assert!(said.contains("\nhint: ") && !said.contains("panicked"), "{name}: {said}");
    }
    let place = Place::new();
    for text in ["", "[]", "{", "7", &"[".repeat(100_000), &format!("[{}0]", "0,".repeat(9_000_000))] {
        place.write("model/tokenizer.json", text);
        let (code, said) = place.fail(TRAIN);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("/model/tokenizer.json: ") && said.contains("\nhint: "), "{said}");
    }
}

#[test]
fn odd_tokenizers_that_can_be_used_are_used() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 4] = [
        ("an added token twice and an empty one", |json| {
            let tokens = json["added_tokens"].as_array_mut().unwrap();
            let again = tokens[0].clone();
            let empty = json!({"id": 9, "content": "", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true});
            tokens.extend([again, empty]);
        }),
        ("a regular expression that may match nothing", |json| {
            json["pre_tokenizer"] = json!({
            "type": "Sequence", "pretokenizers": [split("x*"), json["pre_tokenizer"].clone()]})
        }),
        ("a sequence in a sequence", |json| {
            json["pre_tokenizer"] = json!({
            "type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [json["pre_tokenizer"]]}]})
        }),
        ("truncation and padding", |json| {
            json["truncation"] = json!({
            "max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"})
        }),
    ];
    let expected = place(|_| ());
    let (_, expected) = expected.run(&format!("{TRAIN} --show-examples 1"));
    let shown =
        |said: &str| said.split_once("example 1, ").unwrap().1.lines().take(5).collect::<Vec<_>>().join("\n");
    for (name, change) in cases {
        let (_, said) = place(change).run(&format!("{TRAIN} --show-examples 1"));
        assert_eq!(shown(&said), shown(&expected), "{name}");
    }
}
