//! Which block each slot holds, and in which order copies and computations use the slots. A trait stands for the
//! streams, so that these decisions are tested without a GPU.

use super::Way;
use crate::{Context, Result, error};

/// What the streams of a GPU are asked for.
pub(super) trait Copies {
    /// Queues a copy of a block into a slot, after the work that was done with the slot when it was last released.
    fn copy(&mut self, block: usize, slot: usize) -> Result<()>;
    /// Makes what computes from here on wait for the last copy into a slot.
    fn wait_for(&mut self, slot: usize) -> Result<()>;
    /// Makes the next copy into a slot wait for what was queued to compute so far.
    fn release(&mut self, slot: usize) -> Result<()>;
    /// Waits until everything is done that was queued to compute.
    fn drain(&mut self);
}

/// The slots that blocks are copied into. A block's slot is its number modulo the number of slots.
#[derive(Debug)]
pub(super) struct Slots {
    /// The block that each slot holds or that a queued copy brings there.
    holds: Vec<Option<usize>>,
    blocks: usize,
    order: Order,
}

/// Which copies may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Any copy: one that has failed is made again when it is needed.
    Free,
    /// Only the copies that all ranks make together, in one order. They follow from the visits alone, so all ranks
    /// must make the same visits. After a failure, which only one rank knows of, this rank makes no more copies.
    OfRanks {
        /// Whether there was a failure.
        has_failed: bool,
    },
}

impl Slots {
    pub(super) fn new(slots: usize, blocks: usize, order: Order) -> Self {
        Self { holds: vec![None; slots], blocks, order }
    }

    /// Runs `work`, which is told the slot and queues computations with the weights of `block`, on a pass of this way.
    pub(super) fn visit<C: Copies, T>(
        &mut self,
        block: usize,
        way: Way,
        copies: &mut C,
        work: impl FnOnce(usize, &mut C) -> Result<T>,
    ) -> Result<T> {
        let slot = self.enter(block, copies).context("the weights of a block")?;
        let done = work(slot, copies);
        // Whatever was queued, also before an error, is done with the slot before it is written again.
        let released = self.release(block, copies);
        if done.is_err() {
            self.fail();
        }
        let done = done?;
        released?;
        self.fetch_ahead(block, way, copies).context("the weights of the next blocks")?;
        Ok(done)
    }

    /// Queues copies of the blocks that the first pass begins with.
    pub(super) fn fill(&mut self, copies: &mut impl Copies) -> Result<()> {
        self.fetch(0..self.blocks.min(self.holds.len()), copies)
    }

    /// Begins the visit of a block, which is copied now unless its slot holds it. Returns the slot.
    fn enter(&mut self, block: usize, copies: &mut impl Copies) -> Result<usize> {
        if block >= self.blocks {
            return Err(error!(Bug, "a visit of block {block} of {}", self.blocks));
        }
        let slot = self.slot_of(block);
        if self.holds[slot] != Some(block) {
            self.copy(block, copies)?;
        }
        copies.wait_for(slot).inspect_err(|_| self.fail())?;
        Ok(slot)
    }

    /// Ends the visit of a block, also one whose computation has failed.
    fn release(&mut self, block: usize, copies: &mut impl Copies) -> Result<()> {
        // Without the event, the next copy could overwrite what is still being read.
        copies.release(self.slot_of(block)).inspect_err(|_| {
            copies.drain();
            self.fail();
        })
    }

    /// Queues copies of the blocks that are visited after `block`, which has been released: as many as there are other
    /// slots, so that the slots whose work is done first are written first.
    fn fetch_ahead(&mut self, block: usize, way: Way, copies: &mut impl Copies) -> Result<()> {
        let ahead = self.holds.len() - 1;
        self.fetch(way.upcoming(block, self.blocks).take(ahead), copies)
    }

    /// Queues copies of these blocks where slots do not hold them, up to a block whose slot another one needs before.
    fn fetch(&mut self, upcoming: impl Iterator<Item = usize>, copies: &mut impl Copies) -> Result<()> {
        let mut is_needed = vec![false; self.holds.len()];
        for block in upcoming {
            let slot = self.slot_of(block);
            if self.holds[slot] != Some(block) {
                if is_needed[slot] {
                    break;
                }
                self.copy(block, copies)?;
            }
            is_needed[slot] = true;
        }
        Ok(())
    }

    fn copy(&mut self, block: usize, copies: &mut impl Copies) -> Result<()> {
        if self.order == (Order::OfRanks { has_failed: true }) {
            return Err(error!(Bug, "block {block} is gathered by a rank that has failed"));
        }
        let slot = self.slot_of(block);
        // A copy that fails may have written a part.
        self.holds[slot] = None;
        copies.copy(block, slot).inspect_err(|_| self.fail())?;
        self.holds[slot] = Some(block);
        Ok(())
    }

    fn fail(&mut self) {
        if let Order::OfRanks { has_failed } = &mut self.order {
            *has_failed = true;
        }
    }

    fn slot_of(&self, block: usize) -> usize {
        block % self.holds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::two_streams::{Queued, Stream, TwoStreams, Work};

    /// Two streams that note what they are asked for; the memory of a work is a slot, its number a block.
    struct Notes {
        streams: TwoStreams<usize>,
        /// For each slot, the number of computations that the next copy waits for.
        used: Vec<usize>,
        /// For each slot, the number of copies that the next computation waits for.
        copied: Vec<usize>,
        copies: usize,
    }

    impl Notes {
        fn new(slots: usize, fails_at: usize) -> Self {
            let [used, copied] = [vec![0; slots], vec![0; slots]];
            Self { streams: TwoStreams::new(fails_at), used, copied, copies: 0 }
        }
    }

    impl Copies for Notes {
        fn copy(&mut self, block: usize, slot: usize) -> Result<()> {
            let Self { streams, used, copied, copies } = self;
            streams.wait(Stream::Copy, used[slot]);
            let called = streams.call();
            streams.queue(Stream::Copy, slot, Work::Write(called.is_ok().then_some(block)));
            called?;
            *copies += 1;
            copied[slot] = streams.count(Stream::Copy);
            Ok(())
        }

        fn wait_for(&mut self, slot: usize) -> Result<()> {
            self.streams.call()?;
            self.streams.wait(Stream::Compute, self.copied[slot]);
            Ok(())
        }

        fn release(&mut self, slot: usize) -> Result<()> {
            self.streams.call()?;
            self.used[slot] = self.streams.count(Stream::Compute);
            Ok(())
        }

        fn drain(&mut self) {
            self.streams.wait_for_all(Stream::Copy);
        }
    }

    /// A visit with a computation that may have queued its work when it fails.
    fn visit(slots: &mut Slots, notes: &mut Notes, block: usize, way: Way) -> Result<()> {
        slots.visit(block, way, notes, |slot, notes| {
            notes.streams.queue(Stream::Compute, slot, Work::Read(block));
            notes.streams.call()
        })
    }

    fn forward(slots: &mut Slots, notes: &mut Notes, way: Way) -> Result<()> {
        (0..slots.blocks).try_for_each(|block| visit(slots, notes, block, way))
    }

    fn train(slots: &mut Slots, notes: &mut Notes, last: usize) -> Result<()> {
        forward(slots, notes, Way::ForwardOfTape)?;
        let way = Way::Backward { last };
        (last..slots.blocks).rev().try_for_each(|block| visit(slots, notes, block, way))
    }

    /// Slots and blocks of all sizes that matter.
    fn sizes() -> impl Iterator<Item = (usize, usize)> {
        (1..=3).flat_map(|slots| (1..=8).map(move |blocks| (slots, blocks)))
    }

    #[test]
    fn every_block_computes_with_its_own_bytes() {
        for (count, blocks) in sizes() {
            for last in 0..blocks {
                let (mut slots, mut notes) = (Slots::new(count, blocks, Order::Free), Notes::new(count, 0));
                slots.fill(&mut notes).unwrap();
                for _ in 0..2 {
                    train(&mut slots, &mut notes, last).unwrap();
                    forward(&mut slots, &mut notes, Way::Forward).unwrap();
                }
                notes.streams.check();
                let reads = notes.streams.count(Stream::Compute);
                assert_eq!(reads, 2 * (3 * blocks - last));
            }
        }
    }

    /// Whichever call fails, the passes after it compute with the right bytes.
    #[test]
    fn a_call_that_fails_leaves_no_slot_with_wrong_bytes() {
        for (count, blocks) in sizes() {
            for fails_at in 1.. {
                let (mut slots, mut notes) =
                    (Slots::new(count, blocks, Order::Free), Notes::new(count, fails_at));
                let filled = slots.fill(&mut notes);
                let passes = [train(&mut slots, &mut notes, 0), train(&mut slots, &mut notes, blocks / 2)];
                forward(&mut slots, &mut notes, Way::Forward).ok();
                train(&mut slots, &mut notes, 0).ok();
                notes.streams.check();
                if notes.streams.calls < fails_at {
                    assert!(filled.is_ok() && passes.iter().all(Result::is_ok));
                    break;
                }
            }
        }
    }

    /// Blocks whose slots are held at a turn are not copied again.
    #[test]
    fn turns_are_free() {
        let (count, blocks) = (3, 10);
        let (mut slots, mut notes) = (Slots::new(count, blocks, Order::Free), Notes::new(count, 0));
        slots.fill(&mut notes).unwrap();
        let mut copies = 0;
        let mut made = |notes: &Notes| notes.copies - std::mem::replace(&mut copies, notes.copies);
        assert_eq!(made(&notes), 3);
        for _ in 0..3 {
            train(&mut slots, &mut notes, 0).unwrap();
            assert_eq!(made(&notes), 2 * (10 - 3), "the last blocks and the first serve twice");
        }
        forward(&mut slots, &mut notes, Way::Forward).unwrap();
        assert_eq!(made(&notes), 10 - 3 + 2, "and two blocks of the next forward");
    }

    /// After the first visit of a pass, no visit begins with a copy, and every copy was queued before the visit in front
    /// of it, so that it runs beside a computation.
    #[test]
    fn copies_run_ahead_of_visits() {
        for (count, blocks) in [(2, 5), (2, 8), (3, 7), (3, 8), (3, 9)] {
            let (mut slots, mut notes) = (Slots::new(count, blocks, Order::Free), Notes::new(count, 0));
            slots.fill(&mut notes).unwrap();
            for _ in 0..2 {
                train(&mut slots, &mut notes, 0).unwrap();
            }
            let queued = &notes.streams.queued;
            for (at, read) in queued.iter().enumerate() {
                let (Work::Read(block), true) = (read.work, read.own > 0) else { continue };
                let brings = |work: &Queued<usize>| work.work == Work::Write(Some(block));
                let copied = queued[..at].iter().rposition(brings).unwrap();
                let before = queued[..at].iter().rposition(|work| work.stream == Stream::Compute).unwrap();
                // With two slots, the copy is queued when the visit in front of it has been: it waits for the one before.
                let waits_for = queued[copied].other;
                assert!(copied < before || count == 2, "{count} slots, block {block}");
                assert!(
                    waits_for < read.own,
                    "{count} slots, block {block}: a copy waits for the visit before"
                );
            }
        }
    }

    #[test]
    fn two_slots_copy_the_next_block_while_one_computes() {
        let (mut slots, mut notes) = (Slots::new(2, 4, Order::Free), Notes::new(2, 0));
        slots.fill(&mut notes).unwrap();
        forward(&mut slots, &mut notes, Way::ForwardOfTape).unwrap();
        let order: Vec<_> = notes.streams.queued.iter().map(|queued| queued.work).collect();
        let (write, read) = (|block| Work::Write(Some(block)), Work::Read);
        assert_eq!(order, [write(0), write(1), read(0), read(1), write(2), read(2), write(3), read(3)]);
        assert_eq!(notes.streams.queued[4].other, 1, "block 2 waits for block 0, whose slot it takes");
    }

    /// What a rank does in a step of training.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Sweep {
        /// A pass of its own, forward and backward.
        Pass,
        /// A pass of its own that has nothing to learn, so that nothing is computed on the way down.
        Untrained,
        /// A part in the pass of another rank.
        Accompany,
    }

    /// The blocks that a rank gathers, in order, in a step of these sweeps and an evaluation after it; and whether all
    /// calls succeeded.
    fn gathered(
        shape: (usize, usize, usize),
        sweeps: &[Sweep],
        fails_at: usize,
    ) -> (Vec<usize>, bool, usize) {
        let (count, blocks, last) = shape;
        let mut slots = Slots::new(count, blocks, Order::OfRanks { has_failed: false });
        let mut notes = Notes::new(count, fails_at);
        let mut run = || -> Result<()> {
            slots.fill(&mut notes)?;
            for sweep in sweeps {
                let mut visit_as = |block, way, computes: bool| match computes {
                    true => visit(&mut slots, &mut notes, block, way),
                    false => slots.visit(block, way, &mut notes, |_, _| Ok(())),
                };
                for block in 0..blocks {
                    visit_as(block, Way::ForwardOfTape, *sweep != Sweep::Accompany)?;
                }
                for block in (last..blocks).rev() {
                    visit_as(block, Way::Backward { last }, *sweep == Sweep::Pass)?;
                }
            }
            forward(&mut slots, &mut notes, Way::Forward)
        };
        let is_whole = run().is_ok();
        // A rank that has failed makes no copy, whatever it does next.
        let before = notes.copies;
        train(&mut slots, &mut notes, 0).ok();
        assert!(is_whole || notes.copies == before);
        notes.streams.check();
        let copied = notes.streams.queued.iter().filter_map(|queued| match queued.work {
            Work::Write(block) => block,
            Work::Read(_) => None,
        });
        (copied.take(before).collect(), is_whole, notes.streams.calls)
    }

    /// Ranks with two passes, with one, with none and with one that has nothing to learn gather the same blocks in the
    /// same order; and what a rank has gathered before one of its calls fails is the beginning of that.
    #[test]
    fn all_ranks_gather_in_one_order() {
        use Sweep::{Accompany, Pass, Untrained};
        for (count, blocks) in sizes() {
            for last in [0, blocks / 2] {
                let shape = (count, blocks, last);
                let (expected, is_whole, _) = gathered(shape, &[Pass, Pass], 0);
                assert!(is_whole);
                for sweeps in [[Pass, Accompany], [Accompany, Accompany], [Untrained, Accompany]] {
                    assert_eq!(gathered(shape, &sweeps, 0).0, expected, "{count} slots, {blocks} blocks");
                    for fails_at in 1.. {
                        let (found, is_whole, calls) = gathered(shape, &sweeps, fails_at);
                        assert!(expected.starts_with(&found), "{found:?} is no beginning of {expected:?}");
                        if calls < fails_at {
                            break;
                        }
                        assert!(!is_whole || found == expected);
                    }
                }
            }
        }
    }
}
