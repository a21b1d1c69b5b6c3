//! Runs 5-shot MMLU.

fn main() {}
