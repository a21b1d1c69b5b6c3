//! The thread that computes: it owns the weights, gives answers their places, and lets them take turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use common::error::Kind;
use common::files::check_unchanged;
use common::{Error, Result, cli};

use super::catalog::Catalog;
use super::metrics::Metrics;
use super::openai::Problem;
use super::places::Places;
use super::queue::{Job, Jobs, Progress};
use super::turn::{Around, send, take_turn};
use super::weights::Weights;

/// How long a wait for jobs is before it looks at whether to stop.
const IDLE: Duration = Duration::from_millis(50);
/// How long a wait is where every client has yet to read what there is for it.
const STALLED: Duration = Duration::from_millis(5);

/// Gives answers their places, and takes turns.
pub(crate) struct Scheduler<'a> {
    catalog: &'a Catalog,
    weights: Weights,
    metrics: Arc<Metrics>,
    jobs: Jobs,
    waiting: VecDeque<Job>,
    places: Places<'a>,
}

impl<'a> Scheduler<'a> {
    /// Answers `jobs`, at most `most_places` at a time.
    pub(crate) fn new(
        catalog: &'a Catalog,
        weights: Weights,
        jobs: Jobs,
        most_places: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let places = Places::new(catalog, most_places, weights.room());
        Self { catalog, weights, metrics, jobs, waiting: VecDeque::new(), places }
    }

    /// Answers until a signal asks to stop, or a file of the models changes.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut wait = IDLE;
        loop {
            cli::check_interrupted()?;
            self.receive(wait)?;
            self.forget_abandoned();
            for (job, problem) in self.places.begin(&mut self.waiting, &self.weights, &self.metrics) {
                self.fail(&job, &problem);
            }
            if self.places.running() > 0 {
                check_unchanged()?;
            }
            let has_moved = self.take_turn();
            let running = self.places.running();
            self.metrics.running.set(running);
            self.metrics.waiting.set(self.waiting.len());
            wait = match (has_moved, running) {
                (true, _) => Duration::ZERO,
                (false, 0) => IDLE,
                (false, _) => STALLED,
            };
        }
    }

    /// Takes the jobs that have come; waits for one where nothing else is to do.
    fn receive(&mut self, wait: Duration) -> Result<()> {
        let mut next = self.jobs.next(wait)?;
        while let Some(job) = next {
            self.waiting.push_back(job);
            next = self.jobs.next(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Forgets the answers that nothing reads any more.
    fn forget_abandoned(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|job| !job.events.is_closed());
        self.metrics.abandoned.add(before - self.waiting.len());
        for place in self.places.iter_mut() {
            if place.answer.take_if(|answer| answer.job.events.is_closed()).is_some() {
                self.metrics.abandoned.add(1);
            }
        }
    }

    /// Takes one turn. Returns whether any answer has taken a step.
    fn take_turn(&mut self) -> bool {
        let around = Around { catalog: self.catalog, metrics: &self.metrics };
        let outcomes = take_turn(&mut self.places, &mut self.weights, around);
        let has_moved = !outcomes.is_empty();
        let mut lost = Vec::new();
        let mut places: Vec<_> = self.places.iter_mut().collect();
        for (index, outcome) in outcomes {
            match outcome {
                Ok(true) => places[index].answer = None,
                Ok(false) => {}
                Err(problem) => lost.push((index, problem)),
            }
        }
        self.give_up(lost);
        has_moved
    }

    /// Tells clients that their answers cannot be computed, and gives up their places, in ascending order, because what
    /// a failure has left of the text there is not known.
    fn give_up(&mut self, lost: Vec<(usize, Error)>) {
        let is_full = lost.iter().any(|(_, problem)| problem.kind() == Kind::OutOfMemory);
        for (index, problem) in lost.into_iter().rev() {
            if let Some(answer) = self.places.remove(index).answer {
                self.fail(&answer.job, &problem);
            }
        }
        if is_full {
            self.places.give_up_idle();
        }
    }

    /// Tells a client that its answer cannot be computed.
    fn fail(&self, job: &Job, problem: &Error) {
        cli::warn(format_args!("{}: {problem}", self.catalog.entries[job.model].id));
        self.metrics.failed.add(1);
        send(job, Progress::Failed(Problem::of_server(problem)));
    }
}
