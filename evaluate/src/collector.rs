//! The scores of all subjects, as ranks find them. Rank 0 puts them together and keeps every subject that is whole.

use common::Result;
use common::cli::{OutputFile, Progress};
use common::world::World;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::parts::Parts;
use crate::questions::Subject;
use crate::scored::Scored;

/// What one rank has found of one subject.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// The place of the subject among those that are scored in this run.
    pub place: usize,
    /// Questions that the rank has scored: the bits of the log-probabilities of their choices.
    rows: Vec<(usize, Vec<u32>)>,
}

impl Found {
    /// The scores of those questions of a subject that were scored, which are not empty.
    pub fn new(place: usize, scores: &[Vec<f32>]) -> Self {
        let scored = scores.iter().enumerate().filter(|(_, row)| !row.is_empty());
        let bits = |row: &Vec<f32>| row.iter().map(|logprob| logprob.to_bits()).collect();
        Self { place, rows: scored.map(|(question, row)| (question, bits(row))).collect() }
    }
}

/// A subject of which not all ranks have said what they have found.
struct Unfinished {
    logprobs: Vec<Vec<f32>>,
    /// The number of ranks that have not.
    missing: usize,
}

/// On rank 0, what is scored so far.
pub struct Collector<'a> {
    world: &'a World,
    subjects: &'a [Subject],
    /// The indices of the subjects that are scored in this run.
    left: &'a [usize],
    unfinished: Vec<Unfinished>,
    /// The number of subjects that each rank has not said anything about yet.
    owed: Vec<usize>,
    scored: Vec<Option<Scored>>,
    journal: Journal,
    report: &'a mut OutputFile,
    progress: &'a Progress,
}

impl<'a> Collector<'a> {
    /// Begins with what the journal of `report` has: the scores of all subjects but those in `left`.
    pub fn new(
        world: &'a World,
        (subjects, left): (&'a [Subject], &'a [usize]),
        parts: &Parts,
        scored: Vec<Option<Scored>>,
        (journal, report): (Journal, &'a mut OutputFile),
        progress: &'a Progress,
    ) -> Self {
        let mut owed = vec![0; world.size()];
        let unfinished = left.iter().enumerate().map(|(place, &index)| {
            let ranks = parts.ranks_of(place);
            ranks.clone().for_each(|rank| owed[rank] += 1);
            Unfinished { logprobs: vec![Vec::new(); subjects[index].questions.len()], missing: ranks.count() }
        });
        let unfinished = unfinished.collect();
        Self { world, subjects, left, unfinished, owed, scored, journal, report, progress }
    }

    /// The number of subjects that are whole.
    pub fn whole(&self) -> usize {
        self.scored.iter().flatten().count()
    }

    /// Takes what `rank` has found of a subject.
    pub fn take(&mut self, rank: usize, found: Found) -> Result<()> {
        self.owed[rank] = self.owed[rank].saturating_sub(1);
        let unfinished = &mut self.unfinished[found.place];
        for (question, bits) in found.rows {
            unfinished.logprobs[question] = bits.into_iter().map(f32::from_bits).collect();
        }
        unfinished.missing -= 1;
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
                self.progress.add(found.rows.len() as u64);
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
