//! Ranks models by the questions they answer right, each with a report of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::Result;
use common::cli;
use common::data::hub;
use common::models::Models;
use common::text::Tokenizer;
use common::world::World;
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::identity::identity;
use crate::outputs::{Outputs, chart_of};
use crate::questions::layout::DOWNLOADED;
use crate::questions::{self, Selection, Style, Subject};
use crate::ranking;
use crate::report::{Report, ReportPlace, place};
use crate::rounds::{ModelOfRound, rounds};
use crate::scored::Scored;
use crate::scoring::{Pending, score_all};
use crate::texts::Texts;

/// Prints the accuracies of a model, or the ranking of several, which all ranks score together.
pub fn rank_by_accuracy(directories: &[PathBuf], arguments: &Arguments, world: &World) -> Result<()> {
    // A model that cannot be read is refused before questions are fetched.
    for directory in directories {
        arguments.model.expect_supported(directory)?;
    }
    let place = ReportPlace::new(directories, arguments.common.output.as_deref());
    let data = match &arguments.data {
        Some(data) => data.clone(),
        None => world.from_first(|| {
            hub::download(arguments.task.repository, "questions", &DOWNLOADED.map(str::to_owned))
        })?,
    };
    let selection = Selection {
        task: arguments.task,
        split: arguments.split(),
        shots: arguments.shots.into(),
        subjects: arguments.subjects.iter().map(|name| name.trim().replace(' ', "_")).collect(),
        limit: arguments.limit(),
    };
    let subjects = questions::load(&data, &selection)?;
    let device = world.device(arguments.model.device)?.open()?;
    world.compare(&device)?;
    let tokens = arguments.pass_tokens(&device);
    let mut models = Models::new(&arguments.model, device).for_scoring(tokens, world.size());
    let mut found = Vec::new();
    let at_once = if place::have_own_names(directories) { world.size() } else { 1 };
    for round in rounds(directories.len(), at_once) {
        let round: Vec<ModelOfRound> = round.map(|index| ModelOfRound { index, directories }).collect();
        found.extend(evaluate(&round, &place, &subjects, &mut models, arguments, world)?);
    }
    match &found[..] {
        [] => Ok(()),
        [(_, report)] => cli::answer(report.table()),
        _ => cli::answer(ranking::by_accuracy(found)),
    }
}

/// What rank 0 has of a report before its model is scored.
enum Begun {
    /// The report, which an earlier run has made, and its path.
    Made(Report, PathBuf),
    /// The files of the report, which is made now, and its path.
    Files(Outputs, PathBuf),
}

/// What is known of a model before it is scored.
enum Prepared<'a> {
    /// It was scored before. Rank 0 has the report.
    Made(Option<Report>),
    /// It is scored now.
    Pending(Box<Pending<'a>>),
}

/// Returns the reports of the models of a round, made now or before; none on other ranks than 0.
fn evaluate<'a>(
    round: &[ModelOfRound<'a>],
    place: &ReportPlace,
    subjects: &[Subject],
    models: &mut Models,
    arguments: &Arguments,
    world: &World,
) -> Result<Vec<(&'a Path, Report)>> {
    let (mut reports, mut pending) = (Vec::new(), Vec::new());
    for model in round {
        match model.name(prepare(*model, place, subjects, arguments, world))? {
            Prepared::Made(report) => reports.extend(report.map(|report| (model.index, report))),
            Prepared::Pending(model) => pending.push(*model),
        }
    }
    for some in rounds(pending.len(), world.size()) {
        let (some, begun) = (&mut pending[some], Instant::now());
        let scored = score_all(some, subjects, models, arguments, world)?;
        for (pending, scored) in some.iter_mut().zip(scored) {
            let Some(files) = pending.files.take() else { continue };
            let report = write(files, pending, &scored, begun.elapsed().as_secs_f64(), arguments);
            reports.push((pending.model.index, pending.model.name(report)?));
        }
    }
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(index, report)| (round[0].directories[index].as_path(), report)).collect())
}

/// Begins the report of a model on rank 0, or finds it.
fn prepare<'a>(
    model: ModelOfRound<'a>,
    place: &ReportPlace,
    subjects: &[Subject],
    arguments: &Arguments,
    world: &World,
) -> Result<Prepared<'a>> {
    let directory = model.directory();
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
    world.expect_same(|| Ok(shared(&recipe, arguments)))?;
    let begun = match world.is_first() {
        true => Some(begin(directory, place, &recipe, arguments)?),
        false => None,
    };
    let is_made = world.from_first(|| Ok(matches!(begun, Some(Begun::Made(..)))))?;
    let files = match begun {
        Some(Begun::Made(report, path)) => {
            cli::note(format_args!("{} is already made; --force makes it again", path.display()));
            let chart = report.chart(&directory.display().to_string());
            Outputs::complete(&path, arguments.details.as_deref(), &chart)?;
            return Ok(Prepared::Made(Some(report)));
        }
        None if is_made => return Ok(Prepared::Made(None)),
        Some(Begun::Files(outputs, path)) => Some((outputs, path)),
        None => None,
    };
    Ok(Prepared::Pending(Box::new(Pending { model, texts, recipe, files })))
}

/// Writes the report of a model that was scored in so many seconds.
fn write(
    (outputs, path): (Outputs, PathBuf),
    pending: &Pending,
    scored: &[Scored],
    seconds: f64,
    arguments: &Arguments,
) -> Result<Report> {
    let report = Report::new(arguments.task, scored);
    let mut header = Map::new();
    header.insert("recipe".into(), pending.recipe.clone());
    header.insert("seconds".into(), json!(seconds));
    outputs.write(
        &(serde_json::to_string_pretty(&report.json(header))? + "\n"),
        &report.chart(&pending.model.directory().display().to_string()),
        &scored.iter().map(Scored::details).collect::<String>(),
    )?;
    cli::note(format_args!("the report is in {}, a chart in {}", path.display(), chart_of(&path)?.display()));
    Ok(report)
}

/// What must be the same on all ranks. Models may lie at other paths.
fn shared(recipe: &Value, arguments: &Arguments) -> Map<String, Value> {
    let mut shared = recipe.as_object().cloned().unwrap_or_default();
    let model = shared.remove("model").unwrap_or_default();
    shared.insert("the model".into(), model["fingerprint"].clone());
    shared.insert("the base".into(), model["base"]["fingerprint"].clone());
    shared.insert("pass_tokens".into(), json!(arguments.pass_tokens));
    shared.insert("no_prefix_cache".into(), json!(arguments.no_prefix_cache));
    shared
}

/// Begins the report of a model, or finds it.
fn begin(directory: &Path, place: &ReportPlace, recipe: &Value, arguments: &Arguments) -> Result<Begun> {
    let path = place.of(directory, arguments.task, recipe)?;
    let details = arguments.details.as_deref();
    let (made, existing) = place::made_before(&path, recipe, details, arguments.common.force)?;
    if let Some(report) = made {
        return Ok(Begun::Made(report, path));
    }
    let mut inputs = arguments.inputs_of(directory)?;
    inputs.extend(arguments.data.clone());
    let outputs = Outputs::begin(&path, details, &inputs, existing, arguments.common.force)?;
    Ok(Begun::Files(outputs, path))
}

/// Reads what turns questions into the tokens of a model.
fn texts(directory: &Path, arguments: &Arguments) -> Result<Texts> {
    let files = arguments.model.text_files(directory)?;
    let tokenizer = Tokenizer::of(&files)?;
    let needs_template = arguments.style == Style::LlamaFactory;
    let template = needs_template.then(|| arguments.model.chat_template(&files, &tokenizer)).transpose()?;
    Ok(Texts { tokenizer, template, style: arguments.style, shots: arguments.shots.into() })
}
