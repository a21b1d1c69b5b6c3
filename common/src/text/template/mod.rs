//! The chat template of a model, rendered as transformers renders it.
//!
//! A template is Jinja text in the `chat_template.jinja` or `tokenizer_config.json` of a model.
//! transformers renders it with `trim_blocks`, `lstrip_blocks`, loop controls, Python's string methods and
//! a few functions of its own (`transformers/utils/chat_template_utils.py`); this module provides the same.
//!
//! | file | what it is |
//! |---|---|
//! | `find` | where a model keeps its template |
//! | `named` | templates that LLaMA-Factory has names for |
//! | `guarded`, `scan` | check the nesting of a template before it is parsed, and put guards in it |
//! | `guard`, `size` | bounds on what a template may do, by the size of its input |
//! | `python` | values as Python writes them |
//! | `clock` | the date |

mod clock;
mod find;
mod guard;
mod guarded;
mod named;
mod python;
mod scan;
mod size;

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::{Map, Value};

use crate::text::{Message, Tokenizer};
use crate::{Context, Error, Result, bail, error};
use guarded::GuardedTemplate;
pub(crate) use scan::Words;
use size::InputSize;

const NAME: &str = "chat_template";

/// The chat template of a model.
///
/// ```
/// use common::text::{ChatTemplate, Message};
/// use serde_json::Map;
///
/// let template = ChatTemplate::from_source(
///     "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}\
///      {% if add_generation_prompt %}<|assistant|>{% endif %}",
///     Map::new(),
/// )?;
/// let text = template.render(&[Message::new("user", "Hello")], &[], true)?;
/// assert_eq!(text, "<|user|>Hello\n<|assistant|>");
/// # Ok::<(), common::Error>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Whether the model has a second template, which is rendered where there are tools.
    with_tools: bool,
    /// Whether the model is to think before it answers, where the user has said it.
    thinking: Option<bool>,
    /// Whether earlier answers keep their thoughts, where the template can drop them.
    keeps_earlier_thoughts: bool,
    special_tokens: Map<String, Value>,
    words: Words,
}

impl ChatTemplate {
    /// Loads the template of the model in `directory`.
    pub fn load(directory: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let (path, source, tool_source) = find::find(directory)?;
        Self::with_sources(source, tool_source, tokenizer.special_tokens().clone())
            .with_context(|| path.display().to_string())
    }

    /// Makes a template from its Jinja text. `special_tokens` maps names such as `bos_token`, which
    /// templates read, to their texts.
    pub fn from_source(source: impl Into<String>, special_tokens: Map<String, Value>) -> Result<Self> {
        Self::with_sources(source.into(), None, special_tokens)
    }

    fn with_sources(
        source: String,
        tool_source: Option<String>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self> {
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(Error::malformed)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax.clone());
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_formatter(python::format);
        environment.add_filter("tojson", python::tojson);
        environment.add_test("string", python::is_string);
        environment.add_test("number", python::is_number);
        environment.add_test("iterable", python::is_iterable);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| clock::strftime_now(&format));
        guard::set(&mut environment);
        let with_tools = tool_source.is_some();
        let mut words = Words::default();
        for (name, source) in [(NAME, Some(&source)), ("tool_use", tool_source.as_ref())] {
            let Some(source) = source else { continue };
            let unreadable = |problem| {
                error!("the chat template cannot be read: {problem}")
                    .hint("mend it, or choose another with --template")
            };
            let ready = GuardedTemplate::new(source, syntax.clone()).map_err(unreadable)?;
            words.names.extend(ready.words.names);
            words.texts.extend(ready.words.texts);
            environment
                .add_template_owned(name, ready.text)
                .map_err(|problem| unreadable(describe(&problem)))?;
        }
        Ok(Self {
            environment,
            source,
            with_tools,
            thinking: None,
            keeps_earlier_thoughts: true,
            special_tokens,
            words,
        })
    }

    /// The Jinja text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template that tells a reasoning model whether to think before it answers (`enable_thinking`, in some
    /// templates `thinking`). With `false`, thoughts in conversations are dropped. `None` leaves it to the template.
    pub fn with_thinking(self, thinking: Option<bool>) -> Self {
        Self { thinking, ..self }
    }

    /// The template that drops the thoughts of all answers but the last, if it can (`preserve_thinking`), as
    /// LLaMA-Factory does where the model answers and where only the last answer is trained.
    pub fn without_earlier_thoughts(self) -> Self {
        Self { keeps_earlier_thoughts: false, ..self }
    }

    /// The warning about a model that is not to think, and a template that has no setting for it.
    pub fn unread_thinking(&self) -> Option<&'static str> {
        let is_read = ["enable_thinking", "thinking"].iter().any(|name| self.words.names.contains(*name));
        (self.drops_thoughts() && !is_read).then_some(
            "enable_thinking: the chat template does not read it, so the model may think all the same",
        )
    }

    /// Whether the thoughts of all answers are dropped.
    pub(crate) fn drops_thoughts(&self) -> bool {
        self.thinking == Some(false)
    }

    /// Whether the template mentions a variable or a field such as `tools` or `tool_calls`, which some
    /// templates omit from the text.
    pub fn reads(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// The text of the tokenizer's end of text, which templates write.
    pub(crate) fn eos_token(&self) -> Option<&str> {
        self.special_tokens.get("eos_token").and_then(Value::as_str)
    }

    /// The names and texts that the template mentions.
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Renders a conversation as text. `add_generation_prompt` ends it with the text that comes before an
    /// assistant's answer, such as `<|im_start|>assistant\n`.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let mut size = InputSize::default();
        messages.iter().for_each(|message| size.message(message));
        tools.iter().for_each(|tool| size.value(tool, 1));
        if size.nesting > guard::NESTING {
            bail!(Row, "lists and objects lie in each other more than {} deep", guard::NESTING);
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(guard::steps(&size)));
        let name = if self.with_tools && !tools.is_empty() { "tool_use" } else { NAME };
        let template = environment.get_template(name).map_err(Error::malformed)?;
        let tools = if tools.is_empty() { None } else { Some(Serde(tools)) };
        let special_tokens = minijinja::Value::from(Serde(&self.special_tokens));
        let messages = Serde(messages);
        let room = guard::room(&size).to_vec();
        // What is not said is up to the template.
        let thinking = self.thinking.map_or(minijinja::Value::UNDEFINED, minijinja::Value::from);
        let preserve_thinking = match self.keeps_earlier_thoughts {
            true => minijinja::Value::UNDEFINED,
            false => false.into(),
        };
        let context = context! {
            messages,
            tools,
            add_generation_prompt,
            enable_thinking => thinking.clone(),
            thinking,
            preserve_thinking,
            __bounded_room => room,
            ..special_tokens
        };
        template.render(context).map_err(|problem| match problem.kind() {
            ErrorKind::OutOfFuel => error!(
                Row,
                "the chat template takes more than {} steps for {} bytes: it never ends, or makes texts out \
                 of all proportion",
                guard::steps(&size),
                size.bytes
            ),
            _ => error!(Row, "the chat template says: {}", describe(&problem)),
        })
    }
}

/// The message of a template's `raise_exception`, or of Jinja, without internal wording.
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

#[cfg(test)]
mod tests;
