//! The operations of the model, one folder each: `mod.rs` checks shapes and picks the device,
//! `cpu.rs` is the plain reference, forward beside backward, `cuda.rs` the launch of the kernels in the
//! `.cu` file beside it.
//!
//! Letters in shapes: T tokens, C model width, H heads, K key/value heads, D head size, F
//! feed-forward width, V vocabulary, R LoRA rank, N and K outputs and inputs of a linear layer, E experts, S slots
//! of tokens that go to experts.
//!
//! Every backward returns gradients of its inputs. A function that writes to what it is given takes a
//! [`Write`], which says whether it overwrites or adds, or does what its name says: `add_inputs`,
//! `add_outputs` and `gradients` add.

pub use crate::device::Write;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub(crate) mod exp;
pub mod glu;
pub mod grouped_linear;
pub mod linear;
pub mod linear_cross_entropy;
#[cfg(test)]
mod oracle;
pub mod philox;
pub mod product;
pub mod rms_norm;
pub mod rope;
pub mod routing;
pub mod sigmoid;
pub(crate) mod simd;
pub(crate) mod tanh;

/// Every file of kernels, for callers that compile them before they are used.
pub fn sources() -> Vec<&'static crate::device::cuda::KernelSource> {
    let attention = attention::cuda::SOURCES.iter().flat_map(|kernels| kernels.variants.iter().flatten());
    let on_hopper = attention::cuda::HOPPER.iter().flat_map(|(kernels, _)| kernels.variants.iter().flatten());
    let others = [
        &crate::device::cuda::TENSOR,
        &adamw::cuda::SOURCE,
        &adamw::cuda::IN_8_BITS,
        &dropout::cuda::SOURCE,
        &linear::cuda::SOURCE,
        &linear::cuda::LORA,
        &linear_cross_entropy::cuda::SOURCE,
        &rms_norm::cuda::SOURCE,
        &rope::cuda::SOURCE,
        &glu::cuda::SOURCE,
        &sigmoid::cuda::SOURCE,
        &routing::cuda::SOURCE,
        &grouped_linear::cuda::SOURCE,
        &grouped_linear::cuda::HOPPER,
        &grouped_linear::cuda::GRADIENTS,
        &grouped_linear::cuda::QUANTIZED,
    ];
    attention.chain(on_hopper).chain(others).collect()
}
