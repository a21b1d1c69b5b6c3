//! Frozen weights that a GPU has no room for: they lie elsewhere, and every block's are copied into a slot of the GPU's
//! memory shortly before the block computes.
//!
//! **Places.** The weights of a block lie on the GPU, or they are streamed from a [`Place`]. A place is whatever can
//! queue, on the stream of copies, work that writes a block's bytes to a slot ([`source`]): page-locked memory of the
//! host, of which the ranks of a machine share one copy, is copied in one piece, a file passes through two
//! page-locked buffers, and a block that is divided among the GPUs of all ranks is gathered over NCCL ([`shard`]).
//! Everything else here, and all of the model, is the same for all places.
//!
//! **Image.** The bytes of a block's weights lie one after the other as they will in its slot ([`image`]). The slot of a
//! streamed block is its number modulo the number of slots, so that every weight has one address for good, and kernels
//! and tables of addresses do not know whether it is streamed. Biases, norms, routers, adapters and tables of addresses
//! are small and always stay on the GPU, and so does the head.
//!
//! **Visits.** A pass computes with a block inside [`Streaming::visit`]. What is known of a pass is its [`Way`]:
//! upwards, upwards with a backward after it, or down again. From that follows which blocks come next. When a visit
//! is over, the blocks of the next visits are copied, one fewer than there are slots: into slots whose blocks have
//! been visited, and only where the slot does not hold the block already. So the last blocks of a forward serve its
//! backward, and the first blocks, which are in the slots when the backward ends, serve the next forward.
//!
//! **Order.** A copy into a slot waits for the work that was queued with the slot's last block, by an event; the stream
//! that computes, and the one that dequantizes ahead of it, wait for the copy by another ([`slots`]). The host waits for
//! neither, except that a buffer which a file passes through must be free again. A copy that fails leaves a slot that
//! holds nothing, and the visit that needs it copies anew.
//!
//! **Ranks.** A gather is done when all ranks have queued it, so all must queue the same gathers in the same order. Which
//! these are follows from the visits alone, so all ranks make the same visits: one that has no pass where another rank has
//! one visits the blocks without computing (`Model::accompany_training`, `Model::accompany_loss`). A rank that has failed
//! gathers nothing more, and says so to the others, whose communicators are given up then. Gathers and the sums of
//! gradients go over one communicator: the program asks for them in the same order on all ranks, and NCCL keeps that order
//! on the GPU.
//!
//! A run that streams computes the same bits as one that does not: what is copied are the bytes that would lie on the
//! GPU, and all work is queued in the same order with the same sizes.
//!
//! On the host nothing is streamed by these means: weights stay in the memory map of their file, from which the system
//! reads what is used and which it gives up where memory is short.

mod buffer;
mod image;
mod rate;
mod shard;
mod slots;
mod source;
mod way;

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaStream;

use super::{Communicator, Gpu, failed};
use crate::shared_memory::SharedMemory;
use crate::{Context, Result, cli, error};

use buffer::Slot;
pub(crate) use buffer::{FrozenBuffer, GpuMemory, StreamedBlock};
use shard::Shard;
pub(crate) use shard::part_bytes;
use slots::{Copies, Order, Slots};
use source::{Source, Staging};
pub(crate) use way::Way;

/// Where the frozen weights of a block lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the GPU's memory, for good.
    Gpu,
    /// In page-locked memory of the host, from which a GPU copies at the full rate of its bus.
    PageLocked,
    /// In the model's files, from which they are read each time.
    File,
    /// In equal parts on the GPUs of all ranks, from which they are gathered over NCCL.
    Sharded,
}

/// The streamed blocks of a model that is being loaded.
pub(crate) struct StreamingLoader {
    gpu: Arc<Gpu>,
    slots: Vec<Arc<Slot>>,
    sources: Vec<Source>,
    communicator: Option<Arc<Communicator>>,
    /// Where all ranks of the machine have one copy of page-locked blocks.
    shared: Option<SharedMemory>,
    /// Whether the system has refused to lock memory.
    is_refused: bool,
}

impl StreamingLoader {
    /// Makes `count` slots of `bytes` bytes each. Blocks are sharded among the ranks of `communicator`, and page-locked in
    /// `shared` where ranks share them.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        count: usize,
        bytes: u64,
        communicator: Option<Arc<Communicator>>,
        shared: Option<SharedMemory>,
    ) -> Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| error!(Bug, "a slot of {bytes} bytes"))?;
        let slots = (0..count).map(|_| Slot::new(gpu, bytes).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        // The stream of copies may write to the slots at once.
        gpu.synchronize()?;
        match slots.is_empty() {
            true => Err(error!(Bug, "streaming without slots")),
            false => Ok(Self {
                gpu: Arc::clone(gpu),
                slots,
                sources: Vec::new(),
                communicator,
                shared,
                is_refused: false,
            }),
        }
    }

    /// Begins the next streamed block, whose weights are then stored in the block.
    pub(crate) fn begin(&self) -> StreamedBlock {
        let number = self.sources.len();
        StreamedBlock::new(number, Arc::clone(&self.slots[number % self.slots.len()]))
    }

    /// Ends a block of which all weights are stored: its bytes go to where it is streamed from.
    pub(crate) fn end(&mut self, block: StreamedBlock, place: Place) -> Result<()> {
        let image = block.into_image()?;
        let source = match place {
            Place::Gpu => return Err(error!(Bug, "a block that stays on the GPU is streamed")),
            Place::File => Source::File(image),
            Place::PageLocked => {
                Source::page_locked(&self.gpu, image, self.shared.as_mut(), &mut self.is_refused)?
            }
            Place::Sharded => {
                let missing = || error!(Bug, "a block is sharded among ranks that nothing connects");
                let communicator = self.communicator.as_ref().ok_or_else(missing)?;
                Source::Sharded(Shard::new(&self.gpu, image, Arc::clone(communicator))?)
            }
        };
        self.sources.push(source);
        Ok(())
    }

    /// Begins to stream: the first blocks are copied into the slots.
    pub(crate) fn finish(self) -> Result<Streaming> {
        let Self { gpu, slots, sources, .. } = self;
        let from_files = sources.iter().filter(|source| matches!(source, Source::File(_))).count();
        let sharded = sources.iter().filter(|source| matches!(source, Source::Sharded(_))).count();
        cli::verbose(format_args!(
            "{} blocks are streamed through {} slots, {from_files} of them from files and {sharded} from all ranks",
            sources.len(),
            slots.len()
        ));
        let staging = match from_files {
            0 => None,
            _ => Some(Staging::new(&gpu).context("page-locked buffers that weights pass through")?),
        };
        let order = match sharded {
            0 => Order::Free,
            _ => Order::OfRanks { has_failed: false },
        };
        let state = State { slots: Slots::new(slots.len(), sources.len(), order), staging };
        // The kernels of gathers come before those that compute with earlier blocks: the least number is clamped to that of
        // the highest priority.
        let stream = gpu.context.new_stream_with_priority(i32::MIN).map_err(failed)?;
        // The stream of copies may read parts of sharded blocks at once.
        gpu.synchronize()?;
        let streaming = Streaming { gpu, stream, state: Mutex::new(state), slots, sources };
        let mut state = streaming.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { slots, staging } = &mut *state;
        slots.fill(&mut streaming.streams(staging.as_mut()))?;
        drop(state);
        Ok(streaming)
    }
}

/// The streamed blocks of a model. Blocks have numbers from 0, in the order in which a forward visits them.
pub(crate) struct Streaming {
    gpu: Arc<Gpu>,
    /// The stream of copies.
    stream: Arc<CudaStream>,
    state: Mutex<State>,
    slots: Vec<Arc<Slot>>,
    sources: Vec<Source>,
}

struct State {
    slots: Slots,
    /// The buffers that files pass through, where any block is read from one.
    staging: Option<Staging>,
}

impl Streaming {
    /// Runs `work`, which queues computations with the weights of block `number`, on a pass of this way.
    pub(crate) fn visit<T>(&self, number: usize, way: Way, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { slots, staging } = &mut *state;
        slots.visit(number, way, &mut self.streams(staging.as_mut()), |slot, _| {
            let _visited = self.slots[slot].visited(number);
            work()
        })
    }

    /// Whether any block is gathered from all ranks, which then must make the same visits.
    pub(crate) fn is_sharded(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Sharded(_)))
    }

    fn streams<'a>(&'a self, staging: Option<&'a mut Staging>) -> Streams<'a> {
        Streams { streaming: self, staging }
    }
}

impl Drop for Streaming {
    /// Slots and page-locked memory are freed after this, which no copy may still use. A GPU that has failed copies no
    /// more.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

/// The streams of a GPU, as [`Slots`] orders them.
struct Streams<'a> {
    streaming: &'a Streaming,
    staging: Option<&'a mut Staging>,
}

impl Copies for Streams<'_> {
    fn copy(&mut self, block: usize, slot: usize) -> Result<()> {
        let Streaming { gpu, stream, slots, sources, .. } = self.streaming;
        let slot = &slots[slot];
        stream.wait(&slot.used).map_err(failed)?;
        sources[block].queue(gpu, stream, slot, self.staging.as_deref_mut())?;
        slot.copied.record(stream).map_err(failed)
    }

    fn wait_for(&mut self, slot: usize) -> Result<()> {
        let Streaming { gpu, slots, .. } = self.streaming;
        gpu.stream.wait(&slots[slot].copied).map_err(failed)?;
        gpu.ahead.wait(&slots[slot].copied).map_err(failed)
    }

    fn release(&mut self, slot: usize) -> Result<()> {
        let Streaming { gpu, slots, .. } = self.streaming;
        // What the stream ahead has read, this stream has waited for: `Gpu::with_dequantized` hands it over.
        slots[slot].used.record(&gpu.stream).map_err(failed)
    }

    fn drain(&mut self) {
        // A GPU that has failed does nothing more.
        let _ = self.streaming.gpu.ahead.synchronize();
        let _ = self.streaming.gpu.stream.synchronize();
    }
}
