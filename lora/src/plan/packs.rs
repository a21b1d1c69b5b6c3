//! Packs: examples put together up to the cutoff as LLaMA-Factory does (`greedy_knapsack`), so that a run has
//! as many steps as there.
//!
//! Packs only decide which examples a step has. Memory decides how a step is cut into passes, and examples of
//! a pack never see each other.

use std::collections::BTreeMap;

/// The number of examples that packs are made of at a time: LLaMA-Factory's `preprocessing_batch_size`.
const WINDOW: usize = 1000;

/// The examples of every pack, from the lengths of all examples. A pack holds up to `capacity` tokens, or the
/// one example that is longer.
///
/// A pack begins with the longest example left, then takes the longest that still fits, until none does.
pub fn packs(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let capacity = capacity.max(lengths.iter().copied().max().unwrap_or(0));
    let mut packs = Vec::new();
    for first in (0..lengths.len()).step_by(WINDOW) {
        let mut left: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, &length) in lengths.iter().enumerate().skip(first).take(WINDOW) {
            left.entry(length).or_default().push(index);
        }
        while !left.is_empty() {
            let (mut pack, mut room) = (Vec::new(), capacity);
            while let Some((&length, alike)) = left.range_mut(..=room).next_back() {
                pack.extend(alike.pop());
                if alike.is_empty() {
                    left.remove(&length);
                }
                room -= length;
            }
            packs.push(pack);
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packs of LLaMA-Factory, by `scripts/golden/packs.py`.
    #[test]
    fn packs_are_llama_factorys() {
        #[derive(serde::Deserialize)]
        struct Golden {
            lengths: Vec<usize>,
            capacity: usize,
            /// Lengths of the examples of each pack.
            packs: Vec<Vec<usize>>,
        }
        let text = include_str!("../../../tests/golden/packs.json");
        let golden: Vec<Golden> = serde_json::from_str(text).unwrap();
        for Golden { lengths, capacity, packs: expected } in golden {
            let packs = packs(&lengths, capacity);
            let found: Vec<Vec<usize>> =
                packs.iter().map(|pack| pack.iter().map(|&index| lengths[index]).collect()).collect();
            assert_eq!(found, expected, "{} examples in packs of {capacity}", lengths.len());
            let mut all = packs.concat();
            all.sort_unstable();
            assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>(), "every example once");
        }
    }

    #[test]
    fn an_example_that_is_longer_is_a_pack() {
        assert_eq!(packs(&[3, 9, 4], 7), [vec![1], vec![2, 0]]);
        assert!(packs(&[], 7).is_empty());
    }
}
