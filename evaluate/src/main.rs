//! Runs multiple-choice questions through a model: MMLU with the prompts of the harness of a name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::cli::{self, Progress, Unit};
use common::device::{Device, DeviceChoice};
use common::model::Model;
use common::text::{ChatTemplate, Tokenizer};
use common::{Context, Error, Result, error, hex};
use evaluate::compare::compare;
use evaluate::identity::{chat_template, identity, text_home};
use evaluate::journal::Journal;
use evaluate::mmlu::{self, Prompt, Selection, Split, Style, Subject};
use evaluate::report::{Report, Scored};
use evaluate::score::{Passes, score};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Tokens of a pass: enough that widening weights is a small part of it, few enough for the memory.
const HOST_PASS_TOKENS: usize = 2048;
const GPU_PASS_TOKENS: usize = 8192;

/// Score a model on multiple-choice questions (MMLU).
///
/// Prints accuracies by subject and category, and writes report.json. The questions of a subject
/// share their five shots, which go through the model once. A run that is stopped goes on where it
/// was when it is started again.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  evaluate Qwen2.5-7B-Instruct-nf4 --data mmlu
  evaluate out --data mmlu --subjects astronomy,virology --limit 20 --details answers.jsonl
  merge out -o merged | evaluate --data mmlu --style llamafactory
  evaluate --compare before.json after.json"
)]
struct Arguments {
    /// A model or an adapter; read from standard input where none is given
    model: Vec<PathBuf>,

    /// The directory of MMLU's dev, val and test folders, or the zip archive of it
    #[arg(long, value_name = "PATH", required_unless_present = "compare")]
    data: Option<PathBuf>,

    /// Compare two reports of the same questions, and score nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["model", "data"])]
    compare: Vec<PathBuf>,

    /// Whose prompts are used
    #[arg(long, value_enum, default_value_t)]
    style: Style,

    /// A template by its name in LLaMA-Factory, in place of the model's own, for --style llamafactory
    #[arg(long, value_name = "NAME")]
    template: Option<String>,

    /// How many answered questions come first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=5))]
    shots: u8,

    /// Which questions are asked
    #[arg(long, value_enum, default_value_t)]
    split: Split,

    /// Only these subjects, e.g. astronomy,virology
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<String>,

    /// Only the first N questions of each subject
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Write a line of JSON for each question: logprobs, prediction, answer
    #[arg(long, value_name = "FILE")]
    details: Option<PathBuf>,

    /// The base of an adapter, where it is not the one that the adapter names
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// Most tokens that go through the model at a time [default: 2048, on a GPU 8192]
    #[arg(long, value_name = "N")]
    pass_tokens: Option<usize>,

    /// Run the shots again with every question
    #[arg(long)]
    no_prefix_cache: bool,

    #[command(flatten)]
    common: cli::Common,
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

fn main() -> ExitCode {
    cli::run("evaluate", run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let [first, second] = &arguments.compare[..] {
        return cli::answer(compare(first, second)?);
    }
    if arguments.template.is_some() && arguments.style != Style::LlamaFactory {
        return Err(Error::usage(format!(
            "--template: --style {} prompts without one",
            arguments.style.name()
        ))
        .hint("add --style llamafactory"));
    }
    let directory = cli::inputs(&arguments.model)?.directory()?;
    let selection = Selection {
        split: arguments.split,
        shots: arguments.shots.into(),
        subjects: arguments.subjects.clone(),
        limit: arguments.limit.map(|limit| limit as usize),
    };
    let data = arguments.data.as_deref().ok_or_else(|| Error::usage("no --data given"))?;
    let subjects = mmlu::load(data, &selection)?;
    let texts = Texts::load(&directory, &arguments)?;
    let recipe = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": identity(&directory, arguments.base.as_deref())?,
        "task": "mmlu",
        "style": arguments.style.name(),
        "shots": arguments.shots,
        "split": arguments.split.name(),
        "limit": arguments.limit,
        "prompt_sha256": texts.hash(&subjects)?,
    });
    let path = arguments.common.output.clone().unwrap_or_else(|| "report.json".into());
    if let Some(report) = made_before(&path, &recipe, &arguments)? {
        cli::note(format_args!("{} is already made; --force makes it again", path.display()));
        return cli::answer(report.table());
    }
    let begun = Instant::now();
    let scored = score_all(&directory, &subjects, &texts, &path, &recipe, &arguments)?;
    let report = Report::new(&scored);
    let mut header = Map::new();
    header.insert("recipe".into(), recipe);
    header.insert("seconds".into(), json!(begun.elapsed().as_secs_f64()));
    if let Some(details) = &arguments.details {
        cli::write_file(details, &scored.iter().map(Scored::details).collect::<String>())?;
    }
    cli::write_file(&path, &(serde_json::to_string_pretty(&report.json(header))? + "\n"))?;
    cli::note(format_args!("the report is in {}", path.display()));
    cli::answer(report.table())
}

/// The tokenizer of a model, and its chat template where the style needs one.
struct Texts {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    style: Style,
    shots: usize,
}

impl Texts {
    fn load(directory: &Path, arguments: &Arguments) -> Result<Self> {
        let home = text_home(directory, arguments.base.as_deref())?;
        let tokenizer = Tokenizer::load(&home)?;
        let needs_template = arguments.style == Style::LlamaFactory;
        let template = needs_template
            .then(|| chat_template(&home, &tokenizer, arguments.template.as_deref()))
            .transpose()?;
        Ok(Self { tokenizer, template, style: arguments.style, shots: arguments.shots.into() })
    }

    fn prompts<'a>(&'a self, subject: &'a Subject) -> impl ParallelIterator<Item = Prompt> + 'a {
        subject.questions.par_iter().map(|question| self.style.prompt(subject, self.shots, question))
    }

    /// SHA-256 of all prompts, to tell figures of different questions or wordings apart.
    fn hash(&self, subjects: &[Subject]) -> Result<String> {
        let mut hash = Sha256::new();
        for subject in subjects {
            let texts: Result<Vec<String>> =
                self.prompts(subject).map(|prompt| prompt.text(self.template.as_ref())).collect();
            for text in texts? {
                hash.update(text);
                hash.update([0]);
            }
        }
        Ok(hex(hash.finalize()))
    }

    /// The tokens of a subject's prompts, none longer than `most`, as the harness shortens them.
    fn encode(&self, subject: &Subject, most: usize) -> Result<Vec<Vec<u32>>> {
        let encode = |shots: usize, index: usize| {
            let prompt = self.style.prompt(subject, shots, &subject.questions[index]);
            prompt.encode(&self.tokenizer, self.template.as_ref())
        };
        (0..subject.questions.len())
            .into_par_iter()
            .map(|index| {
                let mut tokens = encode(self.shots, index)?;
                let mut shots = self.shots;
                while self.style == Style::Hendrycks && tokens.len() > most && shots > 0 {
                    shots -= 1;
                    tokens = encode(shots, index)?;
                }
                if self.style == Style::LmEval && tokens.len() > most {
                    tokens.drain(..tokens.len() - most);
                }
                Ok(tokens)
            })
            .collect()
    }
}

/// The report at `path` if it is of this recipe; an error if it is of another.
fn made_before(path: &Path, recipe: &Value, arguments: &Arguments) -> Result<Option<Report>> {
    if arguments.common.force || !path.exists() {
        return Ok(None);
    }
    let report = fs_err::read(path)?;
    let report =
        serde_json::from_slice::<Value>(&report).ok().filter(|report| report.get("recipe").is_some());
    let Some(report) = report else {
        return Err(
            error!("{} exists and is not a report", path.display()).hint("choose another name with -o")
        );
    };
    if report["recipe"] != *recipe {
        return Err(error!("{} exists and is of another evaluation", path.display())
            .hint("--force replaces it, -o chooses another name"));
    }
    if arguments.details.as_ref().is_some_and(|details| !details.exists()) {
        return Ok(None);
    }
    Ok(Report::from_json(&report))
}

/// Scores every subject that the journal beside the report does not hold yet.
fn score_all(
    directory: &Path,
    subjects: &[Subject],
    texts: &Texts,
    report: &Path,
    recipe: &Value,
    arguments: &Arguments,
) -> Result<Vec<Scored>> {
    let answers = texts.style.answer_tokens(&texts.tokenizer)?;
    let device = arguments.device.open()?;
    let model = match &arguments.base {
        Some(base) => Model::load_with_base(directory, base, &device)?,
        None => Model::load(directory, &device)?,
    };
    let tokens = arguments.pass_tokens.unwrap_or(match &device {
        Device::Cpu => HOST_PASS_TOKENS,
        Device::Cuda(_) => GPU_PASS_TOKENS,
    });
    let passes = Passes { tokens, share_prefix: !arguments.no_prefix_cache };
    let (mut journal, done) = Journal::open(report, recipe)?;
    if !done.is_empty() {
        cli::note(format_args!("{} of {} subjects are scored already", done.len(), subjects.len()));
    }
    let total: usize = subjects.iter().map(|subject| subject.questions.len()).sum();
    let progress = Progress::new("scoring", total as u64, Unit::Items("questions"));
    let mut scored = Vec::with_capacity(subjects.len());
    for subject in subjects {
        if let Some(done) = done.iter().find(|done| done.subject == subject.name) {
            progress.add(subject.questions.len() as u64);
            scored.push(done.clone());
            continue;
        }
        let prompts = texts.encode(subject, model.config().max_positions)?;
        let logprobs = score(&model, &prompts, answers, passes, |count| {
            progress.add(count as u64);
            let kept = || format!("stopped with {} of {} subjects scored", scored.len(), subjects.len());
            match cli::interrupted() {
                true => Err(Error::interrupted(kept()).hint("the same command goes on from there")),
                false => Ok(()),
            }
        })
        .with_context(|| subject.name.clone())?;
        let answers = subject.questions.iter().map(|question| question.answer).collect();
        scored.push(Scored { subject: subject.name.clone(), logprobs, answers });
        journal.add(&scored[scored.len() - 1])?;
    }
    journal.finish()?;
    Ok(scored)
}
