//! The kernels' sources, and which of them run.

use crate::device::cuda::{Argument, Gpu, Grid, KernelSource};
use crate::kernels::attention::Heads;
use crate::{Result, error};

/// Files one after the other, for one head size.
macro_rules! text {
    ($size:literal, $($file:literal),*) => {
        concat!("#define HEAD_SIZE ", $size, "\n", $(include_str!(concat!("../", $file))),*)
    };
}

macro_rules! every {
    ($size:literal) => {
        KernelSource::new(
            concat!("attention-", $size),
            text!(
                $size,
                "instructions.cuh",
                "attention.cuh",
                "tiles.cuh",
                "forward.cu",
                "backward.cu",
                "backward_queries.cu",
                "backward_keys.cu",
                "decode.cu",
                "past.cu"
            ),
        )
    };
}

macro_rules! hopper {
    ($size:literal) => {
        KernelSource::for_hopper(
            concat!("attention-hopper-", $size),
            text!(
                $size,
                "instructions.cuh",
                "attention.cuh",
                "hopper/instructions.cuh",
                "hopper/tiles.cuh",
                "hopper/forward.cu",
                "backward.cu",
                "hopper/backward_queries.cu",
                "hopper/backward_keys.cu"
            ),
        )
    };
}

pub(in crate::kernels) static SOURCES: [(usize, KernelSource); 4] =
    [(64, every!("64")), (80, every!("80")), (96, every!("96")), (128, every!("128"))];

/// Forward and backward on Hopper, with the number of keys that rows see on average from which they are the
/// faster ones. They keep a processor to themselves, which waits at the beginning and the end of each block.
pub(in crate::kernels) static HOPPER: [(usize, KernelSource, usize); 2] =
    [(64, hopper!("64"), 384), (128, hopper!("128"), 96)];

/// Threads of a block, as attention.cuh has it, and hopper/tiles.cuh.
pub(super) const THREADS: usize = 128;
const HOPPER_THREADS: usize = 256;

pub(super) fn source(heads: Heads) -> Result<&'static KernelSource> {
    SOURCES.iter().find(|(size, _)| *size == heads.size).map(|(_, source)| source).ok_or_else(|| {
        error!("attention on a GPU: heads of 64, 80, 96 or 128 expected, found {}", heads.size)
            .hint("use --device cpu")
    })
}

/// Kernels that go through blocks of rows: those of forward, backward_queries and backward_keys.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) source: &'static KernelSource,
    threads: usize,
}

impl Blocks {
    /// The kernels to be used where rows see `keys` keys on average.
    pub(super) fn new(gpu: &Gpu, heads: Heads, keys: usize) -> Result<Self> {
        let hopper = HOPPER
            .iter()
            .find(|(size, source, from)| {
                *size == heads.size && keys >= *from && source.runs_on(gpu.architecture())
            })
            .map(|(_, source, _)| source);
        Ok(match hopper {
            Some(source) => Self { source, threads: HOPPER_THREADS },
            None => Self { source: source(heads)?, threads: THREADS },
        })
    }

    /// Launches one of these kernels with the bytes of shared memory that the constant `shared` names.
    ///
    /// # Safety
    /// As for [`Gpu::launch_on`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn launch(
        self,
        gpu: &Gpu,
        name: &'static str,
        shared: &'static str,
        blocks: usize,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let shared = constant(gpu, self.source, shared)?;
        let grid = Grid { blocks: (blocks, 1, 1), threads: self.threads, shared };
        // SAFETY: the caller's promise.
        unsafe { gpu.launch(self.source, name, grid, arguments) }
    }
}

/// What a source's kernels ask of their launch.
pub(super) fn constant(gpu: &Gpu, source: &'static KernelSource, name: &'static str) -> Result<usize> {
    Ok(usize::try_from(gpu.constant(source, name)?).unwrap_or(0))
}
