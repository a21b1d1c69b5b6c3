//! The names of a text model's weights, as transformers gives them in a causal language model, and the other
//! names under which checkpoints and adapters hold the same weights.
//!
//! As transformers 5 does, names are also read without `model.` in front (a model that was saved without its
//! head), and with the path of a text model that lies in a larger model beside a part that reads images.

use std::borrow::Cow;

/// The embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The projection to the vocabulary.
pub const HEAD: &str = "lm_head.weight";

/// The parts of a text model, with which transformers' names begin after `model.`.
const PARTS: [&str; 3] = ["embed_tokens.", "layers.", "norm."];

/// The module of a larger model that is the text model.
const TEXT_MODEL: &str = "language_model.";

/// The modules of a larger model that read images for its text model.
const IMAGE_MODULES: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// The name of a weight in a causal language model of transformers: `model.layers.0…` for `layers.0…`,
/// `language_model.model.layers.0…` and `model.language_model.layers.0…`. Weights that read images lose a
/// `model.` in front.
pub fn canonical_name(name: &str) -> Cow<'_, str> {
    let bare = name.trim_start_matches("model.");
    let bare = bare.strip_prefix(TEXT_MODEL).map_or(bare, |inner| inner.trim_start_matches("model."));
    if bare.starts_with("lm_head.") || reads_images(bare) {
        return Cow::Borrowed(bare);
    }
    let is_canonical = name.strip_prefix("model.") == Some(bare);
    match PARTS.iter().any(|part| bare.starts_with(part)) && !is_canonical {
        true => Cow::Owned(format!("model.{bare}")),
        false => Cow::Borrowed(name),
    }
}

/// Whether a canonical name is that of a weight that reads images.
pub fn reads_images(name: &str) -> bool {
    IMAGE_MODULES.iter().any(|module| name.starts_with(module))
}

/// Whether a name is that of a weight of a text model within a larger model.
pub fn is_within_larger_model(name: &str) -> bool {
    name.strip_prefix("model.").unwrap_or(name).starts_with(TEXT_MODEL)
}

/// The name that a module or weight of a text model has in transformers' larger model:
/// `model.language_model.layers.0…` for `model.layers.0…`.
pub fn within_larger_model(canonical: &str) -> Cow<'_, str> {
    match canonical.strip_prefix("model.") {
        Some(bare) => Cow::Owned(format!("model.{TEXT_MODEL}{bare}")),
        None => Cow::Borrowed(canonical),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_transformers_reads() {
        for (name, canonical) in [
            ("layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("norm.weight", "model.norm.weight"),
            ("embed_tokens.weight", EMBEDDING),
            (EMBEDDING, EMBEDDING),
            ("model.model.norm.weight", "model.norm.weight"),
            ("model.lm_head.weight", HEAD),
            (HEAD, HEAD),
            ("normal.weight", "normal.weight"),
            ("model.language_model.embed_tokens.weight", EMBEDDING),
            ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("language_model.lm_head.weight", HEAD),
            ("model.vision_tower.norm.weight", "vision_tower.norm.weight"),
            ("multi_modal_projector.norm.weight", "multi_modal_projector.norm.weight"),
        ] {
            assert_eq!(canonical_name(name), canonical);
        }
    }

    #[test]
    fn names_within_a_larger_model_are_told_and_made() {
        for name in ["model.layers.0.mlp.up_proj", EMBEDDING, HEAD] {
            let within = within_larger_model(name);
            assert_eq!(canonical_name(&within), name);
            assert_eq!(is_within_larger_model(&within), name != HEAD);
            assert!(!is_within_larger_model(name));
        }
        assert!(reads_images("vision_tower.norm.weight") && !reads_images("model.norm.weight"));
    }
}
