use serde_json::{Map, Value, json};

use super::ChatTemplate;
use crate::text::Message;

fn template(source: &str) -> ChatTemplate {
    let special_tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ChatTemplate::from_source(source, special_tokens.as_object().unwrap().clone()).unwrap()
}

fn render(source: &str, messages: &[Message]) -> String {
    template(source).render(messages, &[], false).unwrap()
}

#[test]
fn blocks_are_trimmed_as_transformers_sets_jinja() {
    let source = "{% for m in messages %}\n    {% if true %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source, &[Message::new("user", "x")]), "user\n");
}

#[test]
fn python_methods_and_loop_controls_and_slices() {
    let source = "{%- for m in messages[::-1] -%}\
        {%- if m['content'].startswith('skip') -%}{%- continue -%}{%- endif -%}\
        [{{ m.content.split('</think>')[-1].lstrip('\\n') | trim }}]\
        {%- endfor -%}{{ bos_token + 'x' }}{{ missing }}{{ none }}{{ true }}";
    let messages = [Message::new("user", "a</think>\n\nb "), Message::new("user", "skip me")];
    assert_eq!(render(source, &messages), "[b]<s>xNoneTrue");
}

#[test]
fn none_cannot_be_iterated_over() {
    // Qwen3-Coder asks so for tools, which are none where a conversation has none.
    let source = "{{ tools is iterable and tools | length > 0 }} {{ messages is iterable }} \
        {{ missing is iterable }} {{ 'text' is iterable }} {{ 1 is iterable }}";
    assert_eq!(render(source, &[Message::new("user", "x")]), "False True True True False");
}

#[test]
fn a_template_reads_whether_to_think_where_it_is_said() {
    let source = "{{ enable_thinking is defined }} {{ thinking }} {{ preserve_thinking is defined }}";
    let text = |template: ChatTemplate| template.render(&[], &[], false).unwrap();
    assert_eq!(text(template(source)), "False  False");
    assert_eq!(text(template(source).with_thinking(Some(true))), "True True False");
    assert_eq!(
        text(template(source).with_thinking(Some(false)).without_earlier_thoughts()),
        "True False True"
    );
    assert!(template(source).with_thinking(Some(false)).unread_thinking().is_none());
    assert!(template("thinking").with_thinking(Some(false)).unread_thinking().is_some());
    assert!(template("thinking").with_thinking(Some(true)).unread_thinking().is_none());
}

#[test]
fn a_refusal_says_what_the_template_says() {
    let template = template("{{ raise_exception('roles must alternate') }}");
    let error = template.render(&[Message::new("user", "x")], &[], false).unwrap_err();
    assert_eq!(error.to_string(), "the chat template says: roles must alternate");
}

#[test]
fn a_broken_template_is_an_error() {
    let error = ChatTemplate::from_source("{% for %}", Map::new()).err().unwrap();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn an_absent_content_is_undefined_as_in_transformers() {
    let mut message = Message::new("assistant", "");
    message.content = None;
    message.extra.insert("tool_calls".into(), json!([{"function": {"name": "f", "arguments": {"a": 1}}}]));
    let source = "{% for m in messages %}{% if m.content is defined %}C{% endif %}\
        {{ m.tool_calls[0].function.arguments | tojson }}{% endfor %}";
    assert_eq!(render(source, &[message]), r#"{"a": 1}"#);
}

#[test]
fn generation_tags_only_mark() {
    let source =
        "{% generation %}a{%- endgeneration -%} b {% if generation %}c{% endif %}{# {% generation %} #}";
    assert_eq!(render(source, &[]), "ab ");
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
    let alphabet = crate::text::tokenizer::tests::byte_tokenizer_json();
    write("tokenizer.json", &alphabet);
    write("tokenizer_config.json", "{}");
    let load = || {
        let tokenizer = crate::text::Tokenizer::load(directory.path()).unwrap();
        ChatTemplate::load(directory.path(), &tokenizer)
    };
    let error = load().err().unwrap();
    assert!(error.hint_text().unwrap().contains("Instruct"), "{error}");

    let list: Value = json!({"bos_token": {"content": "<B>"}, "chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}"}]});
    write("tokenizer_config.json", &list.to_string());
    let template = load().unwrap();
    assert_eq!(template.render(&[], &[], false).unwrap(), "<B>");
    assert_eq!(template.render(&[], &[json!({})], false).unwrap(), "tools");

    write("chat_template.jinja", "file");
    assert_eq!(load().unwrap().render(&[], &[], false).unwrap(), "file");
}
