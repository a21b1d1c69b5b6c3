//! Fine-tunes LoRA adapters on a frozen model.

fn main() {}
