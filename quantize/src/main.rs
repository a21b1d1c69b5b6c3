//! Quantizes a model's linear weights to NF4.

fn main() {}
