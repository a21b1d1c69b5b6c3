//! Every kernel on the GPU against its twin on the host: the same inputs, rounded to 16 bits; buffers
//! that hold NaN before; the same bits in two runs. `make test-gpu` runs them.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // how far apart the twins are

mod adamw;
mod attention;
mod check;
mod cross_entropy;
mod elementwise;
mod embedding;
mod experts;
mod linear;

/// More rows than a grid has in y and z.
const MANY_ROWS: usize = 65_535 + 5;
