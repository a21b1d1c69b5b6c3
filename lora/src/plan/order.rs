//! The examples of each step: a split fixed by the seed, then a new order for every epoch. The order is one
//! of examples, or of packs of them.

use common::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The stream of the seed's generator that draws the split. No two uses share random numbers.
const SPLIT: u64 = 1;
/// The stream that draws the order of the first epoch; the following epochs use the following streams.
const EPOCHS: u64 = 1 << 32;

/// A permutation of 0..len that depends on nothing but its arguments.
fn permutation(len: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut random);
    order
}

/// Splits 0..len into training and held-out examples, both in the order of the data. `size` is the number of
/// held-out examples, or below 1 their share. Fails where nothing would be left to train on.
pub fn split(len: usize, size: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let wanted = if size < 1.0 { (len as f64 * size).ceil() } else { size.floor() };
    let held_out = wanted as usize;
    if held_out >= len {
        return Err(Error::usage(format!("--val-size {size} holds out all of {len} examples"))
            .hint("hold out fewer, or other data with --eval-dataset or --eval-data"));
    }
    let order = permutation(len, seed, SPLIT);
    let (validation, training) = order.split_at(held_out);
    let sorted = |indices: &[usize]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        indices
    };
    Ok((sorted(training), sorted(validation)))
}

/// The effective batch of every step of a run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The units that are ordered.
    units: Units,
    batch: usize,
    /// The seed of the order; `None` keeps the order of the data.
    seed: Option<u64>,
    /// The number of the epoch that was asked for last, and its order.
    epoch: Option<(u64, Vec<usize>)>,
}

/// The units that are ordered: a step sees a number of them.
#[derive(Debug, Clone)]
enum Units {
    /// This number of examples.
    Examples(usize),
    /// Packs, with the examples of each.
    Packs(Vec<Vec<usize>>),
}

impl Order {
    /// The order of `examples` examples in batches of `batch`; the last batch of an epoch has the rest. Without
    /// a seed every epoch has the order of the data.
    pub fn new(examples: usize, batch: usize, seed: Option<u64>) -> Self {
        Self { units: Units::Examples(examples), batch, seed, epoch: None }
    }

    /// The order of `packs` in batches of `batch` packs.
    pub fn of_packs(packs: Vec<Vec<usize>>, batch: usize, seed: Option<u64>) -> Self {
        Self { units: Units::Packs(packs), batch, seed, epoch: None }
    }

    /// The number of examples, or of packs.
    pub fn len(&self) -> usize {
        match &self.units {
            Units::Examples(examples) => *examples,
            Units::Packs(packs) => packs.len(),
        }
    }

    /// Whether there are no examples and no packs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of steps of one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.len().div_ceil(self.batch).max(1) as u64
    }

    /// The examples of step `step`, counted from 0.
    pub fn step(&mut self, step: u64) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        if self.epoch.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let order = match self.seed {
                Some(seed) => permutation(self.len(), seed, EPOCHS + epoch),
                None => (0..self.len()).collect(),
            };
            self.epoch = Some((epoch, order));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        let start = within as usize * self.batch;
        let units = &order[start..(start + self.batch).min(order.len())];
        match &self.units {
            Units::Examples(_) => units.to_vec(),
            Units::Packs(packs) => units.iter().flat_map(|&pack| packs[pack].iter().copied()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_example_once_and_the_next_in_another_order() {
        let mut order = Order::new(10, 4, Some(7));
        assert_eq!(order.steps_per_epoch(), 3);
        let mut epoch =
            |first: u64| -> Vec<usize> { (first..first + 3).flat_map(|step| order.step(step)).collect() };
        let (first, second) = (epoch(0), epoch(3));
        for seen in [&first, &second] {
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(Order::new(10, 4, Some(7)).step(4), &second[4..8], "no step depends on those before");
        assert_ne!(Order::new(10, 4, Some(8)).step(0), &first[..4], "the seed decides");
        assert_eq!(Order::new(10, 4, None).step(4), [4, 5, 6, 7], "without one, the data does");
    }

    #[test]
    fn packs_are_seen_whole() {
        let packs = vec![vec![3, 0], vec![1], vec![2, 5, 4]];
        let mut order = Order::of_packs(packs.clone(), 2, Some(1));
        assert_eq!((order.len(), order.steps_per_epoch()), (3, 2));
        let mut seen: Vec<usize> = [order.step(0), order.step(1)].concat();
        for pack in packs {
            assert!(seen.windows(pack.len()).any(|some| some == pack), "{pack:?} of {seen:?}");
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_split_is_by_share_or_number() {
        assert_eq!(split(100, 0.1, 1).unwrap().1.len(), 10);
        assert_eq!(split(100, 7.0, 1).unwrap().1.len(), 7);
        assert_eq!(split(3, 2.0, 1).unwrap().0.len(), 1);
        for (len, size) in [(3, 3.0), (3, 5.0), (1, 0.1), (3, 0.9)] {
            assert!(split(len, size, 1).is_err(), "nothing is left to train on: {size} of {len}");
        }
        let (training, validation) = split(50, 0.2, 3).unwrap();
        let mut all = [training, validation].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
