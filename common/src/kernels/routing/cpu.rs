//! The reference.

use std::ops::Range;

use rayon::prelude::*;

use super::RoutingSpec;

/// The experts of each token, and the order of the slots.
pub(in crate::kernels) struct Chosen {
    /// The softmax of the logits, [T, E].
    probabilities: Vec<f32>,
    /// The experts of each token, the largest probability first and of equal ones the first, [T, n].
    experts: Vec<u32>,
    /// The slot of each token's choice, [T, n].
    slots: Vec<u32>,
    /// The first slot of each expert, and the number of all slots, [E + 1].
    starts: Vec<usize>,
}

impl Chosen {
    /// The slots of an expert.
    pub(in crate::kernels) fn of_expert(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// The token of each slot.
    pub(in crate::kernels) fn tokens(&self) -> Vec<usize> {
        let chosen = self.slots.len() / self.tokens_count().max(1);
        let mut tokens = vec![0; self.slots.len()];
        for (choice, &slot) in self.slots.iter().enumerate() {
            tokens[slot as usize] = choice / chosen.max(1);
        }
        tokens
    }

    fn tokens_count(&self) -> usize {
        self.probabilities.len() / (self.starts.len() - 1).max(1)
    }

    /// The sum of each token's rows of x [S, C], in the order of its experts: [T, C].
    pub(super) fn sum(&self, x: &[f32], c: usize) -> Vec<f32> {
        let tokens = self.tokens_count();
        let chosen = self.slots.len() / tokens.max(1);
        let mut y = vec![0.0; tokens * c];
        let rows = y.par_chunks_mut(c.max(1)).zip(self.slots.par_chunks(chosen.max(1)));
        rows.for_each(|(y, slots)| {
            for &slot in slots {
                let row = &x[slot as usize * c..][..c];
                y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
        });
        y
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        (4 * self.probabilities.len() + 4 * self.experts.len() + 4 * self.slots.len()) as u64
    }

    /// How many slots each expert has, `[E]`.
    pub(super) fn slots_of_experts(&self) -> Vec<usize> {
        self.starts.windows(2).map(|bounds| bounds[1] - bounds[0]).collect()
    }

    /// The softmax of the logits, [T, E].
    pub(super) fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    /// The experts of each token, [T, n].
    #[cfg(test)]
    pub(in crate::kernels) fn experts(&self) -> &[u32] {
        &self.experts
    }
}

/// The choice from logits [T, E], and the weight of each slot.
pub(super) fn choose(mut logits: Vec<f32>, spec: RoutingSpec) -> (Chosen, Vec<f32>) {
    let RoutingSpec { experts, chosen, normalized } = spec;
    logits.par_chunks_mut(experts).for_each(softmax);
    let probabilities = logits;
    let choices: Vec<u32> =
        probabilities.par_chunks(experts).flat_map_iter(|row| largest(row, chosen)).collect();
    let mut starts = vec![0; experts + 1];
    for &expert in &choices {
        starts[expert as usize + 1] += 1;
    }
    for expert in 0..experts {
        starts[expert + 1] += starts[expert];
    }
    let mut next = starts.clone();
    let (mut slots, mut weights) = (vec![0; choices.len()], vec![0.0; choices.len()]);
    for (token, choices) in choices.chunks(chosen).enumerate() {
        let row = &probabilities[token * experts..][..experts];
        let sum = if normalized { choices.iter().map(|&expert| row[expert as usize]).sum() } else { 1.0 };
        for (choice, &expert) in choices.iter().enumerate() {
            let slot = &mut next[expert as usize];
            weights[*slot] = row[expert as usize] / sum;
            slots[token * chosen + choice] = *slot as u32;
            *slot += 1;
        }
    }
    (Chosen { probabilities, experts: choices, slots, starts }, weights)
}

/// The gradients of the logits [T, E] from those of the slots' weights [S], and those of the probabilities [E] of
/// every token where there are any.
pub(super) fn backward(
    dweights: &[f32],
    balance: Option<&[f32]>,
    chosen: &Chosen,
    spec: RoutingSpec,
) -> Vec<f32> {
    let RoutingSpec { experts, chosen: count, normalized } = spec;
    let mut dlogits = vec![0.0; chosen.probabilities.len()];
    let rows = dlogits.par_chunks_mut(experts).zip(chosen.probabilities.par_chunks(experts));
    let rows = rows.zip(chosen.experts.par_chunks(count)).zip(chosen.slots.par_chunks(count));
    rows.for_each(|(((dlogits, probabilities), experts), slots)| {
        let dweight = |slot: u32| dweights[slot as usize];
        let chosen = || experts.iter().map(|&expert| probabilities[expert as usize]).zip(slots);
        // w = p / Σp, so dp = (dw − Σ w·dw) / Σp.
        let (sum, shift) = match normalized {
            true => {
                let sum: f32 = chosen().map(|(p, _)| p).sum();
                (sum, chosen().map(|(p, &slot)| p / sum * dweight(slot)).sum())
            }
            false => (1.0, 0.0),
        };
        let dp: Vec<f32> = slots.iter().map(|&slot| (dweight(slot) - shift) / sum).collect();
        let mut mean: f32 = chosen().zip(&dp).map(|((p, _), dp)| p * dp).sum();
        let of_balance = |expert: usize| balance.map_or(0.0, |slopes| slopes[expert]);
        mean += probabilities.iter().enumerate().map(|(expert, p)| p * of_balance(expert)).sum::<f32>();
        for (expert, (dlogit, p)) in dlogits.iter_mut().zip(probabilities).enumerate() {
            *dlogit = p * (of_balance(expert) - mean);
        }
        for (&expert, dp) in experts.iter().zip(&dp) {
            dlogits[expert as usize] += probabilities[expert as usize] * dp;
        }
    });
    dlogits
}

fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|logit| *logit = (*logit - most).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

/// The places of the `count` largest values, the largest first, and of equal ones the first.
fn largest(row: &[f32], count: usize) -> Vec<u32> {
    let mut places: Vec<u32> = (0..row.len() as u32).collect();
    places.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    places.truncate(count);
    places
}
