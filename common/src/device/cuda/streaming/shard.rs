//! Blocks that are divided among the GPUs of all ranks: each rank keeps one of as many equal parts of a block's image as
//! there are ranks, and all ranks gather a block into their slots at the same time.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::super::nccl::Communicator;
use super::super::{Gpu, buffer_bytes};
use super::buffer::Slot;
use super::image::Image;
use crate::Result;

/// The bytes of each of `ranks` equal parts of a block of `bytes` bytes.
pub(crate) fn part_bytes(bytes: u64, ranks: usize) -> u64 {
    buffer_bytes::<u8>(bytes.div_ceil(ranks.max(1) as u64) as usize)
}

/// The part of a block that this rank keeps.
pub(super) struct Shard {
    part: CudaSlice<u8>,
    communicator: Arc<Communicator>,
}

impl Shard {
    /// Reads this rank's part of an image, and nothing else of it.
    pub(super) fn new(gpu: &Gpu, image: Image, communicator: Arc<Communicator>) -> Result<Self> {
        let bytes = part_bytes(image.len() as u64, communicator.size()) as usize;
        let mut part = vec![0; bytes];
        image.read(communicator.rank() * bytes, &mut part);
        image.release();
        Ok(Self { part: gpu.upload(&part)?, communicator })
    }

    /// Queues the gather of the block into `slot`.
    pub(super) fn queue(&self, stream: &CudaStream, slot: &Slot) -> Result<()> {
        let address = slot.address(self.communicator.size() * self.part.len())?;
        // SAFETY: the slot has room for the parts of all ranks. It is used by this and by computations that events order
        // with it, and both it and the part are freed after `Streaming` has waited for the stream.
        #[allow(unsafe_code)]
        unsafe {
            self.communicator.gather(&self.part, address, stream)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of all ranks, one after the other, are the image, followed by zeros.
    #[test]
    fn parts_make_the_image() {
        let mut image = Image::default();
        for len in [3000, 1, 700, 2_500_000] {
            image.push([(0..len).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into()]);
        }
        let mut whole = vec![0; image.len()];
        image.read(0, &mut whole);
        for ranks in [1, 2, 3, 4, 7, 64] {
            let bytes = part_bytes(image.len() as u64, ranks) as usize;
            let mut gathered = vec![9; ranks * bytes];
            for (rank, part) in gathered.chunks_mut(bytes).enumerate() {
                image.read(rank * bytes, part);
            }
            let (image, rest) = gathered.split_at(whole.len());
            assert!(image == whole && rest.iter().all(|byte| *byte == 0), "{ranks} ranks");
            assert!(rest.len() <= ranks * 512 && bytes.is_multiple_of(512));
        }
        assert_eq!(part_bytes(4096, 1), 4096);
    }
}
