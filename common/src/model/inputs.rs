//! The inputs of the blocks of a pass, which wait for the backward on the device or on the host.

use crate::Result;
use crate::device::{OffloadedTensor, Tensor};

/// The inputs of blocks, in the order of the forward. Those that wait on the host are copied there while their block
/// computes, and come back while the block above theirs runs backward.
#[derive(Default)]
pub(super) struct Inputs {
    waiting: Vec<Input>,
}

enum Input {
    OnDevice(Tensor),
    OnHost(OffloadedTensor),
}

impl Inputs {
    /// Adds the input of the next block, which is about to compute with it.
    pub(super) fn push(&mut self, x: &Tensor, is_offloaded: bool) -> Result<()> {
        self.waiting.push(match is_offloaded {
            true => Input::OnHost(OffloadedTensor::begin(x)?),
            false => Input::OnDevice(x.clone()),
        });
        Ok(())
    }

    /// Gives up the memory of the last input where it has been copied to the host. Its block has computed.
    pub(super) fn release(&mut self) -> Result<()> {
        match self.waiting.last_mut() {
            Some(Input::OnHost(tensor)) => tensor.release(),
            Some(Input::OnDevice(_)) | None => Ok(()),
        }
    }

    /// Takes the last input, and lets the one below it come back meanwhile.
    pub(super) fn pop(&mut self) -> Result<Option<Tensor>> {
        let last = match self.waiting.pop() {
            Some(Input::OnHost(tensor)) => Some(tensor.take()?),
            Some(Input::OnDevice(tensor)) => Some(tensor),
            None => None,
        };
        if let Some(Input::OnHost(below)) = self.waiting.last_mut() {
            below.fetch()?;
        }
        Ok(last)
    }

    /// Bytes of all inputs.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |input: &Input| match input {
            Input::OnDevice(tensor) => tensor.bytes(),
            Input::OnHost(_) => 0,
        };
        self.waiting.iter().map(bytes).sum()
    }
}
