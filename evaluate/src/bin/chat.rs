//! Talks to a model or an adapter: on a terminal in turns, otherwise one prompt per line.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use common::cli::{self, Destination, OutputFile, Tool};
use common::error::Kind;
use common::model::is_adapter;
use common::text::ending::missing_tokens;
use common::text::{ChatTemplate, Conversation, Ending, Message, StreamDecoder, Tokenizer};
use common::{Context, Error, Result, error};
use evaluate::chat::generate::{End, Generator, ModelEngine};
use evaluate::chat::infer::Infer;
use evaluate::chat::input::{Command, Entry, HELP, Typed};
use evaluate::chat::session::Session;
use evaluate::chat::settings::{Flags, Settings};
use evaluate::chat::stop::StopText;
use evaluate::model::{self, ModelArguments, Models};
use serde_json::{Value, json};

/// Talk to a model or an adapter.
///
/// On a terminal the conversation goes on until /quit; Ctrl-C stops an answer. Otherwise every line
/// of standard input is a prompt of its own. With -o, what was said is written as training data.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  chat Qwen2.5-7B-Instruct-nf4
  chat out --compare
  chat infer.yaml
  echo 'What is the capital of France?' | chat merged --temperature 0.7 --seed 1
  chat merged --json < conversations.jsonl > answers.jsonl"
)]
struct Arguments {
    /// A model, an adapter or LLaMA-Factory's infer.yaml; read from standard input where none is given
    #[arg(value_name = "MODEL")]
    source: Option<PathBuf>,

    /// What the system says before the first message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    flags: Flags,

    /// Makes sampled answers repeatable
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Lines in and out are JSON: {"messages": [...]} or a list of messages; a message
    #[arg(long)]
    json: bool,

    /// Answer with the adapter and without it
    #[arg(long, conflicts_with = "json")]
    compare: bool,

    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    common: cli::Common,
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

fn main() -> ExitCode {
    cli::run(Tool { name: "chat", hint: model::hint }, run)
}

fn run(mut arguments: Arguments) -> Result<()> {
    let given: Vec<PathBuf> = arguments.source.iter().cloned().collect();
    let from_stdin = given.is_empty() || given == [Path::new("-")];
    let mut directory = cli::inputs(&given)?.directory()?;
    if Infer::is(&directory) {
        let infer = Infer::read(&directory)?;
        let base;
        (directory, base) = infer.paths()?;
        arguments.model.base = arguments.model.base.or(base);
        arguments.flags = infer.complete(arguments.flags);
        arguments.model.template = arguments.model.template.or(infer.template);
        arguments.system = arguments.system.or(infer.default_system);
    }
    if arguments.compare && !is_adapter(&directory) {
        return Err(Error::usage(format!("--compare: {} is not an adapter", directory.display()))
            .hint("name the directory that lora-train wrote"));
    }
    let inputs: Vec<PathBuf> =
        given.into_iter().chain([directory.clone()]).chain(arguments.model.base_of(&directory)?).collect();
    let output = match &arguments.common.output {
        Some(output) => Some(begin(output, &inputs, arguments.common.force)?),
        None => None,
    };
    let files = arguments.model.text_files(&directory)?;
    let tokenizer = Tokenizer::of(&files)?;
    let template = arguments.model.chat_template(&files, &tokenizer)?;
    let (end, stop_text) = match Ending::of(&tokenizer, &template) {
        Some(Ending::Token(token)) => (Some(token), None),
        Some(Ending::Text(text)) => (None, Some(text)),
        None => (None, None),
    };
    missing_tokens(&tokenizer, &template).iter().for_each(cli::warn);
    let ends = tokenizer.eos_token_id().into_iter().chain(end);
    let settings = Settings::load(&files, &arguments.flags, ends)?;
    let mut models = Models::new(&arguments.model)?;
    let model = models.load(&directory)?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let seed = arguments.seed.unwrap_or_else(clock);
    cli::verbose(format_args!("seed {seed}, {settings:?}"));
    let voice = |name, without_adapters| Voice {
        name,
        generator: Generator::new(ModelEngine::new(model, without_adapters), seed),
    };
    let mut chat = Chat {
        voices: match arguments.compare {
            true => vec![voice("with the adapter", false), voice("without", true)],
            false => vec![voice("", false)],
        },
        tokenizer: &tokenizer,
        template: &template,
        settings,
        inputs,
        stop_text,
        said: Vec::new(),
    };
    let system = arguments.system.as_deref();
    if from_stdin || std::io::stdin().is_terminal() {
        chat.interactive(terminal(from_stdin)?, system)?;
    } else if arguments.json {
        chat.json_lines(system)?;
    } else {
        chat.lines(system)?;
    }
    match output {
        Some(output) => save(output, &chat.said),
        None => Ok(()),
    }
}

/// Where the user types: standard input, unless that brought the path of the model.
fn terminal(stdin_is_taken: bool) -> Result<Box<dyn Read + Send>> {
    if !stdin_is_taken {
        return Ok(Box::new(std::io::stdin()));
    }
    let terminal = File::open("/dev/tty").context("no terminal to type on");
    Ok(Box::new(terminal.hint("name the model as an argument, and pipe the prompts in")?))
}

/// One of the answers to every message.
struct Voice<'a> {
    name: &'static str,
    generator: Generator<ModelEngine<'a>>,
}

struct Chat<'a> {
    voices: Vec<Voice<'a>>,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    settings: Settings,
    /// What is read, and never written.
    inputs: Vec<PathBuf>,
    /// What ends an answer besides tokens.
    stop_text: Option<String>,
    /// Conversations that have ended.
    said: Vec<Conversation>,
}

impl Chat<'_> {
    /// Takes turns until the user has enough.
    fn interactive(&mut self, source: impl Read + Send + 'static, system: Option<&str>) -> Result<()> {
        let typed = Typed::new(source);
        let mut session = Session::new(system);
        cli::note("/help shows the commands");
        loop {
            cli::prompt("> ");
            let text = match typed.next(cli::interrupted) {
                Entry::Text(text) => text,
                Entry::End => break,
                Entry::Interrupted => return Err(Error::interrupted("interrupted")),
            };
            match Command::parse(&text) {
                Some(Command::Quit) => break,
                Some(command) => obey(&command, &mut session, &self.inputs),
                None if text.trim().is_empty() => {}
                None => {
                    session.say("user", text);
                    match self.answer(&mut session, true) {
                        Ok(answer) => session.say("assistant", answer),
                        Err(problem) if !matches!(problem.kind(), Kind::Interrupted | Kind::ClosedPipe) => {
                            session.unsay();
                            cli::warn(problem);
                        }
                        Err(problem) => return Err(problem),
                    }
                    // Ctrl-C has stopped the answer, and has done its work.
                    cli::take_interrupted();
                }
            }
        }
        self.said.push(session.conversation);
        Ok(())
    }

    /// Every line of standard input is a prompt, every answer goes to standard output.
    fn lines(&mut self, system: Option<&str>) -> Result<()> {
        for (index, line) in std::io::stdin().lock().lines().enumerate() {
            let line = line.with_context(|| place(index))?;
            if line.trim().is_empty() {
                continue;
            }
            let mut session = Session::new(system);
            session.say("user", line);
            let answer = self.answer(&mut session, true)?;
            cli::check_interrupted()?;
            session.say("assistant", answer);
            self.said.push(session.conversation);
        }
        Ok(())
    }

    /// Every line of standard input is a conversation, every answer a message.
    fn json_lines(&mut self, system: Option<&str>) -> Result<()> {
        for (index, line) in std::io::stdin().lock().lines().enumerate() {
            let place = || place(index);
            let line = line.with_context(place)?;
            if line.trim().is_empty() {
                continue;
            }
            let mut session = Session { conversation: conversation(&line, system).with_context(place)? };
            let content = self.answer(&mut session, false).with_context(place)?;
            cli::check_interrupted()?;
            cli::answer(format_args!("{}\n", json!({"role": "assistant", "content": content})))?;
            session.say("assistant", content);
            self.said.push(session.conversation);
        }
        Ok(())
    }

    /// Answers the last message with every voice, and returns what the first one said.
    fn answer(&mut self, session: &mut Session, show: bool) -> Result<String> {
        let mut answers = Vec::with_capacity(self.voices.len());
        for voice in &mut self.voices {
            let window = voice.generator.max_tokens();
            // Some of the window is left for the answer.
            let most = window - self.settings.max_new_tokens.min(window / 4).max(1);
            let prompt = session.prompt(self.tokenizer, self.template, most)?;
            if prompt.dropped > 0 {
                cli::note(format_args!(
                    "the conversation outgrew the model's {window} tokens: the {} oldest messages are dropped",
                    prompt.dropped
                ));
            }
            if !voice.name.is_empty() {
                cli::answer(format_args!("[{}]\n", voice.name))?;
            }
            let begun = Instant::now();
            let mut tokens = 0;
            let mut answer = String::new();
            let mut decoder = StreamDecoder::new(self.tokenizer);
            let mut stop = StopText::new(self.stop_text.as_deref());
            let has_ended = Cell::new(false);
            let mut print = |text: String| {
                answer.push_str(&text);
                if show { cli::answer(text) } else { Ok(()) }
            };
            let stopped = || has_ended.get() || cli::interrupted();
            let end = voice.generator.answer(&prompt.tokens, &self.settings, stopped, |token| {
                tokens += 1;
                let shown = stop.push(&decoder.push(token)?);
                has_ended.set(stop.is_found());
                print(shown)
            })?;
            let last = stop.push(&decoder.finish()?);
            print(last + &stop.finish())?;
            if show {
                cli::answer("\n")?;
            }
            match end {
                End::Stop | End::Interrupted => {}
                End::Length => cli::verbose("the answer is cut at --max-new-tokens"),
                End::Context => cli::note(format_args!("the answer is cut at the model's {window} tokens")),
            }
            let seconds = begun.elapsed().as_secs_f64();
            cli::verbose(format_args!(
                "{} tokens of prompt, {tokens} of answer in {seconds:.1} s, {:.1} a second",
                prompt.tokens.len(),
                f64::from(tokens) / seconds
            ));
            answers.push(answer);
        }
        Ok(answers.swap_remove(0))
    }
}

fn obey(command: &Command, session: &mut Session, inputs: &[PathBuf]) {
    match command {
        Command::Reset => {
            session.reset();
            cli::note("the conversation is forgotten");
        }
        Command::System(text) => {
            session.set_system(*text);
            cli::note("a new conversation begins");
        }
        Command::Save(file) => {
            let begun = begin(Path::new(file), inputs, false);
            match begun.and_then(|begun| save(begun, std::slice::from_ref(&session.conversation))) {
                Ok(()) => cli::note(format_args!("the conversation is in {file}")),
                Err(problem) => cli::warn(problem),
            }
        }
        Command::Help | Command::Quit => cli::note_lines(HELP),
        Command::Unknown(name) => {
            cli::warn(format_args!("/{name} is no command"));
            cli::note_lines(HELP);
        }
    }
}

/// Begins a file of conversations, where nothing is or `force` replaces what is.
fn begin(path: &Path, inputs: &[PathBuf], force: bool) -> Result<OutputFile> {
    OutputFile::begin(&Destination::file(path, inputs)?, force, "chat")
}

/// Writes conversations as rows of training data.
fn save(mut file: OutputFile, conversations: &[Conversation]) -> Result<()> {
    file.write(&(serde_json::to_string_pretty(conversations)? + "\n"))?;
    file.finish();
    Ok(())
}

/// A line of standard input, for people; the first has index 0.
fn place(index: usize) -> String {
    format!("standard input, line {}", index + 1)
}

/// The conversation in a line: an object with `messages`, or the list of them. `system` begins one that
/// has no system message.
fn conversation(line: &str, system: Option<&str>) -> Result<Conversation> {
    let value: Value = serde_json::from_str(line).context("not valid JSON")?;
    let mut conversation = match value {
        Value::Array(_) => {
            Conversation { messages: serde_json::from_value(value).context("messages")?, tools: Vec::new() }
        }
        _ => serde_json::from_value(value)
            .hint("a line is {\"messages\": [{\"role\": \"user\", \"content\": ...}]}")?,
    };
    let messages = &mut conversation.messages;
    if messages.is_empty() {
        return Err(error!(Malformed, "no messages"));
    }
    let is_silent =
        |message: &Message| message.content.is_none() && !message.extra.contains_key("tool_calls");
    if let Some(index) = messages.iter().position(is_silent) {
        return Err(error!(Malformed, "message {} has no content", index + 1));
    }
    if let Some(system) = system.filter(|_| messages[0].role != "system") {
        messages.insert(0, Message::new("system", system));
    }
    Ok(conversation)
}
