//! When a tensor is copied to the host and back, and what waits for the copies. A trait stands for the streams, so
//! that these decisions are tested without a GPU.

use crate::{Result, error};

/// What the streams of a GPU are asked for, for one tensor with a place on the host.
pub(super) trait Streams {
    /// Memory of the GPU. Once it is dropped, it is free for what is queued to compute after that.
    type Tensor;
    /// Queues a copy of the tensor to the host, after all that was queued to compute. After an error, no copy is
    /// under way.
    fn copy_out(&mut self, tensor: &Self::Tensor) -> Result<()>;
    /// Queues a copy from the host to a new tensor, after all that was queued to compute. After an error, no copy is
    /// under way.
    fn copy_back(&mut self) -> Result<Self::Tensor>;
    /// Makes what computes from here on wait for the last copy.
    fn wait(&mut self) -> Result<()>;
    /// Waits until all copies are done.
    fn drain(&mut self);
}

/// A tensor on its way. Memory of the GPU that a copy uses is neither used nor freed before what computes waits for the
/// copy.
pub(super) struct Journey<S: Streams> {
    /// The tensor on the GPU, before it is released and after it is fetched.
    tensor: Option<S::Tensor>,
    /// Whether a copy is queued that nothing waits for yet.
    is_copying: bool,
    streams: S,
}

impl<S: Streams> Journey<S> {
    /// Begins with a copy to the host.
    pub(super) fn begin(mut streams: S, tensor: S::Tensor) -> Result<Self> {
        streams.copy_out(&tensor)?;
        Ok(Self { tensor: Some(tensor), is_copying: true, streams })
    }

    /// Gives up the memory of the GPU, where the tensor is there.
    pub(super) fn release(&mut self) -> Result<()> {
        let waited = self.wait();
        self.tensor = None;
        waited
    }

    /// Begins to copy the tensor back, where it is not on the GPU.
    pub(super) fn fetch(&mut self) -> Result<()> {
        if self.tensor.is_none() {
            self.tensor = Some(self.streams.copy_back()?);
            self.is_copying = true;
        }
        Ok(())
    }

    /// The tensor on the GPU, for what computes from here on.
    pub(super) fn take(mut self) -> Result<S::Tensor> {
        self.fetch()?;
        self.wait()?;
        self.tensor.take().ok_or_else(|| error!(Bug, "a tensor that was fetched is missing"))
    }

    fn wait(&mut self) -> Result<()> {
        match std::mem::take(&mut self.is_copying) {
            true => self.streams.wait().inspect_err(|_| self.streams.drain()),
            false => Ok(()),
        }
    }
}

impl<S: Streams> Drop for Journey<S> {
    /// Waits for the copy, because the tensor's memory is freed after this.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::device::cuda::two_streams::{Stream, TwoStreams, Work};

    /// Memory that work reads or writes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Memory {
        /// A place of the GPU, which serves one tensor after the other.
        Gpu(usize),
        /// The place of a tensor on the host.
        Host(usize),
    }

    /// Two streams that note what they are asked for, and the memory of a GPU.
    struct Gpu {
        streams: TwoStreams<Memory>,
        /// Which places of memory are in use: a place is free for what is queued after it was dropped.
        used: Vec<bool>,
    }

    impl Gpu {
        fn failing_at(call: usize) -> Shared {
            Rc::new(RefCell::new(Self { streams: TwoStreams::new(call), used: Vec::new() }))
        }

        /// A copy between two places, after all that was queued to compute.
        fn copy(&mut self, from: Memory, to: Memory, number: usize) -> Result<()> {
            let streams = &mut self.streams;
            streams.wait_for_all(Stream::Copy);
            streams.queue(Stream::Copy, from, Work::Read(number));
            streams.queue(Stream::Copy, to, Work::Write(Some(number)));
            // A copy that fails is over, because the host has waited for it.
            streams.call().inspect_err(|_| self.streams.wait_for_all(Stream::Compute))
        }

        fn compute(&mut self, place: usize, work: Work) {
            self.streams.queue(Stream::Compute, Memory::Gpu(place), work);
        }

        fn copies(&self) -> usize {
            self.streams.count(Stream::Copy) / 2
        }
    }

    type Shared = Rc<RefCell<Gpu>>;

    /// A tensor in a place of the GPU's memory, which is free again when it is dropped.
    struct Tensor {
        gpu: Shared,
        place: usize,
    }

    impl Tensor {
        /// The first free place, so that memory is used again as soon as it may be.
        fn new(gpu: &Shared) -> Self {
            let mut borrowed = gpu.borrow_mut();
            let place = borrowed.used.iter().position(|used| !used).unwrap_or(borrowed.used.len());
            if place == borrowed.used.len() {
                borrowed.used.push(false);
            }
            borrowed.used[place] = true;
            Self { gpu: Rc::clone(gpu), place }
        }

        /// Computes this tensor: the number is written to it.
        fn computed(gpu: &Shared, number: usize) -> Self {
            let tensor = Self::new(gpu);
            gpu.borrow_mut().compute(tensor.place, Work::Write(Some(number)));
            tensor
        }

        /// Computes with this tensor, in which this number is expected.
        fn read(&self, number: usize) {
            self.gpu.borrow_mut().compute(self.place, Work::Read(number));
        }
    }

    impl Drop for Tensor {
        fn drop(&mut self) {
            self.gpu.borrow_mut().used[self.place] = false;
        }
    }

    struct Notes {
        gpu: Shared,
        number: usize,
    }

    impl Streams for Notes {
        type Tensor = Rc<Tensor>;

        fn copy_out(&mut self, tensor: &Rc<Tensor>) -> Result<()> {
            let (from, to) = (Memory::Gpu(tensor.place), Memory::Host(self.number));
            self.gpu.borrow_mut().copy(from, to, self.number)
        }

        fn copy_back(&mut self) -> Result<Rc<Tensor>> {
            let tensor = Tensor::new(&self.gpu);
            let (from, to) = (Memory::Host(self.number), Memory::Gpu(tensor.place));
            self.gpu.borrow_mut().copy(from, to, self.number)?;
            Ok(Rc::new(tensor))
        }

        fn wait(&mut self) -> Result<()> {
            let streams = &mut self.gpu.borrow_mut().streams;
            streams.call()?;
            streams.wait_for_all(Stream::Compute);
            Ok(())
        }

        fn drain(&mut self) {
            // The host waits, and with it all that it queues.
            self.gpu.borrow_mut().streams.wait_for_all(Stream::Compute);
        }
    }

    /// A pass of `blocks` blocks as a tape makes it: inputs leave beside the forward of their blocks and come back
    /// one block ahead of the backward.
    fn pass(gpu: &Shared, first: usize, blocks: usize) -> Result<()> {
        let mut waiting = Vec::new();
        let mut x = Rc::new(Tensor::computed(gpu, first));
        for number in first..first + blocks {
            waiting.push(Journey::begin(Notes { gpu: Rc::clone(gpu), number }, Rc::clone(&x))?);
            x.read(number);
            let y = Tensor::computed(gpu, number + 1);
            gpu.borrow_mut().streams.call()?;
            waiting.last_mut().map_or(Ok(()), Journey::release)?;
            x = Rc::new(y);
        }
        for number in (first..first + blocks).rev() {
            let Some(last) = waiting.pop() else { break };
            x = last.take()?;
            waiting.last_mut().map_or(Ok(()), Journey::fetch)?;
            x.read(number);
            drop(Tensor::computed(gpu, usize::MAX));
            gpu.borrow_mut().streams.call()?;
        }
        Ok(())
    }

    #[test]
    fn every_input_comes_back_as_it_left() {
        for blocks in 1..7 {
            let gpu = Gpu::failing_at(0);
            pass(&gpu, 0, blocks).unwrap();
            pass(&gpu, 100, blocks).unwrap();
            let gpu = gpu.borrow();
            gpu.streams.check();
            assert_eq!(gpu.copies(), 2 * 2 * blocks);
            assert!(gpu.used.iter().all(|used| !used), "all memory is free again");
            assert!(
                gpu.used.len() <= 3,
                "an input, the one that arrives, and what is computed: {}",
                gpu.used.len()
            );
        }
    }

    /// Whichever call fails, memory is not used again before a copy is done with it.
    #[test]
    fn a_call_that_fails_leaves_no_copy_beside_other_work() {
        for fails_at in 1.. {
            let gpu = Gpu::failing_at(fails_at);
            let failed = pass(&gpu, 0, 4).is_err();
            pass(&gpu, 100, 4).ok();
            let gpu = gpu.borrow();
            gpu.streams.check();
            assert!(gpu.used.iter().all(|used| !used), "all memory is free again");
            if gpu.streams.calls < fails_at {
                assert!(!failed);
                break;
            }
        }
    }

    #[test]
    fn what_was_not_released_is_there_at_once() {
        let gpu = Gpu::failing_at(0);
        let x = Rc::new(Tensor::computed(&gpu, 1));
        let mut journey = Journey::begin(Notes { gpu: Rc::clone(&gpu), number: 1 }, Rc::clone(&x)).unwrap();
        journey.fetch().unwrap();
        let back = journey.take().unwrap();
        assert!(Rc::ptr_eq(&back, &x));
        assert_eq!(gpu.borrow().copies(), 1);
    }
}
