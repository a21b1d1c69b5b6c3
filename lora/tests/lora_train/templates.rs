//! Chat templates and texts that somebody else made, and may have made to do harm.

use std::time::Duration;

use serde_json::{Value, json};

use crate::place::Place;

const DEEP: usize = 100_000;
const ENDLESS: &str = "{% for i in range(9999) %}";
const NAMESPACE: &str = "{% set ns = namespace(s='ab', l=['ab']) %}";
const WIDTH: &str = "1000000000000000000";

fn dry_run(place: &Place, template: &str) -> (i32, String) {
    place.write("model/chat_template.jinja", template);
    let mut command = place.command("model --data data.json -o out --dry-run");
    // What a template may make is little, so that the whole tool gets along with this.
    command.timeout(Duration::from_secs(60));
    let run = command.output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    (run.status.code().unwrap_or_else(|| panic!("killed at {:.80}: {said}", template)), said)
}

/// Templates that never end, or take memory or stack without end, are refused with what is wrong.
#[test]
fn a_template_without_end_is_refused() {
    let place = Place::new();
    let looped = |body: &str| format!("{NAMESPACE}{ENDLESS}{body}{{% endfor %}}{{{{ ns.s }}}}");
    let steps = "steps for";
    let large = "a value too large to keep";
    for (template, expected) in [
        (ENDLESS.repeat(4) + &"{% endfor %}".repeat(4), steps),
        (looped("{% set ns.s = ns.s ~ ns.s %}"), steps),
        (looped("{% set ns.l = ns.l + ns.l %}"), large),
        (looped("{% set ns.l = [ns.l, ns.l] %}"), large),
        (looped("{% set ns.l = [ns.l] %}"), "it nests lists too deeply"),
        (looped("{% set ns.l = ns.l[0:] %}{{ ns.l }}"), steps),
        (format!("{NAMESPACE}{{% set ns.s = [ns] %}}{{{{ ns }}}}"), "a namespace holds a namespace"),
        ("{% set x = [1] %}".to_owned() + &"{% set x = [x] %}\n".repeat(DEEP), "it nests lists too deeply"),
        ("{{ [[[[1] * 1000] * 1000] * 1000] | join }}".into(), large),
        (format!("{{% set l = [[1] * 100] * 100 %}}{{{{ [{}] == 1 }}}}", "l,\n".repeat(1000)), large),
        ("{{ 'x' * 10**9 }}".into(), steps),
        (format!("{{{{ 'a' | indent({WIDTH}) }}}}"), steps),
        (format!("{{{{ '{{:>{WIDTH}}}'.format('a') }}}}"), "a width out of all proportion"),
        (format!("{{{{ messages | tojson(indent={WIDTH}) }}}}"), "an indent of at most 1000 expected"),
        (format!("{{{{ messages | slice({WIDTH}) | list }}}}"), steps),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".into(), "recursion limit"),
        ("{% block a %}{{ self.a() }}{% endblock %}".into(), "recursion limit"),
    ] {
        let (code, said) = dry_run(&place, &template);
        assert_eq!(code, 1, "{template:.80}: {said}");
        assert!(said.contains(expected), "{template:.80}: {said}");
        assert!(
            said.contains("\nhint: mend the rows of the data, or choose another chat template"),
            "{said}"
        );
    }
}

/// What nests too deeply is refused before it is parsed, by the line that does.
#[test]
fn a_template_that_nests_too_deeply_is_not_parsed() {
    let place = Place::new();
    let (expression, brackets, blocks) = (
        "an expression is nested too deeply (line ",
        "brackets are nested too deeply (line ",
        "blocks are nested too deeply (line ",
    );
    for (template, expected) in [
        (format!("{{{{ {}1 }}}}", "1 +\n".repeat(DEEP)), expression),
        (format!("{{{{ {}1 }}}}", "not\n".repeat(DEEP)), expression),
        (format!("{{{{ {}1 }}}}", "1 if 0 else\n".repeat(DEEP)), expression),
        (format!("{{{{ a{} }}}}", ".b\n".repeat(DEEP)), expression),
        (format!("{{{{ a{} }}}}", " | lower\n".repeat(DEEP)), expression),
        (format!("{{{{ {}1{} }}}}", "(\n".repeat(DEEP), ")\n".repeat(DEEP)), brackets),
        (format!("{{{{ {}1{} }}}}", "[\n".repeat(DEEP), "]\n".repeat(DEEP)), brackets),
        ("{% if 1 %}\n".repeat(DEEP), blocks),
        (format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}\n".repeat(DEEP)), blocks),
        ("\n{{ ".to_owned() + &"1 + ".repeat(DEEP), "a line of more than 65000 bytes (line 2)"),
    ] {
        let (code, said) = dry_run(&place, &template);
        assert_eq!(code, 1, "{template:.80}: {said}");
        assert!(
            said.contains(&format!("chat_template.jinja: the chat template cannot be read: {expected}")),
            "{said}"
        );
        assert!(said.contains("\nhint: mend it, or choose another with --template\n"), "{said}");
    }
    // A long list is not deep, and a list of many templates is none without a default.
    let (code, said) = dry_run(&place, &format!("{{% set x = [{}] %}}x", "1,\n".repeat(10_000)));
    assert!(code == 1 && said.contains("2048 tokens (--cutoff-len) hold no answer"), "{said}");
    fs_err::remove_file(place.path("model/chat_template.jinja")).unwrap();
    let many = json!({"chat_template": vec![1; 1_000_000]});
    place.write("model/tokenizer_config.json", many.to_string());
    let (_, said) = place.fail("model --data data.json -o out --dry-run");
    assert!(said.contains("chat_template has no entry named default"), "{said}");
}

#[test]
fn a_model_without_a_template_is_told_the_names() {
    let place = Place::new();
    place.write("model/tokenizer_config.json", "{}");
    let (code, said) = place.fail("model --data data.json -o out --dry-run");
    assert_eq!(code, 1);
    assert!(
        said.contains("tokenizer_config.json has no chat_template, and there is no chat_template.jinja"),
        "{said}"
    );
    assert!(
        said.contains("choose a template with --template: alpaca, breeze, chatml, chatml_de, "),
        "{said}"
    );
}

/// A tokenizer that changes texts, in front of the tokens that a template writes.
fn normalize(place: &Place, normalizer: Value, is_normalized: bool) {
    let mut tokenizer = place.json("model/tokenizer.json");
    tokenizer["normalizer"] = normalizer;
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        token["normalized"] = json!(is_normalized);
    }
    place.write("model/tokenizer.json", tokenizer.to_string());
}

/// How many tokens end a turn in a row, whose template writes two.
fn ends(place: &Place, row: &Value) -> usize {
    place.write("row.json", json!([row]).to_string());
    let cache = place.path("cache/qlora-tools/tokens");
    let _ = fs_err::remove_dir_all(&cache);
    place.run("model --data row.json -o out --dry-run");
    let file = fs_err::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let bytes = fs_err::read(file).unwrap();
    let (rest, length) = bytes.split_last_chunk::<8>().unwrap();
    let summary: Value =
        serde_json::from_slice(&rest[rest.len() - u64::from_le_bytes(*length) as usize..]).unwrap();
    let tokens = bytes[8..].chunks_exact(4).take(summary["tokens"].as_u64().unwrap() as usize);
    tokens.filter(|token| u32::from_le_bytes((*token).try_into().unwrap()) & !(1 << 31) == END).count()
}

/// The token of `<|im_end|>`.
const END: u32 = 257;

fn talk(user: &str) -> Value {
    json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "yes"}]})
}

/// Text of a message that a tokenizer would turn into the end of a turn stays text.
#[test]
fn no_normalizer_makes_a_special_token_of_a_message() {
    let lower = json!({"type": "Lowercase"});
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let sequence = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, lower]});
    for (normalizer, text) in [
        (json!({"type": "NFKC"}), "a＜|im_end|＞b"),
        (json!({"type": "NFKC"}), "＜｜ｉｍ＿ｅｎｄ｜＞"),
        (lower.clone(), "a<|IM_End|>b"),
        (sequence, "a<｜IM_End|＞b"),
        (
            json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
            "<|im_\u{e9}nd|>",
        ),
        (replace("@", "<|im_end|>"), "a@b"),
        (replace("_-_", "_"), "<|im_-_end|>"),
        (json!({"type": "Strip", "strip_left": true, "strip_right": true}), " <|im_end|> "),
        (replace("b", ""), "<|imb_end|b>"),
    ] {
        for is_normalized in [true, false] {
            let place = Place::new();
            normalize(&place, normalizer.clone(), is_normalized);
            assert_eq!(ends(&place, &talk(text)), 2, "{normalizer}, {is_normalized}: {text}");
        }
    }
}

/// The same where a template makes one of a message.
#[test]
fn no_template_makes_a_special_token_of_a_message() {
    let place = Place::new();
    let chatml = |content: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ {content} }}}}<|im_end|>\n{{% endfor %}}\
             {{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        )
    };
    for (content, text) in [
        ("m.content", "<|im_end|>"),
        ("m.content | lower", "a<|IM_END|>b"),
        ("m.content.lower()", "a<|Im_End|>b"),
        ("m.content.replace('x', '')", "a<|im_xend|>b"),
        ("m.content.replace('(', '<|').replace(')', '|>')", "(im_end)"),
        ("m.content.split('</think>') | join", "<|im_</think>end|>"),
        ("m.content.split('</think>')[0] + '|>'", "<|im_end</think>"),
        ("m.content.strip('*')", "*<|im_end|>*"),
        ("m.content | trim", " <|im_end|> "),
        ("m.content[1:] ~ ''", "x<|im_end|>"),
        ("m.content.split('&') | join('')", "<|im&_end|>"),
        ("m.content | replace('&lt;', '<')", "&lt;|im_end|>"),
        ("m.content | reverse", ">|dne_mi|<"),
        ("m.content.split()[::-1] | join('')", "end|> <|im_"),
        ("'<|' + m.content + '|>'", "im_end"),
        ("m.content + m.content[-1:]", "<|im_end|>"),
    ] {
        place.write("model/chat_template.jinja", chatml(content));
        assert_eq!(ends(&place, &talk(text)), 2, "{content}: {text}");
    }
    // Two fields of one message, the name and the arguments of a call, a column of its own.
    place.write(
        "model/chat_template.jinja",
        chatml("m.content ~ m.name ~ (m.tool_calls | tojson if m.tool_calls else '') | lower"),
    );
    let mut row = talk("<|im_");
    row["messages"][0]["name"] = json!("end|>");
    assert_eq!(ends(&place, &row), 2, "two fields");
    let call = json!({"type": "function", "function": {"name": "<|IM_END|>", "arguments": {"<|Im_End|>": ["<|im_END|>"]}}});
    let mut row = talk("x");
    row["messages"][1]["tool_calls"] = json!([call]);
    assert_eq!(ends(&place, &row), 2, "a call");
    let row = json!({"instruction": "q", "output": "a", "system": "<|IM_end|>"});
    assert_eq!(ends(&place, &row), 3, "a system column makes a turn more");
}

/// What the template writes stays what it is, in models whose tokens end in other ways.
#[test]
fn special_tokens_of_the_template_stay_special() {
    let place = Place::new();
    // The tokens take white space along, and a role is a part of one.
    normalize(&place, json!({"type": "Lowercase"}), true);
    let mut tokenizer = place.json("model/tokenizer.json");
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        (token["lstrip"], token["rstrip"]) = (json!(true), json!(true));
    }
    tokenizer["added_tokens"][0]["content"] = json!("<|user|>");
    place.write("model/tokenizer.json", tokenizer.to_string());
    let template = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + ' <|im_end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
    place.write("model/chat_template.jinja", template);
    assert_eq!(ends(&place, &talk("a ")), 2);
}

/// A base model that is trained with a chat template ends its answers with the template's token. So do
/// the files of its adapter, for programs that generate; the end that was known stays known.
#[test]
fn the_token_that_ends_trained_answers_is_the_end_of_text() {
    let place = Place::new();
    place.write("model/generation_config.json", json!({"eos_token_id": END}).to_string());
    place.run("model --data data.json -o same --max-steps 1");
    assert_eq!(place.text("same/tokenizer_config.json"), place.text("model/tokenizer_config.json"));
    assert_eq!(place.json("same/generation_config.json"), json!({"eos_token_id": END}), "as the model's own");

    let mut config = place.json("model/tokenizer_config.json");
    config["eos_token"] = json!({"content": "<|im_start|>", "lstrip": false});
    place.write("model/tokenizer_config.json", config.to_string());
    place.write("model/generation_config.json", r#"{"do_sample": true, "eos_token_id": 256}"#);
    place.run("model --data data.json -o out --max-steps 1 --save-steps 1");
    for directory in ["out", "out/checkpoint-1"] {
        let tokenizer = place.json(&format!("{directory}/tokenizer_config.json"));
        assert_eq!(tokenizer["eos_token"], "<|im_end|>", "{directory}");
        assert_eq!(tokenizer["pad_token"], config["pad_token"]);
        let generation = place.json(&format!("{directory}/generation_config.json"));
        assert_eq!(generation, json!({"do_sample": true, "eos_token_id": [END, 256]}), "{directory}");
    }
}

/// A template whose tokens the tokenizer does not have is trained as letters, which is said.
#[test]
fn a_template_whose_tokens_are_missing_is_warned_of() {
    let place = Place::new();
    let (_, said) = place.run("model --data data.json -o out --dry-run --template llama3");
    let warning = "warning: the template writes <|start_header_id|> and <|end_header_id|> and <|eot_id|>, \
        for which the tokenizer has no tokens";
    assert!(said.contains(warning) && said.contains("tokenizer.add_special_tokens"), "{said}");
    let (_, said) = place.run("model --data data.json -o out --dry-run");
    assert!(!said.contains("has no tokens"), "{said}");
}
