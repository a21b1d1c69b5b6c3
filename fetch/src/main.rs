//! Downloads a model from a server speaking the hub's HTTP API.

fn main() {}
