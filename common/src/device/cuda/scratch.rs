//! Two scratch buffers that quantized weights are dequantized into: while a product reads one, the next weight
//! is dequantized into the other on the second stream. The first holds the largest weight, the second the
//! largest of the others, since the largest weight's neighbours in a model are smaller. A weight that is asked for
//! again while a buffer still holds it, as in the backward of a block right after its recompute, is not dequantized
//! again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};

use super::{Gpu, View, ViewMut, buffer_bytes, failed};
use crate::{Result, error};

/// How many numbers each of the two scratch buffers holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScratchSizes([usize; 2]);

impl ScratchSizes {
    /// The sizes before any weight has asked for scratch.
    pub(crate) const NONE: Self = Self([1, 1]);

    /// Sizes that are enough for a weight of `len` numbers too.
    pub(crate) fn with(self, len: usize) -> Self {
        let [first, second] = self.0;
        match len {
            _ if len > first => Self([len, first]),
            _ if len < first && len > second => Self([first, len]),
            _ => self,
        }
    }

    /// Bytes of a GPU's memory that both buffers take.
    pub(super) fn bytes(self) -> u64 {
        self.0.map(buffer_bytes::<u16>).iter().sum()
    }
}

/// An identity of the quantized weights of a layer, which no other weights have or had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WeightId(u64);

impl WeightId {
    /// An identity that no other weights have or had.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The two buffers and which was used last.
pub(super) struct DoubleBuffer {
    halves: [Half; 2],
    last: usize,
}

struct Half {
    weights: CudaSlice<u16>,
    /// The identity of the weights that were dequantized into it as a whole, once the stream that computes has waited
    /// for that.
    holds: Option<u64>,
    events: Events,
}

/// When the streams are done with a buffer.
struct Events {
    /// The product that reads it is done.
    free: CudaEvent,
    /// The weight in it is whole.
    ready: CudaEvent,
}

impl Events {
    /// Waits until neither stream uses the buffer.
    fn wait(&self) -> Result<()> {
        self.ready.synchronize().and_then(|()| self.free.synchronize()).map_err(failed)
    }
}

impl DoubleBuffer {
    pub(super) fn new(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Result<Self> {
        let half = || -> Result<Half> {
            Ok(Half {
                // SAFETY: never read before a weight is dequantized into it.
                #[allow(unsafe_code)]
                weights: unsafe { stream.alloc(ScratchSizes::NONE.0[0]) }.map_err(failed)?,
                holds: None,
                events: Events {
                    free: context.new_event(None).map_err(failed)?,
                    ready: context.new_event(None).map_err(failed)?,
                },
            })
        };
        Ok(Self { halves: [half()?, half()?], last: 1 })
    }

    /// What both hold now.
    fn sizes(&self) -> ScratchSizes {
        ScratchSizes([0, 1].map(|half: usize| self.halves[half].weights.len()))
    }
}

impl Gpu {
    /// Makes scratch for weights of `len` numbers, once nothing uses the scratch there is.
    pub(crate) fn reserve_scratch(&self, len: usize) -> Result<()> {
        let mut buffer = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let now = buffer.sizes();
        let ScratchSizes([first, second]) = now.with(len);
        if now == ScratchSizes([first, second]) {
            return Ok(());
        }
        // A buffer is freed on the stream that computes, which need not have met the other stream.
        buffer.halves.iter().try_for_each(|half| half.events.wait())?;
        let (grown, len) = if first > now.0[0] { (0, first) } else { (1, second) };
        if grown == 0 {
            // The first buffer is now the second largest.
            buffer.halves.swap(0, 1);
        }
        buffer.halves[grown].holds = None;
        buffer.halves[grown].weights = self.allocate(len)?;
        // The other stream may write to the new buffer at once.
        self.synchronize()
    }

    /// Runs `dequantize` on the second stream, which writes the `len` numbers of these weights to scratch, then
    /// `multiply` with them after it on the stream that computes. Where scratch still holds the weights, `multiply`
    /// runs alone. The scratch has been reserved before.
    pub(crate) fn with_dequantized(
        &self,
        (weight, len): (&WeightId, usize),
        dequantize: impl FnOnce(&CudaStream, ViewMut<'_, u16>) -> Result<()>,
        multiply: impl FnOnce(View<'_, u16>) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let other = 1 - buffer.last;
        let held = buffer.halves.iter().position(|half| half.holds == Some(weight.0));
        let turn = held.unwrap_or(if buffer.halves[other].weights.len() >= len { other } else { 0 });
        buffer.last = turn;
        let Half { weights, holds, events } = &mut buffer.halves[turn];
        if weights.len() < len {
            return Err(error!(
                Bug,
                "a weight of {len} numbers to dequantize, and room for {}",
                weights.len()
            ));
        }
        let order = Streams { gpu: self, events };
        let turn = match held {
            Some(_) => Turn::again(order),
            None => {
                *holds = None;
                let mut turn = Turn::begin(order)?;
                dequantize(&self.ahead, ViewMut::from(&mut *weights).columns(0..len)?)?;
                turn.hand_over()?;
                *holds = Some(weight.0);
                turn
            }
        };
        multiply(View::from(&*weights).columns(0..len)?)?;
        turn.end()
    }
}

/// How the two streams are ordered around one use of a buffer.
trait Order {
    /// What is written to the buffer from here on waits for the product that read it last.
    fn begin(&self) -> Result<()>;
    /// The stream that computes waits for what was written so far.
    fn hand_over(&self) -> Result<()>;
    /// The next use of the buffer waits for what was read so far.
    fn release(&self) -> Result<()>;
    /// Waits until both streams have done all that was asked for.
    fn wait(&self);
}

struct Streams<'a> {
    gpu: &'a Gpu,
    events: &'a Events,
}

impl Order for Streams<'_> {
    fn begin(&self) -> Result<()> {
        self.gpu.ahead.wait(&self.events.free).map_err(failed)
    }

    fn hand_over(&self) -> Result<()> {
        self.events.ready.record(&self.gpu.ahead).map_err(failed)?;
        self.gpu.stream.wait(&self.events.ready).map_err(failed)
    }

    fn release(&self) -> Result<()> {
        self.events.free.record(&self.gpu.stream).map_err(failed)
    }

    fn wait(&self) {
        // A GPU that has failed does nothing more.
        let _ = self.gpu.ahead.synchronize();
        let _ = self.gpu.stream.synchronize();
    }
}

/// One use of a buffer. However it ends, what is queued after it is ordered after it.
struct Turn<O: Order> {
    order: O,
    is_handed_over: bool,
    is_over: bool,
}

impl<O: Order> Turn<O> {
    fn begin(order: O) -> Result<Self> {
        order.begin()?;
        Ok(Self { order, is_handed_over: false, is_over: false })
    }

    /// Another use of weights that an earlier use has dequantized and handed over.
    fn again(order: O) -> Self {
        Self { order, is_handed_over: true, is_over: false }
    }

    fn hand_over(&mut self) -> Result<()> {
        self.order.hand_over()?;
        self.is_handed_over = true;
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.order.release()?;
        self.is_over = true;
        Ok(())
    }
}

impl<O: Order> Drop for Turn<O> {
    /// After an error: a part of the work may be queued on either stream.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let handed_over = if self.is_handed_over { Ok(()) } else { self.order.hand_over() };
        if handed_over.and_then(|()| self.order.release()).is_err() {
            self.order.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Notes what it is asked for, and fails where it is told to.
    struct Notes<'a> {
        notes: &'a RefCell<Vec<&'static str>>,
        fails_at: &'static str,
    }

    impl Notes<'_> {
        fn note(&self, what: &'static str) -> Result<()> {
            self.notes.borrow_mut().push(what);
            if what == self.fails_at { Err(error!(Gpu, "{what}")) } else { Ok(()) }
        }
    }

    impl Order for Notes<'_> {
        fn begin(&self) -> Result<()> {
            self.note("begin")
        }
        fn hand_over(&self) -> Result<()> {
            self.note("hand over")
        }
        fn release(&self) -> Result<()> {
            self.note("release")
        }
        fn wait(&self) {
            let _ = self.note("wait");
        }
    }

    /// What is asked for where one thing fails.
    fn use_of_a_buffer(fails_at: &'static str) -> Vec<&'static str> {
        let notes = RefCell::default();
        let run = || -> Result<()> {
            let order = Notes { notes: &notes, fails_at };
            let work = |what| Notes { notes: &notes, fails_at }.note(what);
            let mut turn = Turn::begin(order)?;
            work("dequantize")?;
            turn.hand_over()?;
            work("multiply")?;
            turn.end()
        };
        assert_eq!(run().is_err(), !fails_at.is_empty());
        notes.into_inner()
    }

    #[test]
    fn a_failed_use_of_a_buffer_orders_the_next_one() {
        let whole = ["begin", "dequantize", "hand over", "multiply", "release"];
        assert_eq!(use_of_a_buffer(""), whole);
        assert_eq!(use_of_a_buffer("begin"), ["begin"], "nothing was queued");
        assert_eq!(use_of_a_buffer("dequantize"), ["begin", "dequantize", "hand over", "release"]);
        assert_eq!(use_of_a_buffer("multiply"), whole);
        // Where the streams cannot be ordered, the host waits for both.
        assert_eq!(use_of_a_buffer("hand over")[2..], ["hand over", "hand over", "wait"]);
        assert_eq!(use_of_a_buffer("release")[4..], ["release", "release", "wait"]);
    }

    #[test]
    fn scratch_holds_the_largest_weight_and_the_next() {
        let sizes = |lens: &[usize]| lens.iter().fold(ScratchSizes::NONE, |sizes, len| sizes.with(*len));
        assert_eq!(sizes(&[5, 9, 7, 9]), ScratchSizes([9, 7]));
        assert_eq!(sizes(&[9, 9]), ScratchSizes([9, 1]), "the same buffer serves weights of one size");
    }
}
