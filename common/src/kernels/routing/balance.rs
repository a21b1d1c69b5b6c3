//! The auxiliary loss that keeps experts evenly used (Fedus et al. 2021, equations 4 to 6), over all layers of a pass
//! as transformers' `load_balancing_loss_func` computes it: E · Σₑ fₑ·Pₑ, where fₑ is how often a token chooses
//! expert e, and Pₑ the mean of its probability.

use super::Routing;
use crate::Result;

/// What the routings of the layers of a pass add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Balance {
    /// How many tokens chose each expert.
    counts: Vec<f64>,
    /// The sum of the probabilities of each expert.
    probabilities: Vec<f64>,
    /// Tokens, each as often as there are layers.
    rows: f64,
}

impl Balance {
    /// Adds the routing of a layer. A GPU computes it before it answers.
    pub fn add(&mut self, routing: &Routing) -> Result<()> {
        let experts = routing.spec().experts;
        self.counts.resize(experts, 0.0);
        self.probabilities.resize(experts, 0.0);
        for row in routing.probabilities()?.chunks(experts) {
            self.probabilities.iter_mut().zip(row).for_each(|(sum, p)| *sum += f64::from(*p));
        }
        for (sum, slots) in self.counts.iter_mut().zip(routing.slots_of_experts()?) {
            *sum += slots as f64;
        }
        self.rows += routing.tokens() as f64;
        Ok(())
    }

    /// The loss.
    pub fn loss(&self) -> f64 {
        let products = self.counts.iter().zip(&self.probabilities).map(|(count, p)| count * p);
        self.counts.len() as f64 * products.sum::<f64>() / (self.rows * self.rows).max(1.0)
    }

    /// The derivative of `weight` times the loss by the probability of each expert, which is the same for every token
    /// of every layer.
    pub fn slopes(&self, weight: f32) -> Vec<f32> {
        let factor = f64::from(weight) * self.counts.len() as f64 / (self.rows * self.rows).max(1.0);
        self.counts.iter().map(|count| (factor * count) as f32).collect()
    }
}
