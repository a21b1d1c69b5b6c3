//! What the logs are told of an optimizer step.

/// One optimizer step, after it was taken.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// The number of the step, counted from 1.
    pub number: u64,
    /// The mean loss over the supervised tokens of the step.
    pub loss: f64,
    /// The norm of the gradient before it was clipped.
    pub grad_norm: f64,
    /// The learning rate that the step was taken with.
    pub learning_rate: f64,
    /// The number of tokens of the step, prompts included.
    pub tokens: usize,
    /// The number of supervised tokens of the step.
    pub supervised: usize,
}
