//! Ranks models by the questions they answer right, each with a report of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::checkpoint::check_unchanged;
use common::cli::{self, OutputFile, Progress, Unit};
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
    for (index, directory) in directories.iter().enumerate() {
        let report = evaluate(directory, &place, &subjects, &mut models, arguments, world);
        let several = || format!("{} of {} models, {}", index + 1, directories.len(), directory.display());
        let report = if directories.len() > 1 { report.with_context(several)? } else { report? };
        found.extend(report.map(|report| (directory.as_path(), report)));
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

/// Returns the report of a model, made now or before; `None` on every rank but 0.
fn evaluate(
    directory: &Path,
    place: &ReportPlace,
    subjects: &[Subject],
    models: &mut Models,
    arguments: &Arguments,
    world: &World,
) -> Result<Option<Report>> {
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
    let title = directory.display().to_string();
    let begun = match world.is_first() {
        true => Some(begin(directory, place, &recipe, arguments)?),
        false => None,
    };
    let is_made = world.from_first(|| Ok(matches!(begun, Some(Begun::Made(..)))))?;
    let mut files = match begun {
        Some(Begun::Made(report, path)) => {
            cli::note(format_args!("{} is already made; --force makes it again", path.display()));
            Outputs::complete(&path, arguments.details.as_deref(), &report.chart(&title))?;
            return Ok(Some(report));
        }
        None if is_made => return Ok(None),
        Some(Begun::Files(outputs, path)) => Some((outputs, path)),
        None => None,
    };
    let begun = Instant::now();
    let report = files.as_mut().map(|(outputs, _)| &mut outputs.report);
    let scored = score_all(directory, subjects, &texts, (report, &recipe), models, arguments, world)?;
    let Some((outputs, path)) = files else { return Ok(None) };
    let report = Report::new(arguments.task, &scored);
    let mut header = Map::new();
    header.insert("recipe".into(), recipe);
    header.insert("seconds".into(), json!(begun.elapsed().as_secs_f64()));
    outputs.write(
        &(serde_json::to_string_pretty(&report.json(header))? + "\n"),
        &report.chart(&title),
        &scored.iter().map(Scored::details).collect::<String>(),
    )?;
    cli::note(format_args!("the report is in {}, a chart in {}", path.display(), chart_of(&path)?.display()));
    Ok(Some(report))
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

/// Scores every subject that the journal beside the report does not hold yet, together with the other ranks.
/// Returns the scores of all subjects on rank 0, which alone has the report; nothing elsewhere.
fn score_all(
    directory: &Path,
    subjects: &[Subject],
    texts: &Texts,
    (report, recipe): (Option<&mut OutputFile>, &Value),
    models: &mut Models,
    arguments: &Arguments,
    world: &World,
) -> Result<Vec<Scored>> {
    let answers = texts.answers(arguments.task)?;
    let passes =
        Passes { tokens: arguments.pass_tokens(models.device()), share_prefix: !arguments.no_prefix_cache };
    let model = models.load(directory)?;
    let mut kept = None;
    let mut before = vec![None; subjects.len()];
    if let Some(report) = report {
        let (journal, done) = Journal::open(report, recipe)?;
        for (subject, before) in subjects.iter().zip(&mut before) {
            *before = done.iter().find(|done| done.is_of(subject)).cloned();
        }
        kept = Some((journal, report));
    }
    let count = before.iter().flatten().count();
    if count > 0 {
        cli::note(format_args!("{count} of {} subjects are scored already", subjects.len()));
    }
    let left: Vec<usize> =
        world.from_first(|| Ok((0..subjects.len()).filter(|&index| before[index].is_none()).collect()))?;
    let parts = Parts::new(left.iter().map(|&index| &subjects[index]), world.size());
    let total: usize = subjects.iter().map(|subject| subject.questions.len()).sum();
    let progress = Progress::new("scoring", total as u64, Unit::Items("questions"));
    let done = subjects.iter().zip(&before).filter(|(_, before)| before.is_some());
    progress.add(done.map(|(subject, _)| subject.questions.len() as u64).sum());
    let mut collector =
        kept.map(|kept| Collector::new(world, (subjects, &left), &parts, before, kept, &progress));
    for (place, &index) in left.iter().enumerate() {
        if !parts.ranks_of(place).contains(&world.rank()) {
            continue;
        }
        let subject = &subjects[index];
        let prompts = texts.encode(subject, model.config().max_positions)?;
        let own = |pass| parts.rank_of(place, pass) == world.rank();
        let scores = score(model, &prompts, &answers, passes, own, |count| {
            progress.add(count as u64);
            if let Some(collector) = &mut collector {
                collector.take_sent()?;
            }
            let whole = collector.as_ref().map_or(0, Collector::whole);
            let kept = || format!("stopped with {whole} of {} subjects scored", subjects.len());
            match cli::interrupted() {
                true => Err(Error::interrupted(kept()).hint("the same command goes on from there")),
                false => check_unchanged(),
            }
        })
        .with_context(|| subject.name.clone())?;
        let found = Found::new(place, &scores);
        match &mut collector {
            Some(collector) => collector.take(world.rank(), found)?,
            None => world.send(&found)?,
        }
    }
    collector.map_or(Ok(Vec::new()), Collector::finish)
}
