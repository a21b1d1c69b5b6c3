//! Runs multiple-choice questions through models: MMLU, CMMLU and C-Eval with the prompts of the
//! harness of a name. Computes losses on instruction data.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::checkpoint::check_unchanged;
use common::cli::{self, Destination, OutputFile, Progress, Tool, Unit};
use common::data::hub;
use common::device::Device;
use common::error::Kind;
use common::model::Config;
use common::text::Tokenizer;
use common::{Context, Error, Result, error, files};
use evaluate::compare::compare;
use evaluate::identity::identity;
use evaluate::journal::Journal;
use evaluate::loss::{FileLoss, examples, losses};
use evaluate::model::{self, ModelArguments, Models};
use evaluate::outputs::{Existing, Outputs, chart_of};
use evaluate::questions::{self, Selection, Split, Style, Subject, Task};
use evaluate::ranking;
use evaluate::report::{MOST_BYTES, Report, Scored};
use evaluate::report_name::report_name;
use evaluate::score::{Passes, score};
use evaluate::texts::Texts;
use serde_json::{Map, Value, json};

/// Tokens of a pass: enough that widening weights is a small part of it, few enough for the memory.
const HOST_PASS_TOKENS: usize = 2048;
const GPU_PASS_TOKENS: usize = 8192;
/// The files of a repository of questions that are of use.
const DOWNLOADED: [&str; 5] =
    ["*test-*.parquet", "*val-*.parquet", "*validation-*.parquet", "*dev-*.parquet", "*.zip"];

/// Score models on multiple-choice questions (MMLU, CMMLU, C-Eval), or compute their loss.
///
/// Prints accuracies by subject and category, and writes reports/MODEL-TASK.json with a chart beside
/// it; -o names another file. The questions of a subject share their five shots, which go through the
/// model once. A run that is stopped continues where it was when it is started again. Several models
/// are ranked, best first; adapters of one base share it.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  evaluate Qwen2.5-7B-Instruct-nf4
  evaluate out --data mmlu.zip --subjects astronomy,virology --limit 20 --details answers.jsonl
  evaluate out/checkpoint-* --task cmmlu --style llamafactory
  evaluate out/checkpoint-* --loss held-out.json
  merge out -o merged | evaluate --data mmlu
  evaluate --compare before.json after.json"
)]
struct Arguments {
    /// Models or adapters; read from standard input where none is given
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// Which questions are asked
    #[arg(long, value_enum, default_value_t)]
    task: Task,

    /// The questions: a directory or an archive as downloaded; fetched from the hub where not given
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Compute the loss on a file of instruction data, as lora-train does, and ask no questions
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "task", "data", "style", "shots", "split", "subjects", "no_prefix_cache",
    ])]
    loss: Option<PathBuf>,

    /// Keep no more tokens of an example than this, with --loss
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, requires = "loss")]
    cutoff_len: usize,

    /// Compare two reports of the same questions, and score nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["models", "data", "loss"])]
    compare: Vec<PathBuf>,

    /// Whose prompts are used
    #[arg(long, value_enum, default_value_t)]
    style: Style,

    /// How many answered questions come first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=5))]
    shots: u8,

    /// Which part of the questions is asked [default: test, of C-Eval val]
    #[arg(long, value_enum)]
    split: Option<Split>,

    /// Only these subjects, e.g. astronomy,virology
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<String>,

    /// Only the first N questions of each subject, or the first N rows of --loss
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Write a line of JSON for each question (logprobs, prediction, answer), or each row of --loss
    /// (loss, tokens)
    #[arg(long, value_name = "FILE")]
    details: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArguments,

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

impl Arguments {
    fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| limit as usize)
    }

    fn split(&self) -> Split {
        self.split.unwrap_or(self.task.split())
    }

    fn pass_tokens(&self, device: &Device) -> usize {
        self.pass_tokens.unwrap_or(match device {
            Device::Cpu => HOST_PASS_TOKENS,
            Device::Cuda(_) => GPU_PASS_TOKENS,
        })
    }
}

/// What to do about errors of a kind, in options that this tool has.
fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::TooLong => {
            Some("ask with fewer --shots, or keep fewer tokens of an example with --cutoff-len beside --loss")
        }
        _ => model::hint(kind),
    }
}

fn main() -> ExitCode {
    cli::run(Tool { name: "evaluate", hint }, run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let [first, second] = &arguments.compare[..] {
        return cli::answer(compare(first, second)?);
    }
    let (task, style) = (arguments.task, arguments.style);
    if arguments.model.template.is_some() && style != Style::LlamaFactory && arguments.loss.is_none() {
        return Err(Error::usage(format!("--template: --style {} prompts without one", style.name()))
            .hint("add --style llamafactory"));
    }
    if style == Style::Hendrycks && task != Task::Mmlu {
        return Err(
            Error::usage(format!("--style hendrycks asks MMLU, not {task}")).hint("leave --style out")
        );
    }
    let directories = cli::inputs(&arguments.models)?.directories_or_yaml()?;
    if directories.is_empty() {
        return Err(error!("no directory among the inputs").hint("name the directory of a model"));
    }
    if directories.len() > 1 && arguments.details.is_some() {
        return Err(Error::usage("--details: one model expected").hint("name the models one by one"));
    }
    match &arguments.loss {
        Some(file) => rank_by_loss(&directories, file, &arguments),
        None => rank_by_accuracy(&directories, &arguments),
    }
}

/// Prints the losses of all models, best first, and writes them where -o says.
fn rank_by_loss(directories: &[PathBuf], file: &Path, arguments: &Arguments) -> Result<()> {
    let (mut output, mut details) = loss_files(directories, file, arguments)?;
    let mut models = Models::new(&arguments.model)?.for_scoring();
    // The details are of each example, so each has a pass of its own.
    let tokens = if arguments.details.is_some() { 1 } else { arguments.pass_tokens(models.device()) };
    let (mut found, mut entries) = (Vec::new(), Vec::new());
    for directory in directories {
        let files = arguments.model.text_files(directory)?;
        let tokenizer = Tokenizer::of(&files)?;
        let template = arguments.model.chat_template(&files, &tokenizer)?;
        let examples = examples(file, arguments.limit(), arguments.cutoff_len, &tokenizer, &template)?;
        // Of the files as they are read: afterwards they may be others.
        let identity = match &output {
            Some(_) => identity(directory, arguments.model.base_of(directory)?.as_deref())?,
            None => Value::Null,
        };
        let passes = losses(models.load(directory)?, &examples.examples, tokens)
            .with_context(|| directory.display().to_string())?;
        if let Some(details) = &mut details {
            details.fill(|path| Ok(fs_err::write(path, examples.details(&passes))?))?;
        }
        let loss = FileLoss::new(examples.examples.len(), &passes);
        let FileLoss { tokens, examples, .. } = loss;
        entries.push(json!({
            "model": identity,
            "loss": loss.mean(),
            "perplexity": loss.perplexity(),
            "tokens": tokens,
            "examples": examples,
        }));
        found.push((directory.as_path(), loss));
    }
    if let Some(output) = &mut output {
        let report = json!({"data": file.display().to_string(), "cutoff_len": arguments.cutoff_len, "models": entries});
        output.fill(|path| Ok(fs_err::write(path, serde_json::to_string_pretty(&report)? + "\n")?))?;
    }
    output.iter_mut().chain(&mut details).try_for_each(OutputFile::place)?;
    output.into_iter().chain(details).for_each(OutputFile::finish);
    cli::answer(ranking::by_loss(found))
}

/// The files that losses are written to, begun before anything is computed.
fn loss_files(
    directories: &[PathBuf],
    file: &Path,
    arguments: &Arguments,
) -> Result<(Option<OutputFile>, Option<OutputFile>)> {
    let mut inputs = vec![file.to_path_buf()];
    for directory in directories {
        inputs.extend(inputs_of(directory, arguments)?);
    }
    let begin = |path: &PathBuf, inputs: &[PathBuf]| {
        OutputFile::begin(&Destination::file(path, inputs)?, arguments.common.force, "evaluate")
    };
    let output = arguments.common.output.as_ref();
    // What is placed last begins first, so that a run after a kill finds it.
    let details = arguments.details.as_ref().map(|details| begin(details, &inputs)).transpose()?;
    inputs.extend(arguments.details.clone());
    Ok((output.map(|output| begin(output, &inputs)).transpose()?, details))
}

/// What is read of a model: its directory and, of an adapter, its base.
fn inputs_of(directory: &Path, arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let base = arguments.model.base_of(directory)?;
    Ok([directory.to_path_buf()].into_iter().chain(base).collect())
}

/// Prints the accuracies of a model, or the ranking of several.
fn rank_by_accuracy(directories: &[PathBuf], arguments: &Arguments) -> Result<()> {
    // A model that cannot be read is said before questions are fetched.
    for directory in directories {
        let base = arguments.model.base_of(directory)?;
        Config::read(base.as_deref().unwrap_or(directory))?;
    }
    let place = ReportPlace::new(directories, arguments);
    let data = match &arguments.data {
        Some(data) => data.clone(),
        None => hub::download(arguments.task.repository(), "questions", &DOWNLOADED.map(str::to_owned))?,
    };
    let selection = Selection {
        task: arguments.task,
        split: arguments.split(),
        shots: arguments.shots.into(),
        subjects: arguments.subjects.iter().map(|name| name.trim().replace(' ', "_")).collect(),
        limit: arguments.limit(),
    };
    let subjects = questions::load(&data, &selection)?;
    let mut models = Models::new(&arguments.model)?.for_scoring();
    let mut found = Vec::new();
    for directory in directories {
        let report = evaluate(directory, &place, &subjects, &mut models, arguments);
        let several =
            || format!("{} of {} models, {}", found.len() + 1, directories.len(), directory.display());
        found.push((
            directory.as_path(),
            if directories.len() > 1 { report.with_context(several)? } else { report? },
        ));
    }
    match &found[..] {
        [(_, report)] => cli::answer(report.table()),
        _ => cli::answer(ranking::by_accuracy(found)),
    }
}

/// Where reports go.
enum ReportPlace {
    /// To this file, the only one.
    File(PathBuf),
    /// Into this directory, under names of their own.
    Folder(PathBuf),
}

impl ReportPlace {
    fn new(directories: &[PathBuf], arguments: &Arguments) -> Self {
        match (&arguments.common.output, directories.len()) {
            (Some(file), 1) => Self::File(file.clone()),
            (output, _) => Self::Folder(output.clone().unwrap_or_else(|| "reports".into())),
        }
    }

    /// The report of `model`, evaluated as `recipe` says.
    fn of(&self, model: &Path, task: Task, recipe: &Value) -> Result<PathBuf> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Folder(folder) => {
                fs_err::create_dir_all(folder).hint("-o names the directory of the reports")?;
                Ok(report_name(folder, model, task, recipe))
            }
        }
    }
}

/// The report of a model, made now or before.
fn evaluate(
    directory: &Path,
    place: &ReportPlace,
    subjects: &[Subject],
    models: &mut Models,
    arguments: &Arguments,
) -> Result<Report> {
    let texts = texts(directory, arguments)?;
    let base = arguments.model.base_of(directory)?;
    let recipe = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": identity(directory, base.as_deref())?,
        "task": arguments.task.name(),
        "style": arguments.style.name(),
        "shots": arguments.shots,
        "split": arguments.split().name(),
        "limit": arguments.limit,
        "prompt_sha256": texts.hash(subjects)?,
    });
    let path = &place.of(directory, arguments.task, &recipe)?;
    let title = directory.display().to_string();
    let details = arguments.details.as_deref();
    let (made, existing) = made_before(path, &recipe, arguments)?;
    if let Some(report) = made {
        cli::note(format_args!("{} is already made; --force makes it again", path.display()));
        Outputs::complete(path, details, &report.chart(&title))?;
        return Ok(report);
    }
    let mut inputs = inputs_of(directory, arguments)?;
    inputs.extend(arguments.data.clone());
    let mut outputs = Outputs::begin(path, details, &inputs, existing, arguments.common.force)?;
    let begun = Instant::now();
    let scored = score_all(directory, subjects, &texts, &mut outputs.report, &recipe, models, arguments)?;
    let report = Report::new(arguments.task, &scored);
    let mut header = Map::new();
    header.insert("recipe".into(), recipe);
    header.insert("seconds".into(), json!(begun.elapsed().as_secs_f64()));
    outputs.write(
        &(serde_json::to_string_pretty(&report.json(header))? + "\n"),
        &report.chart(&title),
        &scored.iter().map(Scored::details).collect::<String>(),
    )?;
    cli::note(format_args!("the report is in {}, a chart in {}", path.display(), chart_of(path)?.display()));
    Ok(report)
}

fn texts(directory: &Path, arguments: &Arguments) -> Result<Texts> {
    let files = arguments.model.text_files(directory)?;
    let tokenizer = Tokenizer::of(&files)?;
    let needs_template = arguments.style == Style::LlamaFactory;
    let template = needs_template.then(|| arguments.model.chat_template(&files, &tokenizer)).transpose()?;
    Ok(Texts { tokenizer, template, style: arguments.style, shots: arguments.shots.into() })
}

/// The report at `path` if it is of this recipe and nothing is missing beside it, and what is there
/// otherwise; an error if that is of another.
fn made_before(path: &Path, recipe: &Value, arguments: &Arguments) -> Result<(Option<Report>, Existing)> {
    let force = arguments.common.force;
    if path.symlink_metadata().is_err() {
        return Ok((None, Existing::default()));
    }
    let report = files::read(path, MOST_BYTES).hint("-o names the file of a report")?;
    let report =
        serde_json::from_slice::<Value>(&report).ok().filter(|report| report.get("recipe").is_some());
    let Some(report) = report else {
        return match force {
            true => Ok((None, Existing::default())),
            false => {
                Err(error!("{} exists and is not a report", path.display())
                    .hint("choose another name with -o"))
            }
        };
    };
    let existing = Existing { is_report: true, is_same: report["recipe"] == *recipe };
    if force {
        return Ok((None, existing));
    }
    if !existing.is_same {
        return Err(error!("{} exists and is of another evaluation", path.display())
            .hint("--force replaces it, -o chooses another name"));
    }
    if arguments.details.as_ref().is_some_and(|details| !details.exists()) {
        return Ok((None, existing));
    }
    Ok((Report::from_json(&report), existing))
}

/// Scores every subject that the journal beside the report does not hold yet.
fn score_all(
    directory: &Path,
    subjects: &[Subject],
    texts: &Texts,
    report: &mut OutputFile,
    recipe: &Value,
    models: &mut Models,
    arguments: &Arguments,
) -> Result<Vec<Scored>> {
    let answers = texts.answers(arguments.task)?;
    let passes =
        Passes { tokens: arguments.pass_tokens(models.device()), share_prefix: !arguments.no_prefix_cache };
    let model = models.load(directory)?;
    let (mut journal, done) = Journal::open(report, recipe)?;
    let before = subjects.iter().filter(|subject| done.iter().any(|done| done.is_of(subject))).count();
    if before > 0 {
        cli::note(format_args!("{before} of {} subjects are scored already", subjects.len()));
    }
    let total: usize = subjects.iter().map(|subject| subject.questions.len()).sum();
    let progress = Progress::new("scoring", total as u64, Unit::Items("questions"));
    let mut scored = Vec::with_capacity(subjects.len());
    for subject in subjects {
        if let Some(done) = done.iter().find(|done| done.is_of(subject)) {
            progress.add(subject.questions.len() as u64);
            scored.push(done.clone());
            continue;
        }
        let prompts = texts.encode(subject, model.config().max_positions)?;
        let logprobs = score(model, &prompts, answers, passes, |count| {
            progress.add(count as u64);
            let kept = || format!("stopped with {} of {} subjects scored", scored.len(), subjects.len());
            match cli::interrupted() {
                true => Err(Error::interrupted(kept()).hint("the same command goes on from there")),
                false => check_unchanged(),
            }
        })
        .with_context(|| subject.name.clone())?;
        let answers = subject.questions.iter().map(|question| question.answer).collect();
        scored.push(Scored { subject: subject.name.clone(), logprobs, answers });
        journal.add(report, &scored[scored.len() - 1])?;
    }
    Ok(scored)
}
