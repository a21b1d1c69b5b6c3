//! The low-rank update of a matrix.

use super::{AdapterConfig, CONFIG};
use crate::checkpoint::Tensor;
use crate::{Result, bail};

/// The low-rank update of one linear layer: `W + scale · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The matrix A, `[rank, inputs]`.
    pub a: Vec<f32>,
    /// The matrix B, `[outputs, rank]`.
    pub b: Vec<f32>,
    /// The number of rows of A, which is the number of columns of B.
    pub rank: usize,
    /// The number of columns of the weight.
    pub inputs: usize,
    /// The number of rows of the weight.
    pub outputs: usize,
    /// The factor of `B · A`.
    pub scale: f32,
}

/// A low-rank update of one matrix, borrowed from an adapter: `W + scale · B · A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update<'a> {
    /// The matrix A, `[rank, inputs]`.
    pub a: &'a [f32],
    /// The matrix B, `[outputs, rank]`.
    pub b: &'a [f32],
    /// The number of rows of A, which is the number of columns of B.
    pub rank: usize,
    /// The number of columns of the weight.
    pub inputs: usize,
    /// The number of rows of the weight.
    pub outputs: usize,
    /// The factor of `B · A`.
    pub scale: f32,
}

impl Lora {
    /// The update, borrowed.
    pub(super) fn update(&self) -> Update<'_> {
        let Self { a, b, rank, inputs, outputs, scale } = self;
        Update { a, b, rank: *rank, inputs: *inputs, outputs: *outputs, scale: *scale }
    }

    /// Reads PEFT's two tensors of `module`. The rank has to be that of `config`.
    pub(super) fn read(config: &AdapterConfig, module: &str, a: &Tensor, b: &Tensor) -> Result<Self> {
        let (&[rank, inputs], &[outputs, b_rank]) = (&a.shape[..], &b.shape[..]) else {
            bail!(
                Malformed,
                "the adapter of {module} has shapes {:?} and {:?}, expected two dimensions",
                a.shape,
                b.shape
            );
        };
        if rank != b_rank || rank == 0 {
            bail!(
                Malformed,
                "the adapter of {module} has lora_A {:?} and lora_B {:?}, which do not fit",
                a.shape,
                b.shape
            );
        }
        let expected = config.rank(module);
        if rank != expected {
            bail!(Malformed, "the adapter of {module} has rank {rank}, {CONFIG} says {expected}");
        }
        let scale = config.scale(module, rank)?;
        Ok(Self { a: a.to_f32()?, b: b.to_f32()?, rank, inputs, outputs, scale })
    }
}
