//! Talks to a model or an adapter: on a terminal in turns, otherwise one prompt per line.
//!
//! | file | what it is |
//! |---|---|
//! | `arguments` | the command line |
//! | `infer` | LLaMA-Factory's infer.yaml |
//! | `talk` | takes turns on a terminal, or answers line by line |
//! | `printer` | prints the answers of a session as they come |
//! | `input` | what the user types |
//! | `command` | the commands that begin with `/` |
//! | `conversation` | how a conversation begins, and how a line of JSON says it |
//! | `save` | writes conversations as training data |
//! | `serve/` | answers over HTTP |

mod arguments;
mod command;
mod conversation;
mod infer;
mod input;
mod printer;
mod save;
mod serve;
mod talk;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use common::cli::{self, Tool};
use common::generate::{ChatFormat, GenerationSettings, ModelEngine, Overrides, Session};
use common::model::{Model, is_adapter};
use common::models::{self, ModelArguments, Models};
use common::text::ending::missing_tokens;
use common::text::{TextFiles, Tokenizer};
use common::{Error, Result};

use arguments::Arguments;
use infer::Infer;
use printer::AnswerPrinter;
use talk::Talk;

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "chat", hint: models::hint }, line, run)
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    Arguments::command()
}

fn run(mut arguments: Arguments) -> Result<()> {
    let given: Vec<PathBuf> = arguments.source.iter().cloned().collect();
    let from_stdin = given.is_empty() || given == [Path::new("-")];
    let (directory, overrides) = source(&given, &mut arguments)?;
    if arguments.compare && !is_adapter(&directory) {
        return Err(Error::usage(format!("--compare: {} is not an adapter", directory.display()))
            .hint("name the directory that lora-train wrote"));
    }
    if let Some(address) = &arguments.serve.serve {
        return serve::serve(address, &directory, &overrides, &arguments);
    }
    let base = arguments.model.base_of(&directory)?;
    let inputs: Vec<PathBuf> = given.into_iter().chain([directory.clone()]).chain(base).collect();
    let output = arguments.common.output.as_ref();
    let output = output.map(|output| save::begin(output, &inputs, arguments.common.force)).transpose()?;
    arguments.model.expect_supported(&directory)?;
    let (format, settings) = text(&directory, &overrides, &arguments)?;
    let mut models = Models::new(&arguments.model, arguments.model.device.open()?);
    let model = models.load(&directory)?;
    let mut talk = Talk {
        printers: printers(model, &format, &settings, &arguments),
        settings,
        system: arguments.system,
        inputs,
        ended: Vec::new(),
    };
    if from_stdin || std::io::stdin().is_terminal() {
        talk.interactive(input::terminal(from_stdin)?)?;
    } else if arguments.json {
        talk.json_lines()?;
    } else {
        talk.lines()?;
    }
    match output {
        Some(output) => save::finish(output, &talk.ended),
        None => Ok(()),
    }
}

/// Returns the directory of the model or adapter, and what the command line says about generation. An
/// infer.yaml completes both, and the other arguments.
fn source(given: &[PathBuf], arguments: &mut Arguments) -> Result<(PathBuf, Overrides)> {
    let source = cli::inputs(given)?.model()?;
    let options = arguments.sampling.overrides();
    if !cli::is_yaml(&source) {
        return Ok((source, options));
    }
    let infer = Infer::read(&source)?;
    let (directory, base) = infer.paths()?;
    let overrides = infer.complete(options);
    arguments.model.base = arguments.model.base.take().or(base);
    arguments.model.template = arguments.model.template.take().or(infer.template);
    arguments.system = arguments.system.take().or(infer.default_system);
    arguments.enable_thinking = arguments.enable_thinking.or(infer.enable_thinking);
    Ok((directory, overrides))
}

/// Reads how the model writes conversations, and how its tokens are chosen.
fn text(
    directory: &Path,
    overrides: &Overrides,
    arguments: &Arguments,
) -> Result<(ChatFormat, GenerationSettings)> {
    let files = arguments.model.text_files(directory)?;
    let format = format(&files, &arguments.model, arguments.enable_thinking)?;
    arguments::check(overrides)?;
    let settings = GenerationSettings::load(&files, overrides, format.stop_tokens())?;
    Ok((format, settings))
}

/// Reads how a model writes conversations, and warns of what the user may not expect of it.
fn format(files: &TextFiles, model: &ModelArguments, enable_thinking: Option<bool>) -> Result<ChatFormat> {
    let tokenizer = Tokenizer::of(files)?;
    let template = model.chat_template(files, &tokenizer)?.with_thinking(enable_thinking);
    template.unread_thinking().iter().for_each(cli::warn);
    missing_tokens(&tokenizer, &template).iter().for_each(cli::warn);
    Ok(ChatFormat::new(tokenizer, template))
}

/// Returns the answerers to every message: the model, or with `--compare` the adapter and its base.
fn printers<'a>(
    model: &'a Model,
    format: &'a ChatFormat,
    settings: &GenerationSettings,
    arguments: &Arguments,
) -> Vec<AnswerPrinter<'a>> {
    let seed = arguments.seed();
    cli::verbose(format_args!("seed {seed}, {settings:?}"));
    let printer = |name, without_adapters| AnswerPrinter {
        name,
        session: Session::new(format, ModelEngine::new(model, without_adapters), seed),
    };
    match arguments.compare {
        true => vec![printer("with the adapter", false), printer("without", true)],
        false => vec![printer("", false)],
    }
}
