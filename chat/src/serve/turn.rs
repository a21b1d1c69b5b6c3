//! A turn: all answers of a model that have a token to compute go through it together, and each takes a step.

use common::Result;
use common::generate::{Event, Input};
use common::model::KeyValueCache;
use rayon::prelude::*;

use super::catalog::Catalog;
use super::metrics::Metrics;
use super::openai::TokenLogprob;
use super::places::{Place, Places, Ready};
use super::queue::{Job, Progress};
use super::weights::Weights;

/// What steps of answers need besides places and weights.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub catalog: &'a Catalog,
    pub metrics: &'a Metrics,
}

/// A place whose answer takes a step.
struct Mover<'p, 'a> {
    /// The number of the place.
    index: usize,
    place: &'p mut Place<'a>,
    /// What goes through the model before the step.
    input: Option<Input>,
}

/// Takes one step of every answer whose client reads, of as many prompts as a pass has room for. Returns what has become
/// of each, in the order of their places by the numbers of these: whether the answer is complete.
pub(crate) fn take_turn(
    places: &mut Places,
    weights: &mut Weights,
    around: Around,
) -> Vec<(usize, Result<bool>)> {
    let Ready { mut inputs, lost } = places.ready(weights.most_read(), weights.limits(), around.metrics);
    let mover = |(index, place)| inputs.remove(&index).map(|input| Mover { index, place, input });
    let mut movers: Vec<Mover> = places.iter_mut().enumerate().filter_map(mover).collect();
    let mut outcomes: Vec<_> = lost.into_iter().map(|(index, problem)| (index, Err(problem))).collect();
    for movers in movers.chunk_by_mut(|a, b| a.place.model == b.place.model) {
        outcomes.extend(take_steps(movers, weights, around));
    }
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes
}

/// Takes a step of answers of one model. Where they cannot go through it together, each goes alone.
fn take_steps(movers: &mut [Mover], weights: &mut Weights, around: Around) -> Vec<(usize, Result<bool>)> {
    let [first, ..] = &*movers else { return Vec::new() };
    let adapter = around.catalog.entries[first.place.model].adapter;
    let mut texts: Vec<(&[u32], &mut KeyValueCache)> = Vec::with_capacity(movers.len());
    for mover in movers.iter_mut() {
        if let Some(input) = &mover.input {
            mover.place.cache.truncate(input.kept);
            texts.push((&input.tokens, &mut mover.place.cache));
        }
    }
    let logits = match texts.is_empty() {
        true => None,
        false => {
            around.metrics.passes.add(1);
            Some(weights.continue_texts(adapter, &mut texts))
        }
    };
    let logits = match logits.transpose() {
        Ok(logits) => logits,
        Err(problem) => match movers {
            [mover] => return vec![(mover.index, Err(problem))],
            movers => {
                let alone = movers.chunks_mut(1).flat_map(|mover| take_steps(mover, weights, around));
                return alone.collect();
            }
        },
    };
    let mut rows = logits.iter().flat_map(|logits| logits.rows());
    let steps: Vec<(&mut Mover, &[f32])> = movers
        .iter_mut()
        .map(|mover| {
            let row = mover.input.as_ref().and_then(|_| rows.next());
            (mover, row.unwrap_or(&[]))
        })
        .collect();
    // Choosing from a large vocabulary takes a part of a millisecond, for each answer.
    let step = |(mover, logits): (&mut Mover, &[f32])| {
        if let Some(input) = mover.input.take() {
            mover.place.answers.add(input);
        }
        (mover.index, step(mover.place, logits, around))
    };
    steps.into_par_iter().map(step).collect()
}

/// Takes one step of an answer, and sends what it brings. Returns whether the answer is complete.
fn step(place: &mut Place, logits: &[f32], around: Around) -> Result<bool> {
    let Some(answer) = &mut place.answer else { return Ok(false) };
    let job = &answer.job;
    loop {
        match place.answers.next_event(logits)? {
            Event::Prompt if !place.answers.unread().is_empty() => return Ok(false),
            Event::Prompt => {}
            Event::Token { id, text } => {
                answer.tokens += 1;
                around.metrics.answer_tokens.add(1);
                let tokenizer = around.catalog.entries[job.model].format.tokenizer();
                let logprob = |most| TokenLogprob::of(id, most, logits, tokenizer);
                let logprob = job.logprobs.map(logprob).transpose()?;
                if !text.is_empty() || logprob.is_some() {
                    send(job, Progress::Piece { text, logprob });
                }
                return Ok(false);
            }
            Event::Stop(reason) => {
                let (text, tokens) = (place.answers.finish()?, answer.tokens);
                // Before the client can know, so that it never reads fewer than it has got.
                around.metrics.completed.add(1);
                send(job, Progress::End { text, reason, tokens });
                return Ok(true);
            }
        }
    }
}

/// Sends to the client of a job. One that has hung up in the meantime is found in the next turn, and there is room,
/// because a step is only taken where there is and sends one message.
pub(crate) fn send(job: &Job, progress: Progress) {
    let _ = job.events.try_send((job.index, progress));
}
