//! The kernels' sources, and which of them run.

use crate::device::cuda::{Argument, Gpu, Grid, KernelSource};
use crate::kernels::attention::{AttentionSpec, Heads};
use crate::{Result, error};

/// The kernels for one head size.
pub(in crate::kernels) struct Kernels {
    head_size: usize,
    /// The kernels without a soft cap of scores, and then those with one where there are such kernels; of each, the
    /// first are for tokens that see all before them, the second for windows.
    pub(in crate::kernels) variants: &'static [[KernelSource; 2]],
}

impl Kernels {
    fn source(&self, has_window: bool, has_softcap: bool) -> &'static KernelSource {
        &self.variants[usize::from(has_softcap)][usize::from(has_window)]
    }
}

/// Files one after the other, for one head size.
macro_rules! text {
    ([$($define:literal),*], $($file:literal),*) => {
        concat!($($define,)* $(include_str!(concat!("../", $file))),*)
    };
}

/// The sources of these files, compiled without a window and with one.
macro_rules! windows {
    ($new:path, $name:literal, $size:literal, $define:literal, $($file:literal),*) => {
        [
            $new(concat!($name, $size), text!(["#define HEAD_SIZE ", $size, "\n", $define], $($file),*)),
            $new(
                concat!($name, "window-", $size),
                text!(["#define HEAD_SIZE ", $size, "\n", $define, "#define HAS_WINDOW\n"], $($file),*),
            ),
        ]
    };
}

macro_rules! every {
    ($size:literal, $head_size:expr) => {
        Kernels {
            head_size: $head_size,
            variants: &[
                every!("attention-", $size, ""),
                every!("attention-softcap-", $size, "#define HAS_SOFTCAP\n"),
            ],
        }
    };
    ($name:literal, $size:literal, $define:literal) => {
        windows!(
            KernelSource::new,
            $name,
            $size,
            $define,
            "../instructions.cuh",
            "attention.cuh",
            "tiles.cuh",
            "forward.cu",
            "backward.cu",
            "backward_queries.cu",
            "backward_keys.cu",
            "decode.cu",
            "past.cu"
        )
    };
}

macro_rules! hopper {
    ($size:literal, $head_size:expr) => {
        Kernels {
            head_size: $head_size,
            variants: &[windows!(
                KernelSource::for_hopper,
                "attention-hopper-",
                $size,
                "",
                "../instructions.cuh",
                "attention.cuh",
                "../hopper_instructions.cuh",
                "hopper/tiles.cuh",
                "hopper/forward.cu",
                "backward.cu",
                "hopper/backward_queries.cu",
                "hopper/backward_keys.cu"
            )],
        }
    };
}

pub(in crate::kernels) static SOURCES: [Kernels; 5] =
    [every!("64", 64), every!("80", 80), every!("96", 96), every!("128", 128), every!("256", 256)];

/// Forward and backward on Hopper, of scores without a soft cap, with the number of keys that rows see on average
/// from which on they are faster. A block of them has a processor to itself, which waits at the beginning and the end
/// of each block.
pub(in crate::kernels) static HOPPER: [(Kernels, usize); 2] =
    [(hopper!("64", 64), 384), (hopper!("128", 128), 96)];

/// Threads of a block, as attention.cuh has it, and hopper/tiles.cuh.
pub(super) const THREADS: usize = 128;
const HOPPER_THREADS: usize = 256;

fn kernels(heads: Heads) -> Result<&'static Kernels> {
    SOURCES.iter().find(|kernels| kernels.head_size == heads.size).ok_or_else(|| {
        error!("attention on a GPU: heads of 64, 80, 96, 128 or 256 expected, found {}", heads.size)
            .hint("use --device cpu")
    })
}

/// The kernels for these heads on every GPU.
pub(super) fn source(heads: Heads, has_window: bool, has_softcap: bool) -> Result<&'static KernelSource> {
    kernels(heads).map(|kernels| kernels.source(has_window, has_softcap))
}

/// Kernels that go through blocks of rows: those of forward, backward_queries and backward_keys.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    kernels: &'static Kernels,
    threads: usize,
    /// Whether scores are capped.
    pub(super) has_softcap: bool,
}

impl Blocks {
    /// The kernels to be used where rows see `keys` keys on average.
    pub(super) fn new(gpu: &Gpu, spec: AttentionSpec, keys: usize) -> Result<Self> {
        let (heads, has_softcap) = (spec.heads, spec.softcap.is_some());
        let hopper = HOPPER
            .iter()
            .find(|(kernels, from)| {
                let runs = !has_softcap && kernels.source(false, false).runs_on(gpu.architecture());
                kernels.head_size == heads.size && keys >= *from && runs
            })
            .map(|(kernels, _)| kernels);
        Ok(match hopper {
            Some(kernels) => Self { kernels, threads: HOPPER_THREADS, has_softcap },
            None => Self { kernels: kernels(heads)?, threads: THREADS, has_softcap },
        })
    }

    pub(super) fn source(self, has_window: bool) -> &'static KernelSource {
        self.kernels.source(has_window, self.has_softcap)
    }

    /// Launches one of these kernels with the bytes of shared memory that the constant `shared` names.
    ///
    /// # Safety
    /// As for [`Gpu::launch_on`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn launch(
        self,
        gpu: &Gpu,
        has_window: bool,
        name: &'static str,
        shared: &'static str,
        blocks: usize,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let source = self.source(has_window);
        let shared = constant(gpu, source, shared)?;
        let grid = Grid { blocks: (blocks, 1, 1), threads: self.threads, shared };
        // SAFETY: the caller's promise.
        unsafe { gpu.launch(source, name, grid, arguments) }
    }
}

/// What a source's kernels ask of their launch.
pub(super) fn constant(gpu: &Gpu, source: &'static KernelSource, name: &'static str) -> Result<usize> {
    Ok(usize::try_from(gpu.constant(source, name)?).unwrap_or(0))
}
