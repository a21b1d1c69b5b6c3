//! Folds LoRA adapters into a model's weights.

fn main() {}
