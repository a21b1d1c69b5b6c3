//! The thread that computes: it owns the weights, and lets all answers take turns, token by token.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use common::error::Kind;
use common::files::check_unchanged;
use common::generate::{Event, Session};
use common::{Error, Result, cli};

use super::catalog::Catalog;
use super::metrics::Metrics;
use super::openai::{Problem, TokenLogprob};
use super::queue::{Job, Jobs, Progress};
use super::weights::{AdapterEngine, Weights};

/// How long a wait for jobs is before it looks at whether to stop.
const IDLE: Duration = Duration::from_millis(50);
/// How long a wait is where every client has yet to read what there is for it.
const STALLED: Duration = Duration::from_millis(5);

/// Gives answers their places, and takes one step of each in turn.
pub(crate) struct Scheduler<'a> {
    catalog: &'a Catalog,
    weights: &'a Weights,
    metrics: Arc<Metrics>,
    jobs: Jobs,
    waiting: VecDeque<Job>,
    /// The sessions, ordered by their models, so that a turn changes adapters as rarely as it can.
    places: Vec<Place<'a>>,
    most_places: usize,
    /// The number of answers that have begun.
    begun: u64,
}

/// A session with the keys and values of its last text, and the answer that is being written there.
struct Place<'a> {
    model: usize,
    session: Session<'a, AdapterEngine<'a>>,
    answer: Option<Answer>,
    /// Which of all answers was begun here last.
    begun: u64,
}

struct Answer {
    job: Job,
    tokens: usize,
}

impl<'a> Scheduler<'a> {
    /// Answers `jobs` in at most `most_places` sessions.
    pub(crate) fn new(
        (catalog, weights): (&'a Catalog, &'a Weights),
        jobs: Jobs,
        most_places: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (waiting, places) = (VecDeque::new(), Vec::new());
        Self { catalog, weights, metrics, jobs, waiting, places, most_places, begun: 0 }
    }

    /// Answers until a signal asks to stop, or a file of the models changes.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut wait = IDLE;
        loop {
            cli::check_interrupted()?;
            self.receive(wait)?;
            self.forget_abandoned();
            self.begin_waiting();
            if self.running() > 0 {
                check_unchanged()?;
            }
            let has_moved = self.take_turn();
            let running = self.running();
            self.metrics.running.set(running);
            self.metrics.waiting.set(self.waiting.len());
            wait = match (has_moved, running) {
                (true, _) => Duration::ZERO,
                (false, 0) => IDLE,
                (false, _) => STALLED,
            };
        }
    }

    /// Returns the number of answers that are being written.
    fn running(&self) -> usize {
        self.places.iter().filter(|place| place.answer.is_some()).count()
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
        for place in &mut self.places {
            if place.answer.take_if(|answer| answer.job.events.is_closed()).is_some() {
                self.metrics.abandoned.add(1);
            }
        }
    }

    /// Begins the answers that have waited longest, as long as there are places.
    fn begin_waiting(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            let Some(place) = self.choose_place(job.model, &job.prompt) else {
                self.waiting.push_front(job);
                return;
            };
            self.begun += 1;
            self.places[place].begun = self.begun;
            match self.places[place].begin(job, &self.metrics) {
                Ok(()) => self.places.sort_by_key(|place| place.model),
                Err(problem) => self.give_up(&[(place, problem)]),
            }
        }
    }

    /// Returns a place where no answer is being written: one of whose text at least half begins the prompt, or else a
    /// new one. Where there is no room for that, one that knows half of the prompt, or the one that was used least
    /// recently.
    fn choose_place(&mut self, model: usize, prompt: &[u32]) -> Option<usize> {
        let idle = || self.places.iter().enumerate().filter(|(_, place)| place.answer.is_none());
        let known = |place: &Place| if place.model == model { place.session.known(prompt) } else { 0 };
        let best = idle()
            .map(|(index, place)| (index, known(place), place.session.text_len()))
            .max_by_key(|best| best.1);
        if let Some((index, ..)) = best.filter(|&(_, known, len)| known > 0 && 2 * known >= len) {
            return Some(index);
        }
        let new = Place::new(model, self.catalog, self.weights);
        if self.places.len() < self.most_places {
            self.places.push(new);
            return Some(self.places.len() - 1);
        }
        if let Some((index, ..)) = best.filter(|&(_, known, _)| 2 * known >= prompt.len()) {
            return Some(index);
        }
        let oldest = idle().min_by_key(|(_, place)| place.begun).map(|(index, _)| index)?;
        if self.places[oldest].model != model {
            self.places[oldest] = new;
        }
        Some(oldest)
    }

    /// Takes one step of every answer whose client reads. Returns whether there was any.
    fn take_turn(&mut self) -> bool {
        let mut has_moved = false;
        let mut lost = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            let Some(answer) = &mut place.answer else { continue };
            if answer.job.events.capacity() == 0 {
                continue;
            }
            has_moved = true;
            match step(&mut place.session, answer, self.catalog, &self.metrics) {
                Ok(true) => place.answer = None,
                Ok(false) => {}
                Err(problem) => lost.push((index, problem)),
            }
        }
        self.give_up(&lost);
        has_moved
    }

    /// Tells clients that their answers cannot be computed, and gives up their places, in ascending order, because what
    /// a failure has left of the text there is not known.
    fn give_up(&mut self, lost: &[(usize, Error)]) {
        for (place, problem) in lost.iter().rev() {
            let Place { answer, model, .. } = self.places.remove(*place);
            cli::warn(format_args!("{}: {problem}", self.catalog.entries[model].id));
            self.metrics.failed.add(1);
            if let Some(Answer { job, .. }) = answer {
                send(&job, Progress::Failed(Problem::of_server(problem)));
            }
        }
        if lost.iter().any(|(_, problem)| problem.kind() == Kind::OutOfMemory) {
            self.places.retain(|place| place.answer.is_some());
        }
    }
}

impl<'a> Place<'a> {
    fn new(model: usize, catalog: &'a Catalog, weights: &'a Weights) -> Self {
        let entry = &catalog.entries[model];
        let session = Session::new(&entry.format, AdapterEngine::new(weights, entry.adapter), 0);
        Self { model, session, answer: None, begun: 0 }
    }

    /// Begins an answer.
    fn begin(&mut self, mut job: Job, metrics: &Metrics) -> Result<()> {
        let prompt = std::mem::take(&mut job.prompt);
        metrics.prompt_tokens.add(prompt.len());
        metrics.known_tokens.add(self.session.known(&prompt).min(prompt.len() - 1));
        let Answer { job, .. } = self.answer.insert(Answer { job, tokens: 0 });
        self.session.reseed(job.seed);
        self.session.begin(prompt, &job.settings)?;
        self.session.stop_at(&job.stops);
        Ok(())
    }
}

/// Takes one step of an answer, and sends what it brings. Returns whether the answer is complete.
fn step(
    session: &mut Session<'_, AdapterEngine<'_>>,
    answer: &mut Answer,
    catalog: &Catalog,
    metrics: &Metrics,
) -> Result<bool> {
    let job = &answer.job;
    match session.next_event()? {
        Event::Prompt => Ok(false),
        Event::Token { id, text } => {
            answer.tokens += 1;
            metrics.answer_tokens.add(1);
            let tokenizer = catalog.entries[job.model].format.tokenizer();
            let logprob = |most| TokenLogprob::of(id, most, session.logits(), tokenizer);
            let logprob = job.logprobs.map(logprob).transpose()?;
            if !text.is_empty() || logprob.is_some() {
                send(job, Progress::Piece { text, logprob });
            }
            Ok(false)
        }
        Event::Stop(reason) => {
            let (text, tokens) = (session.finish()?, answer.tokens);
            // Before the client can know, so that it never reads fewer than it has got.
            metrics.completed.add(1);
            send(job, Progress::End { text, reason, tokens });
            Ok(true)
        }
    }
}

/// Sends to the client of a job. One that has hung up in the meantime is found in the next turn, and there is room,
/// because a step is only taken where there is and sends one message.
fn send(job: &Job, progress: Progress) {
    let _ = job.events.try_send((job.index, progress));
}
