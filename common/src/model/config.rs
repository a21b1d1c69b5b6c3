//! A model as data, with which the same code computes for every family.

use std::path::Path;

use super::{LayerConfig, Rope};
use crate::cli;

/// The shape of a decoder and the constants of its operations.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// V, the size of the vocabulary.
    pub vocabulary: usize,
    /// C, the width of the residual stream.
    pub width: usize,
    /// The layers, from the first.
    pub layers: Vec<LayerConfig>,
    /// The rotary embeddings, of which each layer uses one.
    pub ropes: Vec<Rope>,
    /// Added to the mean of squares in RMS norms.
    pub epsilon: f32,
    /// What is added to each weight of the last norm ([`super::NormWeight::offset`]).
    pub norm_offset: f32,
    /// Rows of the embedding table are multiplied with it, before noise is added (Gemma).
    pub embedding_scale: f32,
    /// The embeddings are multiplied with it after noise is added (Granite).
    pub input_scale: f32,
    /// Logits are multiplied with it (Granite's are divided).
    pub logit_scale: f32,
    /// Logits become c·tanh(logits / c), where there is such a c (Gemma 2).
    pub logit_softcap: Option<f32>,
    /// What the balance of experts counts in the loss of training; `None` where it does not.
    pub router_loss: Option<f32>,
    /// Whether the head shares the embedding table. config.json says it; [`super::Weights`] corrects it where the
    /// weights of a model say otherwise.
    pub tied_head: bool,
    /// Positions that the model is made for: tokens of the longest sequence.
    pub max_positions: usize,
    /// Whether the model lies in a larger one, beside a part that reads images and is not used.
    pub is_composite: bool,
}

impl Config {
    /// The longest sequence, for messages: `8192 positions`.
    pub fn bound(&self) -> String {
        format!("{} positions", self.max_positions)
    }

    /// Prints a note about what is not used of the model in `directory`, if there is such a part.
    pub fn note_unused(&self, directory: &Path) {
        if self.is_composite {
            cli::note(format_args!(
                "{}: the text model is used; the part that reads images is left alone",
                directory.display()
            ));
        }
    }

    /// Whether a text of this length has rotary angles of its own, so that keys that were computed for a shorter
    /// beginning of it cannot be used again.
    pub fn is_stretched(&self, tokens: usize) -> bool {
        self.ropes.iter().any(|rope| rope.is_stretched(tokens))
    }

    /// Whether a text that grows to this length is encoded anew, with the angles of all longer texts.
    pub fn switches_at(&self, tokens: usize) -> bool {
        self.ropes.iter().any(|rope| rope.switches_at(tokens))
    }
}
