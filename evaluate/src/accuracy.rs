//! Ranks models by the questions they answer right, each with a report of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::checkpoint::check_unchanged;
use common::cli::{self, Progress, Unit};
use common::data::hub;
use common::models::Models;
use common::text::Tokenizer;
use common::world::World;
use common::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::collector::{Collector, Found};
use crate::identity::identity;
use crate::journal::Journal;
use crate::outputs::{Outputs, chart_of};
use crate::parts::Parts;
use crate::questions::layout::DOWNLOADED;
use crate::questions::{self, Selection, Style, Subject};
use crate::ranking;
use crate::report::{Report, ReportPlace, place};
use crate::rounds::{ranks_of, rounds};
use crate::score::{Passes, score};
use crate::scored::Scored;
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

/// One of the models that the tool is called with.
#[derive(Clone, Copy)]
struct ModelOfRound<'a> {
    index: usize,
    directories: &'a [PathBuf],
}

impl<'a> ModelOfRound<'a> {
    fn directory(self) -> &'a Path {
        &self.directories[self.index]
    }

    /// Says of an error which of several models it is about.
    fn name<T>(self, result: Result<T>) -> Result<T> {
        let Self { index, directories } = self;
        let several =
            || format!("{} of {} models, {}", index + 1, directories.len(), directories[index].display());
        if directories.len() > 1 { result.with_context(several) } else { result }
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

/// A model that is scored now.
struct Pending<'a> {
    model: ModelOfRound<'a>,
    texts: Texts,
    recipe: Value,
    /// On rank 0, the files of the report, and its path.
    files: Option<(Outputs, PathBuf)>,
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

/// Scores every subject that the journals beside the reports do not hold yet, together with the other ranks: one model
/// by all of them, or one model by each. Returns the scores of all subjects of each model on rank 0, which alone has the
/// reports; nothing elsewhere.
fn score_all(
    pending: &mut [Pending],
    subjects: &[Subject],
    models: &mut Models,
    arguments: &Arguments,
    world: &World,
) -> Result<Vec<Vec<Scored>>> {
    let count = pending.len();
    let own = if count == 1 { 0 } else { world.rank() };
    let (named, directory) = (pending[own].model, pending[own].model.directory());
    let answers = named.name(pending[own].texts.answers(arguments.task))?;
    let passes =
        Passes { tokens: arguments.pass_tokens(models.device()), share_prefix: !arguments.no_prefix_cache };
    let model = named.name(match count {
        1 => models.load_among(directory, world),
        _ => models.load(directory),
    })?;
    let (mut texts, mut kept) = (Vec::new(), Vec::new());
    for Pending { model, texts: of_model, recipe, files } in pending {
        texts.push(&*of_model);
        let Some((outputs, _)) = files else { continue };
        let (journal, done) = model.name(Journal::open(&mut outputs.report, recipe))?;
        let of_subject = |subject: &Subject| done.iter().find(|done| done.is_of(subject)).cloned();
        let before: Vec<Option<Scored>> = subjects.iter().map(of_subject).collect();
        let done = before.iter().flatten().count();
        if done > 0 {
            cli::note(format_args!("{done} of {} subjects are scored already", subjects.len()));
        }
        kept.push((before, (journal, &mut outputs.report)));
    }
    let left: Vec<Vec<usize>> = world.from_first(|| {
        let left = |before: &[Option<Scored>]| (0..subjects.len()).filter(|&i| before[i].is_none()).collect();
        Ok(kept.iter().map(|(before, _)| left(before)).collect())
    })?;
    let parts = |(index, left): (usize, &Vec<usize>)| {
        Parts::new(left.iter().map(|&index| &subjects[index]), ranks_of(index, count, world.size()))
    };
    let parts: Vec<Parts> = left.iter().enumerate().map(parts).collect();
    let questions = |subject: &Subject| subject.questions.len() as u64;
    let total: u64 = subjects.iter().map(questions).sum();
    let progress = Progress::new("scoring", count as u64 * total, Unit::Items("questions"));
    let mut collectors = Vec::new();
    for ((before, kept), (left, parts)) in kept.into_iter().zip(left.iter().zip(&parts)) {
        let done = subjects.iter().zip(&before).filter(|(_, before)| before.is_some());
        progress.add(done.map(|(subject, _)| questions(subject)).sum());
        collectors.push(Collector::new(world, (subjects, left), parts, before, kept, &progress));
    }
    let (left, parts, texts) = (&left[own], &parts[own], texts[own]);
    for (place, &index) in left.iter().enumerate() {
        if !parts.ranks_of(place).contains(&world.rank()) {
            continue;
        }
        let subject = &subjects[index];
        let prompts = named.name(texts.encode(subject, model.config().max_positions))?;
        let is_own = |pass| parts.rank_of(place, pass) == world.rank();
        let scores = score(model, &prompts, &answers, passes, is_own, |scored| {
            progress.add(scored as u64);
            collectors.iter_mut().try_for_each(Collector::take_sent)?;
            let whole: usize = collectors.iter().map(Collector::whole).sum();
            let kept = || format!("stopped with {whole} of {} subjects scored", count * subjects.len());
            match cli::interrupted() {
                true => Err(Error::interrupted(kept()).hint("the same command goes on from there")),
                false => check_unchanged(),
            }
        });
        let scores = named.name(scores.with_context(|| subject.name.clone()))?;
        let found = Found::new(place, &scores);
        match collectors.get_mut(own) {
            Some(collector) => collector.take(world.rank(), found)?,
            None => world.send(&found)?,
        }
    }
    collectors.into_iter().map(Collector::finish).collect()
}
