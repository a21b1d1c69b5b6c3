//! The scores of all subjects, as ranks find them. Rank 0 puts them together and keeps every subject that is whole.

use common::Result;
use common::cli::{OutputFile, Progress};
use common::world::World;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::questions::Subject;
use crate::scored::Scored;

/// What one rank has found in one pass of a subject.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// The place of the subject among those that are scored in this run.
    place: usize,
    /// The questions of the pass: the bits of the log-probabilities of their choices.
    rows: Vec<(usize, Vec<u32>)>,
}

impl Found {
    /// The scores of some questions of the subject at `place`.
    pub fn new(place: usize, questions: &[usize], scores: &[Vec<f32>]) -> Self {
        let bits = |row: &Vec<f32>| row.iter().map(|logprob| logprob.to_bits()).collect();
        let rows = questions.iter().zip(scores).map(|(&question, row)| (question, bits(row)));
        Self { place, rows: rows.collect() }
    }
}

/// A subject of which not all questions are scored.
struct Unfinished {
    logprobs: Vec<Vec<f32>>,
    /// The number of questions that are not.
    missing: usize,
}

/// On rank 0, what is scored so far.
pub struct Collector<'a> {
    world: &'a World,
    subjects: &'a [Subject],
    /// The indices of the subjects that are scored in this run.
    left: &'a [usize],
    unfinished: Vec<Unfinished>,
    /// The number of questions that each rank has not scored yet.
    owed: Vec<usize>,
    scored: Vec<Option<Scored>>,
    journal: Journal,
    report: &'a mut OutputFile,
    progress: &'a Progress,
}

impl<'a> Collector<'a> {
    /// Begins with what the journal of `report` has: the scores of all subjects but those in `left`, of whose questions each
    /// rank owes as many as `owed` says.
    pub fn new(
        world: &'a World,
        (subjects, left): (&'a [Subject], &'a [usize]),
        owed: Vec<usize>,
        scored: Vec<Option<Scored>>,
        (journal, report): (Journal, &'a mut OutputFile),
        progress: &'a Progress,
    ) -> Self {
        let unfinished = left.iter().map(|&index| {
            let missing = subjects[index].questions.len();
            Unfinished { logprobs: vec![Vec::new(); missing], missing }
        });
        let unfinished = unfinished.collect();
        let before = subjects.iter().zip(&scored).filter(|(_, scored)| scored.is_some());
        progress.add(before.map(|(subject, _)| subject.questions.len() as u64).sum());
        Self { world, subjects, left, unfinished, owed, scored, journal, report, progress }
    }

    /// The number of subjects that are whole.
    pub fn whole(&self) -> usize {
        self.scored.iter().flatten().count()
    }

    /// Takes what `rank` has found in a pass.
    pub fn take(&mut self, rank: usize, found: Found) -> Result<()> {
        let count = found.rows.len();
        self.progress.add(count as u64);
        self.owed[rank] = self.owed[rank].saturating_sub(count);
        let unfinished = &mut self.unfinished[found.place];
        for (question, bits) in found.rows {
            unfinished.logprobs[question] = bits.into_iter().map(f32::from_bits).collect();
        }
        unfinished.missing = unfinished.missing.saturating_sub(count);
        if unfinished.missing > 0 {
            return Ok(());
        }
        let index = self.left[found.place];
        let (subject, mut logprobs) = (&self.subjects[index], std::mem::take(&mut unfinished.logprobs));
        // A question may have fewer choices than the task has letters.
        for (logprobs, question) in logprobs.iter_mut().zip(&subject.questions) {
            logprobs.truncate(question.choices.len());
        }
        let answers = subject.questions.iter().map(|question| question.answer).collect();
        let scored = Scored { subject: subject.name.clone(), logprobs, answers };
        self.journal.add(self.report, &scored)?;
        self.scored[index] = Some(scored);
        Ok(())
    }

    /// Takes what other ranks have sent so far.
    pub fn take_sent(&mut self) -> Result<()> {
        for rank in 1..self.owed.len() {
            while self.owed[rank] > 0
                && let Some(found) = self.world.sent_by::<Found>(rank)?
            {
                self.take(rank, found)?;
            }
        }
        Ok(())
    }

    /// Waits for all ranks, and returns the scores of all subjects in their order.
    pub fn finish(mut self) -> Result<Vec<Scored>> {
        while self.owed.iter().any(|owed| *owed > 0) {
            self.take_sent()?;
            self.world.wait_a_moment()?;
        }
        Ok(self.scored.into_iter().flatten().collect())
    }
}
