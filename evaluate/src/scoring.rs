//! Scores models on all subjects, together with the other ranks.
//!
//! All prompts are encoded while the model is loaded. So all passes are known before the first one, and are dealt to the
//! ranks by what they take.

use std::path::PathBuf;
use std::time::Instant;

use common::checkpoint::check_unchanged;
use common::cli::{self, OutputFile, Progress, Unit};
use common::models::Models;
use common::world::World;
use common::{Context, Error, Result};
use serde_json::Value;

use crate::arguments::Arguments;
use crate::collector::{Collector, Found};
use crate::journal::Journal;
use crate::outputs::Outputs;
use crate::parts::{Costs, Part, deal};
use crate::passes::{PassOptions, SubjectPasses};
use crate::questions::Subject;
use crate::rounds::{ModelOfRound, ranks_of};
use crate::score::{self, Pass, score};
use crate::scored::Scored;
use crate::texts::Texts;

/// A model that is scored now.
pub struct Pending<'a> {
    /// The model.
    pub model: ModelOfRound<'a>,
    /// What turns questions into the tokens of the model.
    pub texts: Texts,
    /// What the scores depend on.
    pub recipe: Value,
    /// On rank 0, the files of the report, and its path.
    pub files: Option<(Outputs, PathBuf)>,
}

/// On rank 0, what is known of the scores of a model, and where more are kept.
struct Kept<'a> {
    /// The scores of each subject that the journal has.
    scored: Vec<Option<Scored>>,
    journal: Journal,
    report: &'a mut OutputFile,
}

impl<'a> Kept<'a> {
    /// Opens the journal beside a report.
    fn open(report: &'a mut OutputFile, recipe: &Value, subjects: &[Subject]) -> Result<Self> {
        let (journal, done) = Journal::open(report, recipe)?;
        let of_subject = |subject: &Subject| done.iter().find(|done| done.is_of(subject)).cloned();
        let scored: Vec<Option<Scored>> = subjects.iter().map(of_subject).collect();
        let done = scored.iter().flatten().count();
        if done > 0 {
            cli::note(format_args!("{done} of {} subjects are scored already", subjects.len()));
        }
        Ok(Self { scored, journal, report })
    }

    /// Returns the indices of the subjects that are left to score.
    fn left(&self) -> Vec<usize> {
        (0..self.scored.len()).filter(|&index| self.scored[index].is_none()).collect()
    }
}

/// Scores every subject that the journals beside the reports do not hold yet, together with the other ranks: one model
/// by all of them, or one model by each. Returns the scores of all subjects of each model on rank 0, which alone has the
/// reports; nothing elsewhere.
pub fn score_all(
    pending: &mut [Pending],
    subjects: &[Subject],
    models: &mut Models,
    arguments: &Arguments,
    world: &World,
) -> Result<Vec<Vec<Scored>>> {
    let count = pending.len();
    let own = if count == 1 { 0 } else { world.rank() };
    let named = pending[own].model;
    let answers = named.name(pending[own].texts.answers(arguments.task))?;
    let (mut texts, mut kept) = (Vec::new(), Vec::new());
    for Pending { model, texts: of_model, recipe, files } in pending {
        texts.push(&*of_model);
        if let Some((outputs, _)) = files {
            kept.push(model.name(Kept::open(&mut outputs.report, recipe, subjects))?);
        }
    }
    let left: Vec<Vec<usize>> = world.from_first(|| Ok(kept.iter().map(Kept::left).collect()))?;
    let asked: Vec<&Subject> = left[own].iter().map(|&index| &subjects[index]).collect();
    let most = named.name(arguments.model.config(named.directory()))?.max_positions;
    let options = PassOptions {
        tokens: arguments.pass_tokens(models.device()),
        share_prefix: !arguments.no_prefix_cache,
    };
    // All ranks encode at the same time, and each has a thread besides that loads.
    let threads = rayon::current_num_threads().div_ceil(world.size());
    let (model, prompts) = named.name(texts[own].encode_beside(&asked, most, threads, || match count {
        1 => models.load_among(named.directory(), world),
        _ => models.load(named.directory()),
    }))?;
    let cut = |(subject, prompts): (&&Subject, Vec<Vec<u32>>)| {
        score::passes(model, prompts, options).with_context(|| subject.name.clone())
    };
    let passes: Vec<SubjectPasses> = named.name(asked.iter().zip(prompts).map(cut).collect())?;
    let costs: Vec<Costs> = passes.iter().map(Costs::of).collect();
    let ranks = ranks_of(own, count, world.size());
    let parts = deal(&costs, ranks.len());
    say_parts(&parts);
    let total: usize = subjects.iter().map(|subject| subject.questions.len()).sum();
    let progress = Progress::new("scoring", (count * total) as u64, Unit::Items("questions"));
    let mut collectors = Vec::new();
    for (index, Kept { scored, journal, report }) in kept.into_iter().enumerate() {
        let owed = match count {
            1 => parts.iter().map(|part| questions_of(part, &passes)).collect(),
            // Each rank scores a model of its own.
            _ => {
                let all = left[index].iter().map(|&index| subjects[index].questions.len()).sum();
                (0..world.size()).map(|rank| if rank == index { all } else { 0 }).collect()
            }
        };
        let place = (subjects, left[index].as_slice());
        collectors.push(Collector::new(world, place, owed, scored, (journal, report), &progress));
    }
    let begun = Instant::now();
    let part = parts[world.rank() - ranks.start].passes.iter().map(|at| Pass {
        name: &asked[at.subject].name,
        subject: at.subject,
        passes: &passes[at.subject],
        index: at.pass,
    });
    let scored = score(model, &answers, part, |pass, rows| {
        let found = Found::new(pass.subject, pass.questions(), &rows);
        match collectors.get_mut(own) {
            Some(collector) => collector.take(world.rank(), found)?,
            None => world.send(&found)?,
        }
        collectors.iter_mut().try_for_each(Collector::take_sent)?;
        let whole: usize = collectors.iter().map(Collector::whole).sum();
        let stopped = || format!("stopped with {whole} of {} subjects scored", count * subjects.len());
        let may_continue = match cli::interrupted() {
            true => Err(Error::interrupted(stopped()).hint("the same command goes on from there")),
            false => check_unchanged(),
        };
        may_continue.with_context(|| pass.name.to_owned())
    });
    named.name(scored)?;
    let taken = begun.elapsed();
    let scored = collectors.into_iter().map(Collector::finish).collect();
    if world.size() > 1 {
        let (taken, waited) = (taken.as_secs_f64(), (begun.elapsed() - taken).as_secs_f64());
        cli::verbose(format_args!("scored in {taken:.1} s, and waited {waited:.1} s for other ranks"));
    }
    scored
}

/// Returns the number of questions in a part of the passes.
fn questions_of(part: &Part, passes: &[SubjectPasses]) -> usize {
    part.passes.iter().map(|at| passes[at.subject].prompts_of(at.pass).len()).sum()
}

/// Says how evenly passes are dealt to several ranks.
fn say_parts(parts: &[Part]) {
    let passes: usize = parts.iter().map(|part| part.passes.len()).sum();
    let largest = parts.iter().map(|part| part.cost).max().unwrap_or(0);
    let all: u64 = parts.iter().map(|part| part.cost).sum();
    if parts.len() > 1 && all > 0 {
        let above = 100.0 * (largest as f64 * parts.len() as f64 / all as f64 - 1.0);
        cli::verbose(format_args!(
            "{passes} passes in {} parts, the largest of which is {above:.1} % above the mean",
            parts.len()
        ));
    }
}
