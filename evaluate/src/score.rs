//! The log-probabilities of the letters of answers after prompts, pass by pass.
//!
//! A pass is begun before the one before it is waited for, also where the next subject begins, so that a GPU always has one
//! to compute while the host reads logits and prepares another.

use common::generate::logprobs;
use common::model::{Batch, Cache, KeyValueCache, Logits, Model, PendingLogits, Sequence};
use common::{Context, Result, bail};
use rayon::prelude::*;

use crate::passes::{PassOptions, SubjectPasses};

/// A model that gives logits of prompts, with a memory of the tokens that they share.
pub trait Scorer {
    /// What the model remembers of a prefix.
    type Prefix;
    /// Logits that the model may still be computing.
    type Pending;
    /// The logits `[N, V]` after the last token of N prompts.
    type Logits: AsRef<[f32]>;
    /// Returns the most tokens that a prompt may have.
    fn max_tokens(&self) -> usize;
    /// Returns what bounds the number of tokens, in words for messages.
    fn bound(&self) -> String {
        format!("{} positions", self.max_tokens())
    }
    /// Returns whether prompts of up to this many tokens may share what the model remembers of a prefix.
    fn shares_prefix(&self, _longest: usize) -> bool {
        true
    }
    /// Runs tokens that many prompts begin with, and returns what the model remembers of them.
    fn prefix(&self, tokens: &[u32]) -> Result<Self::Prefix>;
    /// Begins to compute the logits after the last token of each prompt, all of which continue the prefix if there is one.
    fn begin(&self, prefix: Option<&Self::Prefix>, prompts: &[&[u32]]) -> Result<Self::Pending>;
    /// Returns whether there is nothing to wait for.
    fn is_done(&self, logits: &Self::Pending) -> bool;
    /// Waits for logits.
    fn wait(&self, logits: Self::Pending) -> Result<Self::Logits>;
}

impl Scorer for Model {
    type Prefix = KeyValueCache;
    type Pending = PendingLogits;
    type Logits = Logits;

    fn max_tokens(&self) -> usize {
        self.config().max_positions
    }

    fn bound(&self) -> String {
        self.config().bound()
    }

    fn shares_prefix(&self, longest: usize) -> bool {
        !self.config().is_stretched(longest)
    }

    fn prefix(&self, tokens: &[u32]) -> Result<KeyValueCache> {
        let mut cache = KeyValueCache::new();
        let batch = Batch::prompt(tokens, 0);
        self.logits(&batch, &[], Cache::Extend(&mut cache))?;
        Ok(cache)
    }

    fn begin(&self, prefix: Option<&KeyValueCache>, prompts: &[&[u32]]) -> Result<PendingLogits> {
        let sequences = prompts.iter().map(|tokens| Sequence { tokens, trained: &[] });
        let batch = Batch::pack(sequences, prefix.map_or(0, KeyValueCache::len));
        let cache = prefix.map_or(Cache::None, Cache::Shared);
        self.begin_logits(&batch, &batch.last_rows(), cache)
    }

    fn is_done(&self, logits: &PendingLogits) -> bool {
        logits.are_there()
    }

    fn wait(&self, logits: PendingLogits) -> Result<Logits> {
        logits.wait()
    }
}

/// Cuts the prompts of a subject into passes of this model. Fails where a prompt is too long for it.
pub fn passes<S: Scorer>(model: &S, prompts: Vec<Vec<u32>>, options: PassOptions) -> Result<SubjectPasses> {
    if let Some(long) = prompts.iter().find(|prompt| prompt.len() > model.max_tokens()) {
        bail!(TooLong, "a prompt of {} tokens exceeds the model's {}", long.len(), model.bound());
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let share_prefix = options.share_prefix && model.shares_prefix(longest);
    Ok(SubjectPasses::new(prompts, PassOptions { share_prefix, ..options }))
}

/// One pass of a subject.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The name of the subject.
    pub name: &'a str,
    /// The index of the subject among those that are scored.
    pub subject: usize,
    /// All passes of the subject.
    pub passes: &'a SubjectPasses,
    /// The index of the pass among them.
    pub index: usize,
}

impl Pass<'_> {
    /// Returns the indices of the questions of the pass.
    pub fn questions(&self) -> &[usize] {
        self.passes.prompts_of(self.index)
    }
}

/// Scores passes in their order, those of a subject one after the other. Of each, `scored` gets the log-probabilities of
/// `answers` after each of its prompts: a log-softmax over the whole vocabulary.
pub fn score<'a, S: Scorer>(
    model: &S,
    answers: &[u32],
    passes: impl IntoIterator<Item = Pass<'a>>,
    mut scored: impl FnMut(Pass<'a>, Vec<Vec<f32>>) -> Result<()>,
) -> Result<()> {
    let mut finish = |(pass, logits): (Pass<'a>, S::Pending)| {
        let rows =
            model.wait(logits).and_then(|logits| rows(logits.as_ref(), pass.questions().len(), answers));
        scored(pass, rows.with_context(|| pass.name.to_owned())?)
    };
    let mut remembered = Remembered { subject: None, prefix: None };
    let mut begun: Option<(Pass<'a>, S::Pending)> = None;
    for pass in passes {
        let next = remembered.begin(model, pass).with_context(|| pass.name.to_owned());
        begun.take().map_or(Ok(()), &mut finish)?;
        let next = (pass, next?);
        match model.is_done(&next.1) {
            true => finish(next)?,
            false => begun = Some(next),
        }
    }
    begun.map_or(Ok(()), finish)
}

/// What the model remembers of the prefix of a subject.
struct Remembered<P> {
    subject: Option<usize>,
    /// Nothing where the prompts of the subject share no prefix.
    prefix: Option<P>,
}

impl<P> Remembered<P> {
    /// Begins a pass, after the prefix of its subject where that is not remembered yet.
    fn begin<S: Scorer<Prefix = P>>(&mut self, model: &S, pass: Pass) -> Result<S::Pending> {
        if self.subject != Some(pass.subject) {
            // The memory of the last prefix has room for this one.
            (self.subject, self.prefix) = (None, None);
            let tokens = pass.passes.prefix();
            self.prefix = if tokens.is_empty() { None } else { Some(model.prefix(tokens)?) };
            self.subject = Some(pass.subject);
        }
        let prompts: Vec<&[u32]> = pass.passes.rests_of(pass.index).collect();
        model.begin(self.prefix.as_ref(), &prompts)
    }
}

/// Returns the log-probabilities of `answers` by each of `count` rows of logits.
fn rows(logits: &[f32], count: usize, answers: &[u32]) -> Result<Vec<Vec<f32>>> {
    let vocabulary = (logits.len() / count.max(1)).max(1);
    logits.par_chunks_exact(vocabulary).map(|row| logprobs(row, answers)).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Logits that tell the sum of all tokens of a prompt, and a record of what the model was asked for.
    #[derive(Default)]
    struct Fake {
        asked: RefCell<Vec<String>>,
        /// Whether logits are waited for, as those of a GPU are.
        is_slow: bool,
    }

    impl Fake {
        fn record(&self, what: &str, lengths: &[usize]) {
            self.asked.borrow_mut().push(format!("{what} {lengths:?}"));
        }
    }

    impl Scorer for Fake {
        type Prefix = u32;
        type Pending = Vec<f32>;
        type Logits = Vec<f32>;

        fn max_tokens(&self) -> usize {
            50
        }

        fn prefix(&self, tokens: &[u32]) -> Result<u32> {
            self.record("prefix", &[tokens.len()]);
            Ok(tokens.iter().sum())
        }

        fn begin(&self, prefix: Option<&u32>, prompts: &[&[u32]]) -> Result<Vec<f32>> {
            let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
            self.record("begin", &lengths);
            if lengths.contains(&13) {
                bail!(Row, "no luck");
            }
            let sum = |prompt: &&[u32]| prefix.unwrap_or(&0) + prompt.iter().sum::<u32>();
            Ok(prompts.iter().flat_map(|prompt| [sum(prompt) as f32, 0.0, 1.0, 2.0, 3.0]).collect())
        }

        fn is_done(&self, _: &Vec<f32>) -> bool {
            !self.is_slow
        }

        fn wait(&self, logits: Vec<f32>) -> Result<Vec<f32>> {
            self.record("wait", &[logits.len() / 5]);
            Ok(logits)
        }
    }

    const PROMPTS: [&[u32]; 4] = [&[7, 7, 1], &[7, 7, 2, 3, 4, 5], &[7, 7, 1, 1, 1, 1, 1, 1], &[7, 7, 9]];

    fn subject(prompts: &[&[u32]], tokens: usize, share_prefix: bool) -> SubjectPasses {
        let prompts = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        passes(&Fake::default(), prompts, PassOptions { tokens, share_prefix }).unwrap()
    }

    /// The scores of the prompts of some passes of subjects; none of the others.
    fn scores(
        model: &Fake,
        subjects: &[SubjectPasses],
        own: impl Fn(usize, usize) -> bool,
    ) -> Vec<Vec<Vec<f32>>> {
        let mut scores: Vec<Vec<Vec<f32>>> = vec![vec![Vec::new(); PROMPTS.len()]; subjects.len()];
        let all = subjects.iter().enumerate().flat_map(|(subject, passes)| {
            (0..passes.len()).map(move |index| Pass { name: "s", subject, passes, index })
        });
        let passes = all.filter(|pass| own(pass.subject, pass.index));
        let keep = |pass: Pass, rows: Vec<Vec<f32>>| {
            for (&question, row) in pass.questions().iter().zip(rows) {
                scores[pass.subject][question] = row;
            }
            Ok(())
        };
        score(model, &[0, 1, 2, 3], passes, keep).unwrap();
        scores
    }

    #[test]
    fn a_shared_prefix_runs_once_and_changes_nothing() {
        let (shared, alone) = (Fake::default(), Fake::default());
        let all = |_, _| true;
        let found = scores(&shared, &[subject(&PROMPTS, 10, true)], all);
        assert_eq!(found, scores(&alone, &[subject(&PROMPTS, 10, false)], all));
        assert_eq!(
            *shared.asked.borrow(),
            ["prefix [2]", "begin [6, 4]", "wait [2]", "begin [1, 1]", "wait [2]"]
        );
        assert_eq!(
            *alone.asked.borrow(),
            ["begin [8]", "wait [1]", "begin [6, 3]", "wait [2]", "begin [3]", "wait [1]"]
        );
    }

    #[test]
    fn a_gpu_has_a_pass_to_compute_while_the_host_waits_for_another() {
        let fake = Fake { is_slow: true, ..Fake::default() };
        let subjects = || [subject(&PROMPTS, 10, true), subject(&PROMPTS[..2], 10, true)];
        let found = scores(&fake, &subjects(), |_, _| true);
        assert_eq!(
            *fake.asked.borrow(),
            [
                "prefix [2]",
                "begin [6, 4]",
                "begin [1, 1]",
                "wait [2]",
                "prefix [2]",
                "begin [4, 1]",
                "wait [2]",
                "wait [2]"
            ]
        );
        assert_eq!(found, scores(&Fake::default(), &subjects(), |_, _| true), "the same in the same places");
    }

    #[test]
    fn passes_of_other_ranks_do_not_run_and_own_ones_stay_the_same() {
        let fake = Fake::default();
        let subjects = [subject(&PROMPTS, 10, true), subject(&PROMPTS, 10, true)];
        let found = scores(&fake, &subjects, |subject, pass| (subject, pass) == (0, 1));
        assert_eq!(*fake.asked.borrow(), ["prefix [2]", "begin [1, 1]", "wait [2]"]);
        let whole = scores(&Fake::default(), &subjects, |_, _| true);
        assert_eq!(found, [vec![whole[0][0].clone(), vec![], vec![], whole[0][3].clone()], vec![vec![]; 4]]);
    }

    #[test]
    fn logprobs_are_normal_over_the_vocabulary_and_in_the_order_of_the_prompts() {
        let found = scores(&Fake::default(), &[subject(&PROMPTS, 1, true)], |_, _| true);
        for (prompt, found) in PROMPTS.iter().zip(&found[0]) {
            let logits = [prompt.iter().sum::<u32>() as f32, 0.0, 1.0, 2.0, 3.0];
            let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
            for (logit, found) in logits.iter().zip(found) {
                assert!((logit - sum.ln() - found).abs() < 1e-5, "{found}");
            }
        }
    }

    #[test]
    fn what_cannot_be_scored_is_said_and_what_was_begun_is_not_lost() {
        let options = PassOptions { tokens: 1, share_prefix: true };
        let error = passes(&Fake::default(), vec![vec![0; 51]], options).unwrap_err();
        assert!(error.to_string().contains("51 tokens exceeds the model's 50 positions"), "{error}");
        let pass = |name, passes, index| Pass { name, subject: 0, passes, index };
        let beyond = SubjectPasses::new(vec![vec![1]], options);
        let error = score(&Fake::default(), &[5], [pass("a", &beyond, 0)], |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("a: token 5"), "{error}");
        let (good, bad) = (subject(&[&[7]], 1, true), subject(&[&[1; 13]], 1, true));
        let (fake, mut kept) = (Fake { is_slow: true, ..Fake::default() }, 0);
        let two = [pass("good", &good, 0), Pass { subject: 1, ..pass("bad", &bad, 0) }];
        let keep = |_: Pass, rows: Vec<Vec<f32>>| {
            kept += rows.len();
            Ok(())
        };
        let error = score(&fake, &[0], two, keep).unwrap_err();
        assert_eq!((error.to_string().as_str(), kept), ("bad: no luck", 1));
    }
}
