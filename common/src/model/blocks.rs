//! The blocks of a model, whose weights lie on the device or are streamed to it ([`streaming`]).
//!
//! [`streaming`]: crate::device::cuda::streaming

use super::block::Block;
use super::weight_reader::WeightReader;
use super::{LayerConfig, Place, Places};
use crate::device::Device;
use crate::device::cuda::{Streaming, StreamingLoader, Way};
use crate::world::{World, shared_bytes};
use crate::{Result, error};

/// All blocks, in the order in which a forward visits them.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    /// The number that each streamed block has among those that are streamed.
    streamed: Vec<Option<usize>>,
    streaming: Option<Streaming>,
}

impl Blocks {
    /// Loads the blocks of these layers. On a GPU their weights go to `places`, whose slots have room for any streamed
    /// block of `slot_bytes`, and the ranks of `world` share what lies on the host or is sharded; on the host they stay in the
    /// memory map of their files.
    pub(super) fn load(
        layers: &[LayerConfig],
        weights: WeightReader,
        places: &Places,
        slot_bytes: u64,
        world: &World,
    ) -> Result<Self> {
        let of_blocks = places.of_blocks();
        if of_blocks.len() != layers.len() {
            return Err(error!(
                Bug,
                "places for {} blocks expected, found {}",
                layers.len(),
                of_blocks.len()
            ));
        }
        let mut loader = match weights.device {
            Device::Cuda(gpu) if places.streamed() > 0 => {
                let shared = match places.count(Place::PageLocked) as u64 {
                    0 => None,
                    count => world.share_memory(count * shared_bytes(slot_bytes))?,
                };
                let communicator = world.communicator();
                Some(StreamingLoader::new(gpu, places.slots(), slot_bytes, communicator, shared)?)
            }
            _ => None,
        };
        let (mut blocks, mut streamed, mut count) = (Vec::new(), Vec::new(), 0);
        for (layer, &place) in layers.iter().zip(of_blocks) {
            let Some(loader) = loader.as_mut().filter(|_| place != Place::Gpu) else {
                blocks.push(Block::load(layer, &weights)?);
                streamed.push(None);
                continue;
            };
            let block = loader.begin();
            blocks.push(Block::load(layer, &WeightReader { block: Some(&block), ..weights })?);
            loader.end(block, place)?;
            streamed.push(Some(count));
            count += 1;
        }
        let streaming = loader.map(StreamingLoader::finish).transpose()?;
        Ok(Self { blocks, streamed, streaming })
    }

    /// Computes with a block, whose weights are there until `work` returns, on a pass of this way.
    pub(super) fn visit<T>(
        &self,
        index: usize,
        way: Way,
        work: impl FnOnce(&Block) -> Result<T>,
    ) -> Result<T> {
        let block = self.blocks.get(index).ok_or_else(|| error!(Bug, "block {index} is visited"))?;
        match (&self.streaming, self.streamed[index]) {
            (Some(streaming), Some(number)) => {
                streaming.visit(number, self.among_streamed(way), || work(block))
            }
            _ => work(block),
        }
    }

    /// Visits blocks in this order without computing, on a pass of this way that another rank computes, where any block is
    /// gathered from all ranks.
    pub(super) fn accompany(&self, mut indices: impl Iterator<Item = usize>, way: Way) -> Result<()> {
        match self.are_sharded() {
            true => indices.try_for_each(|index| self.visit(index, way, |_| Ok(()))),
            false => Ok(()),
        }
    }

    /// The way of a pass in the numbers of the streamed blocks.
    fn among_streamed(&self, way: Way) -> Way {
        match way {
            Way::Backward { last } => Way::Backward { last: self.streamed[..last].iter().flatten().count() },
            Way::Forward | Way::ForwardOfTape => way,
        }
    }

    /// Whether any block is streamed.
    pub(super) fn are_streamed(&self) -> bool {
        self.streaming.is_some()
    }

    /// Whether any block is gathered from all ranks, which then must visit all blocks in the same order.
    pub(super) fn are_sharded(&self) -> bool {
        self.streaming.as_ref().is_some_and(Streaming::is_sharded)
    }

    /// The number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The blocks, for anything but computing with their weights.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter()
    }

    /// The blocks, to change their adapters.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.blocks.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, Cache, Model};

    #[test]
    fn on_the_host_no_place_changes_anything() {
        let directory = &crate::model::tiny_models()[0];
        let batch = Batch::prompt(&[3, 1, 4, 1, 5], 0);
        let resident = Model::load(directory, &Device::Cpu).unwrap();
        let expected = resident.logits(&batch, &[4], Cache::None).unwrap();
        let count = resident.blocks.len();
        for place in [Place::PageLocked, Place::File] {
            let places = Places::streaming(count, count, 1, place);
            let model = Model::load_to(directory, None, &Device::Cpu, |_| Ok(places.clone())).unwrap();
            assert!(model.blocks.streaming.is_none());
            assert_eq!(model.logits(&batch, &[4], Cache::None).unwrap(), expected);
        }
        let error = Model::load_to(directory, None, &Device::Cpu, |_| Ok(Places::resident(count + 1))).err();
        let expected = format!("places for {count} blocks expected, found {}", count + 1);
        assert!(error.unwrap().to_string().contains(&expected));
    }

    #[test]
    fn a_backward_ends_with_the_first_streamed_block_above_the_first_adapter() {
        let streamed = [None, Some(0), None, Some(1), Some(2)].to_vec();
        let blocks = Blocks { blocks: Vec::new(), streamed, streaming: None };
        let last = |last| blocks.among_streamed(Way::Backward { last });
        let expected = [0, 0, 1, 1, 2, 3].map(|last| Way::Backward { last });
        assert_eq!([0, 1, 2, 3, 4, 5].map(last), expected);
        assert_eq!(blocks.among_streamed(Way::Forward), Way::Forward);
    }
}
