//! Ranks models by the questions they answer right, each with a report of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::checkpoint::check_unchanged;
use common::cli::{self, OutputFile, Progress, Unit};
use common::data::hub;
use common::models::Models;
use common::text::Tokenizer;
use common::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::identity::identity;
use crate::journal::Journal;
use crate::outputs::{Outputs, chart_of};
use crate::questions::layout::DOWNLOADED;
use crate::questions::{self, Selection, Style, Subject};
use crate::ranking;
use crate::report::{Report, ReportPlace, place};
use crate::score::{Passes, score};
use crate::scored::Scored;
use crate::texts::Texts;

/// Prints the accuracies of a model, or the ranking of several.
pub fn rank_by_accuracy(directories: &[PathBuf], arguments: &Arguments) -> Result<()> {
    // A model that cannot be read is refused before questions are fetched.
    for directory in directories {
        arguments.model.expect_supported(directory)?;
    }
    let place = ReportPlace::new(directories, arguments.common.output.as_deref());
    let data = match &arguments.data {
        Some(data) => data.clone(),
        None => hub::download(arguments.task.repository, "questions", &DOWNLOADED.map(str::to_owned))?,
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

/// Returns the report of a model, made now or before.
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
        "task": arguments.task.name,
        "style": arguments.style.name(),
        "shots": arguments.shots,
        "split": arguments.split().name(),
        "limit": arguments.limit,
        "prompt_sha256": texts.hash(subjects)?,
    });
    let path = &place.of(directory, arguments.task, &recipe)?;
    let title = directory.display().to_string();
    let details = arguments.details.as_deref();
    let (made, existing) = place::made_before(path, &recipe, details, arguments.common.force)?;
    if let Some(report) = made {
        cli::note(format_args!("{} is already made; --force makes it again", path.display()));
        Outputs::complete(path, details, &report.chart(&title))?;
        return Ok(report);
    }
    let mut inputs = arguments.inputs_of(directory)?;
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

/// Reads what turns questions into the tokens of a model.
fn texts(directory: &Path, arguments: &Arguments) -> Result<Texts> {
    let files = arguments.model.text_files(directory)?;
    let tokenizer = Tokenizer::of(&files)?;
    let needs_template = arguments.style == Style::LlamaFactory;
    let template = needs_template.then(|| arguments.model.chat_template(&files, &tokenizer)).transpose()?;
    Ok(Texts { tokenizer, template, style: arguments.style, shots: arguments.shots.into() })
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
        let mut logprobs = score(model, &prompts, &answers, passes, |count| {
            progress.add(count as u64);
            let kept = || format!("stopped with {} of {} subjects scored", scored.len(), subjects.len());
            match cli::interrupted() {
                true => Err(Error::interrupted(kept()).hint("the same command goes on from there")),
                false => check_unchanged(),
            }
        })
        .with_context(|| subject.name.clone())?;
        // A question may have fewer choices than the task has letters.
        for (logprobs, question) in logprobs.iter_mut().zip(&subject.questions) {
            logprobs.truncate(question.choices.len());
        }
        let answers = subject.questions.iter().map(|question| question.answer).collect();
        scored.push(Scored { subject: subject.name.clone(), logprobs, answers });
        journal.add(report, &scored[scored.len() - 1])?;
    }
    Ok(scored)
}
