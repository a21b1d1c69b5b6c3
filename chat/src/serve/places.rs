//! The places in which answers are written: each has a text with its keys and values, which outlive the answer, so that a
//! conversation finds them again.

use std::collections::{BTreeMap, VecDeque};

use common::generate::{Answers, Input, Limits};
use common::model::KeyValueCache;
use common::{Error, Result, error};

use super::catalog::Catalog;
use super::metrics::Metrics;
use super::queue::Job;
use super::weights::Weights;

/// The fewest tokens that are worth being copied from another place.
const WORTH_COPYING: usize = 16;

/// A text with its keys and values, and the answer that is being written there.
pub(crate) struct Place<'a> {
    /// Which model of the catalog answers.
    pub model: usize,
    /// The text, and the answer that continues it.
    pub answers: Answers<'a>,
    /// The keys and values of the text.
    pub cache: KeyValueCache,
    /// The answer that is being written.
    pub answer: Option<Answer>,
    /// The number of tokens whose keys and values this place may have in memory.
    room: usize,
    /// The number of the last answer that was begun here, counted over all places.
    begun: u64,
}

/// An answer that is being written.
pub(crate) struct Answer {
    /// The request for the answer, and where the answer goes.
    pub job: Job,
    /// The number of its tokens so far.
    pub tokens: usize,
}

/// All places. Their number is bounded, and so is the room for their keys and values.
pub(crate) struct Places<'a> {
    catalog: &'a Catalog,
    /// The places, ordered by their models.
    all: Vec<Place<'a>>,
    most: usize,
    /// The most tokens whose keys and values have room at a time.
    room: usize,
    /// The number of answers that have begun.
    begun: u64,
}

/// The places whose answers take a step in a turn.
pub(crate) struct Ready {
    /// What goes through the model before the step of each of these places, by the number of the place.
    pub inputs: BTreeMap<usize, Option<Input>>,
    /// The places that could not copy keys and values, which take no step, with their errors.
    pub lost: Vec<(usize, Error)>,
}

/// Where the next tokens of a prompt come from.
enum Source {
    /// The model computes them.
    Model,
    /// Another place has the first `tokens` tokens.
    Copy { from: usize, tokens: usize },
    /// Another place is about to have them.
    Later,
}

impl<'a> Places<'a> {
    /// Begins without places. There are at most `most`, with room for the keys and values of `room` tokens in all.
    pub(crate) fn new(catalog: &'a Catalog, most: usize, room: usize) -> Self {
        Self { catalog, all: Vec::new(), most, room, begun: 0 }
    }

    /// Returns the number of answers that are being written.
    pub(crate) fn running(&self) -> usize {
        self.all.iter().filter(|place| place.answer.is_some()).count()
    }

    /// Returns the places, ordered by their models.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Place<'a>> {
        self.all.iter_mut()
    }

    /// Gives up a place, and returns what was there.
    pub(crate) fn remove(&mut self, index: usize) -> Place<'a> {
        self.all.remove(index)
    }

    /// Gives up the places where no answer is being written.
    pub(crate) fn give_up_idle(&mut self) {
        self.all.retain(|place| place.answer.is_some());
    }

    /// Begins the answers that have waited longest, as long as there are places. Returns those that cannot begin.
    pub(crate) fn begin(
        &mut self,
        waiting: &mut VecDeque<Job>,
        weights: &Weights,
        metrics: &Metrics,
    ) -> Vec<(Job, Error)> {
        let mut refused = Vec::new();
        while let Some(job) = waiting.pop_front() {
            let tokens = (job.prompt.len() + job.settings.max_new_tokens).min(self.catalog.max_tokens);
            if tokens > self.room {
                let problem = error!(
                    OutOfMemory,
                    "prompt and answer may have {tokens} tokens, and memory has room for {}", self.room
                );
                refused.push((job, problem.hint("ask for fewer tokens, as in \"max_tokens\": 100")));
                continue;
            }
            let Some(mut place) = self.take(&job, tokens) else {
                waiting.push_front(job);
                break;
            };
            self.begun += 1;
            place.begun = self.begun;
            match place.begin(job, weights, metrics) {
                Ok(()) => {
                    let after = self.all.partition_point(|other| other.model <= place.model);
                    self.all.insert(after, place);
                }
                Err(problem) => {
                    self.give_up_idle();
                    refused.extend(place.answer.map(|answer| (answer.job, problem)));
                }
            }
        }
        refused
    }

    /// Takes a place out of the list where no answer is being written, for a text of `tokens` tokens: one of whose text at
    /// least half begins the prompt, or else a new one. Where there are too many for that, one that knows half of the
    /// prompt, or the one that was used least recently. Others are given up where they take the memory.
    fn take(&mut self, job: &Job, tokens: usize) -> Option<Place<'a>> {
        let busy: usize =
            self.all.iter().filter(|place| place.answer.is_some()).map(|place| place.room).sum();
        if busy + tokens > self.room {
            return None;
        }
        let idle = || self.all.iter().enumerate().filter(|(_, place)| place.answer.is_none());
        let known =
            |place: &Place| if place.model == job.model { place.answers.known(&job.prompt) } else { 0 };
        let best = idle()
            .map(|(index, place)| (index, known(place), place.answers.text().len()))
            .max_by_key(|best| best.1);
        let continues = best.filter(|&(_, known, len)| known > 0 && 2 * known >= len);
        let mut place = match continues {
            Some((index, ..)) => self.all.remove(index),
            None if self.all.len() < self.most => Place::new(job.model, self.catalog),
            None => {
                let oldest = || idle().min_by_key(|(_, place)| place.begun).map(|(index, _)| index);
                let half = best.filter(|&(_, known, _)| 2 * known >= job.prompt.len());
                let index = half.map(|(index, ..)| index).or_else(oldest)?;
                match self.all.remove(index) {
                    place if place.model == job.model => place,
                    _ => Place::new(job.model, self.catalog),
                }
            }
        };
        place.room = place.room.max(tokens);
        while place.room + self.all.iter().map(|place| place.room).sum::<usize>() > self.room {
            let idle = self.all.iter().enumerate().filter(|(_, place)| place.answer.is_none());
            match idle.min_by_key(|(_, place)| place.begun).map(|(index, _)| index) {
                Some(oldest) => drop(self.all.remove(oldest)),
                // Its text was longer once.
                None => place = Place { room: tokens, ..Place::new(job.model, self.catalog) },
            }
        }
        Some(place)
    }

    /// Returns the places whose answers take a step now: those that write, and the first ones of those that read their
    /// prompts, until they read `most_read` tokens. Keys and values that another place has are copied; what a place is
    /// about to read is not read by another at the same time.
    pub(crate) fn ready(&mut self, most_read: usize, limits: &dyn Limits, metrics: &Metrics) -> Ready {
        let (mut inputs, mut reading) = (BTreeMap::new(), Vec::new());
        for (index, place) in self.all.iter().enumerate().filter(|(_, place)| place.has_reader()) {
            match place.answers.unread().is_empty() {
                true => drop(inputs.insert(index, place.answers.next_input(limits))),
                false => reading.push(index),
            }
        }
        reading.sort_by_key(|&index| self.all[index].begun);
        let (mut read, mut readers, mut lost) = (0, Vec::new(), Vec::new());
        for index in reading {
            if read >= most_read {
                break;
            }
            match self.source(index, &readers, limits) {
                Source::Later => continue,
                Source::Model => {}
                Source::Copy { from, tokens } => {
                    let mut cache = std::mem::take(&mut self.all[index].cache);
                    let copied = cache.copy_prefix(&self.all[from].cache, tokens);
                    let place = &mut self.all[index];
                    place.cache = cache;
                    if let Err(problem) = copied {
                        lost.push((index, problem));
                        continue;
                    }
                    metrics.known_tokens.add(tokens - place.answers.text().len());
                    place.answers.skip_to(tokens);
                }
            }
            readers.push(index);
            let input = self.all[index].answers.next_input(limits);
            read += input.as_ref().map_or(0, |input| input.tokens.len());
            inputs.insert(index, input);
        }
        Ready { inputs, lost }
    }

    /// Where the place `index` gets the next tokens of its prompt, while `readers` read theirs.
    fn source(&self, index: usize, readers: &[usize], limits: &dyn Limits) -> Source {
        let place = &self.all[index];
        let (text, unread) = (place.answers.text(), place.answers.unread());
        let prompt = || text.iter().chain(unread);
        let worth = text.len() + WORTH_COPYING;
        // The last token of a prompt is always computed, for the logits after it.
        let most = text.len() + unread.len() - 1;
        let others = || self.all.iter().enumerate().filter(|(_, other)| other.model == place.model);
        let shared = others()
            .filter(|(other, _)| *other != index)
            .map(|(from, other)| {
                let of_both = prompt().zip(other.answers.text()).take_while(|(a, b)| a == b).count();
                (from, of_both.min(most))
            })
            .filter(|&(from, tokens)| {
                let longest = self.all[from].answers.text().len().max(most + 1);
                tokens >= worth && !limits.is_stretched(longest)
            })
            .max_by_key(|&(_, tokens)| tokens);
        let ahead = others().filter(|(other, _)| readers.contains(other)).any(|(_, other)| {
            let text = other.answers.text().iter().chain(other.answers.unread());
            let tokens = prompt().zip(text).take_while(|(a, b)| a == b).count().min(most);
            tokens >= worth.max(shared.map_or(0, |(_, tokens)| tokens + WORTH_COPYING))
        });
        match shared {
            _ if ahead && !limits.is_stretched(most + 1) => Source::Later,
            Some((from, tokens)) => Source::Copy { from, tokens },
            None => Source::Model,
        }
    }
}

impl<'a> Place<'a> {
    fn new(model: usize, catalog: &'a Catalog) -> Self {
        let answers = Answers::new(&catalog.entries[model].format, 0);
        Self { model, answers, cache: KeyValueCache::new(), answer: None, room: 0, begun: 0 }
    }

    /// Whether an answer is being written whose client has room for the next event.
    fn has_reader(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.job.events.capacity() > 0)
    }

    /// Begins an answer.
    fn begin(&mut self, mut job: Job, weights: &Weights, metrics: &Metrics) -> Result<()> {
        let prompt = std::mem::take(&mut job.prompt);
        let Answer { job, .. } = self.answer.insert(Answer { job, tokens: 0 });
        weights.reserve(&mut self.cache, self.room)?;
        let tokens = prompt.len();
        self.answers.reseed(job.seed);
        self.answers.begin(prompt, &job.settings, weights.limits())?;
        self.answers.stop_at(&job.stops);
        metrics.prompt_tokens.add(tokens);
        metrics.known_tokens.add(tokens - self.answers.unread().len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::device::{Device, DeviceChoice};
    use common::error::Kind;
    use common::generate::{ChatFormat, GenerationSettings};
    use common::models::ModelArguments;
    use common::text::{ChatTemplate, Tokenizer};
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::serve::catalog::Entry;
    use crate::serve::queue::Queue;

    fn settings(max_new_tokens: usize) -> GenerationSettings {
        let (temperature, top_p, repetition_penalty) = (0.0, 1.0, 1.0);
        GenerationSettings {
            temperature,
            top_p,
            top_k: 0,
            repetition_penalty,
            max_new_tokens,
            stops: Vec::new(),
        }
    }

    fn job(prompt: usize, max_new_tokens: usize) -> Job {
        Job {
            model: 0,
            index: 0,
            prompt: vec![prompt as u32; prompt],
            settings: settings(max_new_tokens),
            seed: 0,
            stops: Vec::new(),
            logprobs: None,
            events: channel(1).0,
            _ticket: Queue::new(1).0.admit(1).unwrap(),
        }
    }

    #[test]
    fn answers_begin_where_memory_has_room_for_their_keys_and_values() {
        let directory = tempfile::tempdir().unwrap();
        ::tests::tiny_model::write(directory.path(), 7);
        let tokenizer = Tokenizer::load(directory.path()).unwrap();
        let template = ChatTemplate::load(directory.path(), &tokenizer).unwrap();
        let format = Arc::new(ChatFormat::new(tokenizer, template));
        let entry =
            Entry { id: "model".into(), format, settings: settings(1), sampled: settings(1), adapter: None };
        let (entries, system) = (vec![entry], None);
        let catalog = Catalog { entries, system, max_tokens: 4096, vocabulary: 260, created: 0 };
        let arguments =
            ModelArguments { base: None, template: None, device: DeviceChoice::Cpu, vram_budget: None };
        let weights = Weights::load(directory.path(), &[], &Device::Cpu, &arguments).unwrap();
        let metrics = Metrics::default();
        let mut places = Places::new(&catalog, 8, 100);
        let mut waiting: VecDeque<Job> = [job(60, 41), job(40, 20), job(30, 20), job(10, 20)].into();
        let mut begin = |places: &mut Places| {
            let refused = places.begin(&mut waiting, &weights, &metrics);
            let refused: Vec<Kind> = refused.iter().map(|(_, problem)| problem.kind()).collect();
            (refused, places.running(), waiting.len())
        };
        // The first would never have room. The last one would, and waits for its turn.
        assert_eq!(begin(&mut places), (vec![Kind::OutOfMemory], 1, 2));
        assert_eq!(begin(&mut places), (vec![], 1, 2));
        places.all[0].answer = None;
        // What the answer before has left gives way.
        assert_eq!(begin(&mut places), (vec![], 2, 0));
        let rooms: Vec<usize> = places.all.iter().map(|place| place.room).collect();
        assert_eq!(rooms, [50, 30]);
    }
}
