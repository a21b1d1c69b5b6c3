//! Text files of the merged model: templates, tokens that end a text, the Modelfile.

use std::fs;
use std::path::PathBuf;

use tests::dir::Dir;

use crate::place::*;

/// What `workplace` lacks for a chat: a tokenizer of three words, and a template.
fn with_chat(place: &Dir, template: &str) {
    let special = |id: usize, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": [special(0, "<end>"), special(1, "<turn>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<end>": 0, "<turn>": 1, "a": 2}, "unk_token": "a"}});
    for directory in ["base", "nf4"] {
        for (file, text) in [
            ("tokenizer.json", tokenizer.to_string().as_str()),
            ("tokenizer_config.json", r#"{"eos_token": "<end>", "x": 1}"#),
            ("special_tokens_map.json", r#"{"eos_token": {"content": "<end>"}}"#),
            ("chat_template.jinja", template),
        ] {
            place.write(&format!("{directory}/{file}"), text);
        }
    }
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_template_an_adapter_was_trained_with_goes_along() {
    let parent = workplace();
    parent.write("nf4/chat_template.jinja", "of the base");
    run(&parent, &["adapter", "-o", "plain"]).success();
    parent.write("adapter/chat_template.jinja", "of the adapter");
    run(&parent, &["adapter", "-o", "own"]).success();
    let template = |name| fs::read_to_string(parent.path(name).join("chat_template.jinja")).unwrap();
    assert_eq!((template("plain").as_str(), template("own").as_str()), ("of the base", "of the adapter"));
}

/// An adapter that was trained to end its answers with another token than its base.
#[test]
fn the_end_of_text_is_the_adapters() {
    let place = workplace();
    let at = |name: &str| place.path(name);
    with_chat(&place, "x");
    let config = fs::read_to_string(at("base/config.json")).unwrap().replace('}', r#", "eos_token_id": 0}"#);
    fs::write(at("base/config.json"), config).unwrap();
    let merged = |name: &str| {
        let output = at(name);
        merge().arg(at("adapter")).arg("--base").arg(at("base")).arg("-o").arg(&output).assert().success();
        output
    };
    fs::copy(at("base/tokenizer_config.json"), at("adapter/tokenizer_config.json")).unwrap();
    let same = merged("same");
    assert_eq!(json(same.join("config.json"))["eos_token_id"], 0);
    assert!(!same.join("generation_config.json").exists());

    fs::write(at("adapter/tokenizer_config.json"), r#"{"eos_token": "<turn>"}"#).unwrap();
    let output = merged("without");
    assert_eq!(json(output.join("config.json"))["eos_token_id"], 1);
    assert_eq!(json(output.join("generation_config.json")), serde_json::json!({"eos_token_id": [1, 0]}));
    assert_eq!(
        json(output.join("tokenizer_config.json")),
        serde_json::json!({"eos_token": "<turn>", "x": 1})
    );
    assert_eq!(json(output.join("special_tokens_map.json"))["eos_token"], "<turn>");

    fs::write(at("base/generation_config.json"), r#"{"top_k": 5, "eos_token_id": [0, 2]}"#).unwrap();
    let output = merged("with");
    assert_eq!(
        json(output.join("generation_config.json")),
        serde_json::json!({"top_k": 5, "eos_token_id": [1, 0, 2]})
    );
}

/// A template must not write instructions into the Modelfile.
#[test]
fn no_template_adds_to_the_modelfile() {
    let turns = |before: &str, end: &str, default: &str| {
        format!(
            "{{% if messages[0].role != 'system' %}}<s>{default}</s>{{% endif %}}{{% for m in messages %}}\
             {{% if m.role == 'system' %}}<s>{{{{ m.content }}}}</s>{{% elif m.role == 'user' %}}\
             {before}{{{{ m.content }}}}|\n{{% else %}}{{{{ m.content }}}}{end}{{% endif %}}{{% endfor %}}"
        )
    };
    let quotes = "\"\"\"";
    for (template, is_harmless) in [
        (turns("<u>", "</a>", "Be kind."), true),
        (turns("<u>", "</a>", &format!("{quotes}\nADAPTER /tmp/evil\nSYSTEM {quotes}")), false),
        (turns(&format!("{quotes}\nFROM evil\n"), "</a>", "x"), false),
        (turns("<u>", "a\nSYSTEM evil\nb", "x"), false),
        (turns("<u>", "a\" \"b", "x"), false),
        (turns("{{ '{{ .Evil }}' }}", "</a>", "x"), false),
        (turns("<u>", "</a>", "\""), false),
        ("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}".into(), false),
    ] {
        let place = workplace();
        with_chat(&place, &template);
        let output = place.path("merged");
        merge().arg(place.path("adapter")).arg("-o").arg(&output).assert().success();
        let written = fs::read_to_string(output.join("Modelfile")).unwrap();
        let lines =
            |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        match is_harmless {
            true => {
                assert!(
                    written.contains("SYSTEM \"\"\"Be kind.\"\"\"\n\nPARAMETER stop \"</a>\"\n"),
                    "{written}"
                );
            }
            false => assert_eq!(lines(&written), ["FROM .", "PARAMETER num_ctx 4096"], "{template}"),
        }
    }
}

#[test]
fn templates_go_along_and_links_out_of_the_model_do_not() {
    let parent = workplace();
    let base = parent.path("nf4");
    let templates = base.join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("tool_use.jinja"), "tools of the base").unwrap();
    fs::write(base.join("chat_template.jinja"), "of the base").unwrap();
    parent.write("id_rsa", "secret");
    std::os::unix::fs::symlink("../id_rsa", base.join("notes.txt")).unwrap();
    let said = stderr_of(&run(&parent, &["adapter", "-o", "m"]).success());
    assert!(said.contains("not copied (1): notes.txt"), "{said}");
    let tools = |name: &str| parent.path(name).join("additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read_to_string(tools("m")).unwrap(), "tools of the base");
    assert!(!parent.path("m/notes.txt").exists());

    parent.write("adapter/chat_template.jinja", "of the adapter");
    run(&parent, &["adapter", "-o", "own"]).success();
    assert!(
        !tools("own").exists(),
        "a template of the base is none of a model that was trained with another"
    );

    std::os::unix::fs::symlink("../id_rsa", base.join("vocab.txt")).unwrap();
    let said = stderr_of(&run(&parent, &["adapter", "-o", "linked"]).code(1));
    assert!(said.contains("vocab.txt is a link out of the model's directory"), "{said}");
    assert!(said.contains("hint: if that file belongs to the model: cp --remove-destination "), "{said}");
    assert!(!parent.path("linked").exists());
}
