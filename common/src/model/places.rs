//! Where the frozen weights of each block lie, and how many blocks a GPU has room for.

use crate::cli::Size;
use crate::device::cuda::part_bytes;

pub use crate::device::cuda::Place;

/// Slots that blocks are streamed through: while one block computes, the next two are copied.
const SLOTS: usize = 3;
/// Slots where not even that many have room: while one block computes, the next is copied.
const FEWEST_SLOTS: usize = 2;

/// Where the frozen weights of each block lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    blocks: Vec<Place>,
    slots: usize,
    /// The ranks that sharded blocks are divided among.
    ranks: usize,
}

impl Places {
    /// All of `blocks` blocks on the GPU, or in the memory map of their files on the host.
    pub fn resident(blocks: usize) -> Self {
        Self { blocks: vec![Place::Gpu; blocks], slots: 0, ranks: 1 }
    }

    /// `streamed` of `blocks` blocks are streamed from `place` through `slots` slots. They are spread evenly, so that
    /// copies run beside the computations of the blocks between them too.
    pub fn streaming(blocks: usize, streamed: usize, slots: usize, place: Place) -> Self {
        let place = |is_streamed| if is_streamed { place } else { Place::Gpu };
        let blocks = spread(streamed.min(blocks), blocks).map(place).collect();
        Self { blocks, slots: if streamed > 0 { slots.max(1) } else { 0 }, ranks: 1 }
    }

    /// As [`Places::streaming`], with the streamed blocks divided among the GPUs of `ranks` ranks.
    pub fn sharding(blocks: usize, sharded: usize, slots: usize, ranks: usize) -> Self {
        Self { ranks: ranks.max(1), ..Self::streaming(blocks, sharded, slots, Place::Sharded) }
    }

    /// The places of blocks of `bytes` bytes with as many blocks on a GPU as `on_gpu` bytes have room for, and those
    /// that are streamed in page-locked memory as far as `on_host` bytes allow that. Where not even the slots fit, every
    /// block is streamed.
    pub fn fit(bytes: &[u64], on_gpu: u64, on_host: u64) -> Self {
        let streaming = |streamed, slots| Self::streaming(bytes.len(), streamed, slots, Place::File);
        Self::with_fewest_streamed(bytes, on_gpu, streaming).page_locked(bytes, on_host)
    }

    /// The places of blocks of `bytes` bytes with as many whole blocks on each GPU as `on_gpu` bytes have room for, and
    /// the others divided among the GPUs of `ranks` ranks. Where not even that fits, every block is divided.
    pub fn fit_sharded(bytes: &[u64], on_gpu: u64, ranks: usize) -> Self {
        Self::with_fewest_streamed(bytes, on_gpu, |sharded, slots| {
            Self::sharding(bytes.len(), sharded, slots, ranks)
        })
    }

    /// The first that fits of places with all blocks on the GPU, and of those that `streaming` makes of the number of
    /// streamed blocks and that of slots; or else that with all blocks streamed.
    fn with_fewest_streamed(bytes: &[u64], on_gpu: u64, streaming: impl Fn(usize, usize) -> Self) -> Self {
        let count = bytes.len();
        let resident = Self::resident(count);
        // With as many slots as streamed blocks, all of them could stay.
        if resident.bytes_on_gpu(bytes) <= on_gpu || count <= FEWEST_SLOTS {
            return resident;
        }
        let mut choices = (SLOTS + 1..=count).map(|streamed| streaming(streamed, SLOTS));
        let fitting = choices.find(|places| places.bytes_on_gpu(bytes) <= on_gpu);
        fitting.unwrap_or_else(|| streaming(count, FEWEST_SLOTS))
    }

    /// These places, with as many of the streamed blocks in page-locked memory as `on_host` bytes allow, spread
    /// evenly.
    fn page_locked(mut self, bytes: &[u64], on_host: u64) -> Self {
        let indices: Vec<usize> = (0..self.blocks.len()).filter(|&index| self.is_streamed(index)).collect();
        let locked = |count: usize| {
            let is_locked = spread(count, indices.len());
            indices.iter().zip(is_locked).filter(|(_, is_locked)| *is_locked).map(|(&index, _)| index)
        };
        let fits = |count: &usize| locked(*count).map(|index| bytes[index]).sum::<u64>() <= on_host;
        let count = (0..=indices.len()).rev().find(fits).unwrap_or(0);
        let chosen: Vec<usize> = locked(count).collect();
        chosen.into_iter().for_each(|index| self.blocks[index] = Place::PageLocked);
        self
    }

    /// The place of each block.
    pub fn of_blocks(&self) -> &[Place] {
        &self.blocks
    }

    /// The blocks that are streamed, of blocks of `bytes` bytes, and the memory that they take, for people.
    pub fn summary(&self, bytes: &[u64]) -> String {
        if self.is_sharded() {
            return format!(
                "{} of {} blocks, with a part of {} on each of {} GPUs, gathered through {} slots of {}",
                self.streamed(),
                self.blocks.len(),
                Size(self.shard_bytes(bytes)).rounded_up(),
                self.ranks,
                self.slots,
                Size(self.slot_bytes(bytes)).rounded_up()
            );
        }
        let [locked, from_files] =
            [Place::PageLocked, Place::File].map(|place| Size(self.bytes_in(place, bytes)).rounded_up());
        let files = match self.count(Place::File) {
            0 => String::new(),
            count => format!(", {from_files} of {count} blocks read from their files in each pass"),
        };
        let (streamed, all, slots) = (self.streamed(), self.blocks.len(), self.slots);
        format!(
            "{streamed} of {all} blocks through {slots} slots, from {locked} of page-locked host memory{files}"
        )
    }

    /// The number of blocks that are streamed.
    pub fn streamed(&self) -> usize {
        self.blocks.len() - self.count(Place::Gpu)
    }

    /// The number of blocks in this place.
    pub fn count(&self, place: Place) -> usize {
        self.blocks.iter().filter(|other| **other == place).count()
    }

    /// The number of slots that blocks are streamed through.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Whether any block is divided among ranks.
    pub fn is_sharded(&self) -> bool {
        self.blocks.contains(&Place::Sharded)
    }

    /// The bytes of a slot, which has room for each streamed block, of blocks of `bytes` bytes.
    pub fn slot_bytes(&self, bytes: &[u64]) -> u64 {
        let in_slot = |(&bytes, place): (&u64, &Place)| match place {
            Place::Gpu => 0,
            Place::PageLocked | Place::File => bytes,
            Place::Sharded => self.ranks as u64 * part_bytes(bytes, self.ranks),
        };
        bytes.iter().zip(&self.blocks).map(in_slot).max().unwrap_or(0)
    }

    /// The bytes that blocks of `bytes` bytes, parts of them, and the slots take on a GPU.
    pub fn bytes_on_gpu(&self, bytes: &[u64]) -> u64 {
        self.bytes_in(Place::Gpu, bytes)
            + self.shard_bytes(bytes)
            + self.slots as u64 * self.slot_bytes(bytes)
    }

    /// The bytes of a rank's parts of the sharded blocks, of blocks of `bytes` bytes.
    fn shard_bytes(&self, bytes: &[u64]) -> u64 {
        let sharded = bytes.iter().zip(&self.blocks).filter(|(_, place)| **place == Place::Sharded);
        sharded.map(|(bytes, _)| part_bytes(*bytes, self.ranks)).sum()
    }

    /// The bytes of the blocks in this place.
    pub fn bytes_in(&self, place: Place, bytes: &[u64]) -> u64 {
        bytes.iter().zip(&self.blocks).filter(|(_, other)| **other == place).map(|(bytes, _)| bytes).sum()
    }

    /// The bytes that a step's forward and backward copy to a GPU: every streamed block once for each, but for those that
    /// the slots hold at the two turns.
    pub fn bytes_copied(&self, bytes: &[u64]) -> u64 {
        let streamed: Vec<u64> = (0..self.blocks.len())
            .filter(|&index| self.is_streamed(index))
            .map(|index| bytes[index])
            .collect();
        let held = self.slots.min(streamed.len());
        let above_the_first: u64 = streamed[held..].iter().sum();
        let below_the_last: u64 = streamed[..streamed.len() - held].iter().sum();
        above_the_first + below_the_last
    }

    fn is_streamed(&self, index: usize) -> bool {
        self.blocks[index] != Place::Gpu
    }
}

/// Which of `all` things are chosen, where `chosen` of them are, evenly.
fn spread(chosen: usize, all: usize) -> impl Iterator<Item = bool> {
    (0..all).map(move |index| (index + 1) * chosen / all > index * chosen / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// The blocks of a model of 80 layers.
    const BYTES: [u64; 80] = [450 * MIB; 80];

    /// Places, page-locked blocks and slots.
    fn shape(places: &Places) -> (usize, usize, usize, usize) {
        let [gpu, locked, file] =
            [Place::Gpu, Place::PageLocked, Place::File].map(|place| places.count(place));
        (gpu, locked, file, places.slots())
    }

    #[test]
    fn as_many_blocks_stay_as_there_is_room_for() {
        let fit = |on_gpu, on_host| Places::fit(&BYTES, on_gpu, on_host);
        let all = 80 * 450 * MIB;
        assert_eq!(shape(&fit(all, 0)), (80, 0, 0, 0));
        // One block too many: three slots take the room of three, and hold four.
        assert_eq!(shape(&fit(all - 1, u64::MAX)), (76, 4, 0, 3));
        assert_eq!(shape(&fit(20 << 30, u64::MAX)), (42, 38, 0, 3), "20 GiB have room for 45 blocks");
        assert_eq!(shape(&fit(3 * 450 * MIB, u64::MAX)), (0, 80, 0, 3));
        assert_eq!(shape(&fit(3 * 450 * MIB - 1, u64::MAX)), (0, 80, 0, 2));
        let least = fit(0, u64::MAX);
        assert_eq!((shape(&least), least.bytes_on_gpu(&BYTES)), ((0, 80, 0, 2), 2 * 450 * MIB));
    }

    #[test]
    fn what_is_planned_fits() {
        // Layers of a mixture of experts behind three dense ones.
        let bytes: Vec<u64> =
            (0..30).map(|index| if index < 3 { 40 * MIB } else { 300 * MIB + index }).collect();
        let (least, all) = (600 * MIB + 58, bytes.iter().sum::<u64>());
        let mut before = 0;
        for on_gpu in (least..all).step_by(97 << 20) {
            let places = Places::fit(&bytes, on_gpu, 2 << 30);
            assert!(places.bytes_on_gpu(&bytes) <= on_gpu);
            assert!(places.bytes_in(Place::PageLocked, &bytes) <= 2 << 30);
            assert!(places.slot_bytes(&bytes) <= 300 * MIB + 29);
            let resident = places.count(Place::Gpu);
            assert!(resident >= before && resident < 30, "more memory keeps no fewer blocks");
            before = resident;
        }
        assert!(before > 20);
    }

    #[test]
    fn ranks_share_what_has_no_room() {
        let block = BYTES[0];
        let fit = |on_gpu, ranks| Places::fit_sharded(&BYTES, on_gpu, ranks);
        assert_eq!(fit(80 * block, 4), Places::resident(80));
        let sharded =
            |places: &Places| (places.count(Place::Gpu), places.count(Place::Sharded), places.slots());
        // 60 blocks whole leave 20 for parts of 20 blocks, of which 3 slots leave room for 68.
        let some = fit(68 * block, 4);
        assert_eq!(sharded(&some), (60, 20, 3));
        assert_eq!(some.bytes_on_gpu(&BYTES), 68 * block);
        let all = fit(23 * block, 4);
        assert_eq!((sharded(&all), all.bytes_on_gpu(&BYTES)), ((0, 80, 3), 23 * block));
        let least = fit(0, 4);
        assert_eq!((sharded(&least), least.bytes_on_gpu(&BYTES)), ((0, 80, 2), 22 * block));
        assert!(fit(23 * block, 8).count(Place::Gpu) > 0, "more GPUs leave room for more");

        // Parts that do not come out even take a little more, and so do the slots.
        let uneven = [1000 * 512, 10 * 512, 1001 * 512, 999 * 512];
        let places = Places::sharding(4, 4, 2, 3);
        assert_eq!(places.slot_bytes(&uneven), 3 * 334 * 512);
        assert_eq!(places.bytes_on_gpu(&uneven), (334 + 4 + 334 + 333 + 2 * 3 * 334) * 512);
    }

    #[test]
    fn people_are_told_which_memory_is_taken() {
        let summary = |on_host| Places::fit(&BYTES, 10 * 450 * MIB, on_host).summary(&BYTES);
        let all = "73 of 80 blocks through 3 slots, from 32850 MiB of page-locked host memory";
        assert_eq!(summary(u64::MAX), all);
        let some = "73 of 80 blocks through 3 slots, from 13500 MiB of page-locked host memory, \
                    19350 MiB of 43 blocks read from their files in each pass";
        assert_eq!(summary(30 * 450 * MIB), some);
        let sharded =
            "80 of 80 blocks, with a part of 9000 MiB on each of 4 GPUs, gathered through 3 slots of 450 MiB";
        assert_eq!(Places::sharding(80, 80, 3, 4).summary(&BYTES), sharded);
    }

    #[test]
    fn host_memory_bounds_what_is_page_locked() {
        let of_host = |on_host| shape(&Places::fit(&BYTES, 10 * 450 * MIB, on_host));
        assert_eq!(of_host(u64::MAX), (7, 73, 0, 3));
        assert_eq!(of_host(30 * 450 * MIB), (7, 30, 43, 3));
        assert_eq!(of_host(450 * MIB - 1), (7, 0, 73, 3));
    }

    #[test]
    fn streamed_blocks_are_spread() {
        let places = Places::streaming(9, 3, 2, Place::PageLocked);
        let streamed: Vec<usize> = (0..9).filter(|&index| places.is_streamed(index)).collect();
        assert_eq!(streamed, [2, 5, 8]);
        for (blocks, count) in [(80, 38), (80, 79), (5, 5), (7, 1), (30, 29)] {
            let places = Places::streaming(blocks, count, 3, Place::File);
            assert_eq!(places.streamed(), count);
            let gaps = (0..blocks).filter(|&index| places.is_streamed(index)).collect::<Vec<_>>();
            let gaps: Vec<usize> = gaps.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let [least, most] = [gaps.iter().min(), gaps.iter().max()];
            assert!(least.zip(most).is_none_or(|(least, most)| most - least <= 1), "{gaps:?}");
        }
    }

    #[test]
    fn blocks_in_the_slots_are_not_copied_at_turns() {
        let bytes = [10, 20, 30, 40, 50];
        let copied =
            |streamed, slots| Places::streaming(5, streamed, slots, Place::File).bytes_copied(&bytes);
        assert_eq!(copied(5, 2), (30 + 40 + 50) + (10 + 20 + 30));
        assert_eq!((copied(3, 1), copied(3, 2)), ((40 + 50) + (20 + 40), 50 + 20), "blocks 1, 3 and 4");
        assert_eq!((copied(5, 5), copied(0, 3)), (0, 0));
    }

    /// A model of few blocks is streamed only where that saves memory.
    #[test]
    fn few_blocks_stay() {
        for count in 1..=2 {
            assert_eq!(Places::fit(&BYTES[..count], 0, u64::MAX), Places::resident(count));
        }
        assert_eq!(shape(&Places::fit(&BYTES[..3], 1000 * MIB, u64::MAX)), (0, 3, 0, 2));
        assert_eq!(shape(&Places::fit(&BYTES[..4], 1500 * MIB, u64::MAX)), (0, 4, 0, 3));
    }
}
