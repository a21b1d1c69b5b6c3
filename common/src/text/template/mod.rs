//! The chat template of a model, rendered as transformers renders it.
//!
//! A template is Jinja text that a model brings along in `chat_template.jinja` or in
//! `tokenizer_config.json`. transformers renders it with `trim_blocks`, `lstrip_blocks`, loop
//! controls, Python's string methods and a few functions of its own
//! (`transformers/utils/chat_template_utils.py`); this module provides the same.

mod clock;
mod named;
mod python;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use crate::text::{Message, Tokenizer};
use crate::{Context, Error, Result, bail, error};

const NAME: &str = "chat_template";

/// The chat template of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Rendered instead when there are tools, where a model brings two templates.
    with_tools: bool,
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// The template that the model in `directory` brings along.
    pub fn load(directory: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let (path, source, tool_source) = find(directory)?;
        Self::with_sources(source, tool_source, tokenizer.special_tokens().clone())
            .with_context(|| path.display().to_string())
    }

    /// A template from its Jinja text; `special_tokens` maps names such as `bos_token`, which
    /// templates read, to their text.
    pub fn from_source(source: impl Into<String>, special_tokens: Map<String, Value>) -> Result<Self> {
        Self::with_sources(source.into(), None, special_tokens)
    }

    fn with_sources(
        source: String,
        tool_source: Option<String>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(Error::malformed)?,
        );
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_formatter(python::format);
        environment.add_filter("tojson", python::tojson);
        environment.add_test("string", python::is_string);
        environment.add_test("number", python::is_number);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| clock::strftime_now(&format));
        let with_tools = tool_source.is_some();
        for (name, source) in [(NAME, Some(&source)), ("tool_use", tool_source.as_ref())] {
            let Some(source) = source else { continue };
            environment.add_template_owned(name, without_generation_tags(source)).map_err(|problem| {
                error!(Malformed, "the chat template cannot be read: {}", describe(&problem))
            })?;
        }
        Ok(Self { environment, source, with_tools, special_tokens })
    }

    /// The Jinja text, to be stored beside what was trained with it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it reads a variable or a field of this name, as `tools` and `tool_calls`, which some
    /// templates leave out of the text.
    pub fn reads(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// The text of a conversation. `add_generation_prompt` ends it with what comes before an
    /// assistant's answer, e.g. `<|im_start|>assistant\n`.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let name = if self.with_tools && !tools.is_empty() { "tool_use" } else { NAME };
        let template = self.environment.get_template(name).map_err(Error::malformed)?;
        let tools = if tools.is_empty() { None } else { Some(Serde(tools)) };
        let special_tokens = minijinja::Value::from(Serde(&self.special_tokens));
        let messages = Serde(messages);
        let context = context! { messages, tools, add_generation_prompt, ..special_tokens };
        template
            .render(context)
            .map_err(|problem| error!(Row, "the chat template says: {}", describe(&problem)))
    }
}

/// What a template's `raise_exception` said, or what Jinja says, without internal wording.
fn describe(problem: &minijinja::Error) -> String {
    let detail = problem.detail().map_or_else(|| problem.kind().to_string(), str::to_owned);
    match problem.line() {
        Some(line) if problem.kind() != ErrorKind::InvalidOperation => format!("{detail} (line {line})"),
        _ => detail,
    }
}

fn raise_exception(message: String) -> Result<minijinja::Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// `chat_template.jinja`, else the entry of `tokenizer_config.json`: a text, or a list of named
/// ones of which `default` and `tool_use` are known to transformers.
fn find(directory: &Path) -> Result<(PathBuf, String, Option<String>)> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let source = fs_err::read_to_string(&path)?;
        let tool_path = directory.join("additional_chat_templates").join("tool_use.jinja");
        let tool_source = tool_path.exists().then(|| fs_err::read_to_string(&tool_path)).transpose()?;
        return Ok((path, source, tool_source));
    }
    let path = directory.join("tokenizer_config.json");
    let text = fs_err::read_to_string(&path)?;
    let config: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    match config.get("chat_template") {
        Some(Value::String(source)) => Ok((path, source.clone(), None)),
        Some(Value::Array(list)) => {
            let named = |name: &str| {
                let entry = list.iter().find(|entry| entry["name"] == name)?;
                Some(entry["template"].as_str()?.to_owned())
            };
            match named("default") {
                Some(source) => Ok((path, source, named("tool_use"))),
                None => bail!(Malformed, "{}: chat_template has no entry named default", path.display()),
            }
        }
        _ => Err(error!("{} has no chat_template, and there is no chat_template.jinja", path.display())
            .hint("take the chat (Instruct) variant of the model")),
    }
}

/// Replaces transformers' `{% generation %}` block by one that is always taken: it only marks text.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let Some(end) = tag.find("%}") else { break };
        let body = &tag[2..end];
        let word = body.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        result.push_str(before);
        match word {
            "generation" => result.push_str(&format!("{{%{}%}}", body.replacen(word, "if true", 1))),
            "endgeneration" => result.push_str(&format!("{{%{}%}}", body.replacen(word, "endif", 1))),
            _ => result.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests;
