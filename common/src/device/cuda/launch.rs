//! Kernels by name, and their launch.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result, sys};

use super::compile::{self, KernelSource};
use super::view::StreamId;
use super::{Gpu, Loaded, View, ViewMut, failed};
use crate::{Context, Result, error};

/// The most blocks that a grid has in x, y and z on every GPU.
const MOST_BLOCKS: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];
/// The most threads that a block has on every GPU.
const MOST_THREADS: usize = 1024;
/// What helps where something is too large for a kernel.
const FEWER: &str = "put fewer or shorter texts into a pass, or use --device cpu";

/// How many blocks of how many threads, and the bytes of shared memory each block asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Blocks in x, y and z. Counts that grow with the tokens of a pass belong into x, which alone has room
    /// for more than 65,535.
    pub(crate) blocks: (usize, usize, usize),
    /// Threads of a block.
    pub(crate) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: usize,
}

impl Grid {
    /// Blocks in a row.
    pub(crate) fn new(blocks: usize, threads: usize) -> Self {
        Self { blocks: (blocks, 1, 1), threads, shared: 0 }
    }

    /// Enough blocks for a thread an item.
    pub(crate) fn cover(items: usize, threads: usize) -> Self {
        Self::new(items.div_ceil(threads), threads)
    }

    /// Whether there is no block to run.
    fn is_empty(self) -> bool {
        let (x, y, z) = self.blocks;
        [x, y, z].contains(&0)
    }

    /// Fails where no GPU has such a grid.
    fn check(self) -> Result<()> {
        let (x, y, z) = self.blocks;
        if [x, y, z].iter().zip(MOST_BLOCKS).any(|(blocks, most)| *blocks > most) {
            let [most_x, most_y, most_z] = MOST_BLOCKS;
            return Err(error!(
                "a grid of at most {most_x} x {most_y} x {most_z} blocks expected, found {x} x {y} x {z}"
            )
            .hint(FEWER));
        }
        match (1..=MOST_THREADS).contains(&self.threads) {
            true => Ok(()),
            false => {
                Err(error!(Bug, "blocks of 1 to {MOST_THREADS} threads expected, found {}", self.threads))
            }
        }
    }
}

/// A value that a kernel takes: its bits, as the driver reads them through a pointer. What a pointer points
/// to is borrowed until the launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument<'a> {
    bits: u64,
    /// The bits of a value that is a structure.
    structure: Option<&'a [u64]>,
    /// The stream of the buffer that this is an address in.
    stream: Option<StreamId>,
    borrowed: PhantomData<&'a ()>,
}

impl<'a> Argument<'a> {
    fn of(bits: u64) -> Self {
        Self { bits, structure: None, stream: None, borrowed: PhantomData }
    }

    fn in_buffer(address: u64, stream: StreamId) -> Self {
        Self { bits: address, structure: None, stream: Some(stream), borrowed: PhantomData }
    }

    /// A null pointer.
    pub(crate) fn null() -> Self {
        Self::of(0)
    }

    /// The address of a view, or null where there is none.
    pub(crate) fn optional<T: Copy>(view: Option<View<'a, T>>) -> Self {
        view.map_or(Self::null(), Self::from)
    }

    /// The address of what a kernel reads and writes in the same place, once for each of the two.
    pub(crate) fn in_place<T: Copy>(view: ViewMut<'a, T>) -> [Self; 2] {
        [Self::from(view); 2]
    }

    /// A size that a kernel takes as a 32-bit `int`.
    pub(crate) fn int(size: usize) -> Result<Self> {
        match i32::try_from(size) {
            Ok(size) => Ok(size.into()),
            Err(_) => {
                Err(error!("a size of at most {} expected on a GPU, found {size}", i32::MAX).hint(FEWER))
            }
        }
    }

    /// Several sizes that a kernel takes as 32-bit `int`s.
    pub(crate) fn ints<const N: usize>(sizes: [usize; N]) -> Result<[Self; N]> {
        let mut arguments = [Self::null(); N];
        for (argument, size) in arguments.iter_mut().zip(sizes) {
            *argument = Self::int(size)?;
        }
        Ok(arguments)
    }

    /// A size that a kernel takes as a 64-bit `int64`.
    pub(crate) fn int64(size: usize) -> Self {
        Self::of(size as u64)
    }

    /// A structure that a kernel takes by value, in 64-bit words, which are as many as it has.
    pub(crate) fn structure(words: &'a [u64]) -> Self {
        Self { structure: Some(words), ..Self::null() }
    }

    /// Where the driver reads the value.
    fn pointer(&self) -> *mut c_void {
        self.structure.map_or(&raw const self.bits, <[u64]>::as_ptr).cast_mut().cast()
    }

    /// The bits, as a structure holds them.
    pub(crate) fn bits(self) -> u64 {
        self.bits
    }
}

impl From<i32> for Argument<'_> {
    fn from(value: i32) -> Self {
        Self::of(u64::from(value as u32))
    }
}

impl From<u32> for Argument<'_> {
    fn from(value: u32) -> Self {
        Self::of(u64::from(value))
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Self::of(u64::from(value.to_bits()))
    }
}

impl<'a, T: Copy> From<View<'a, T>> for Argument<'a> {
    fn from(view: View<'a, T>) -> Self {
        Self::in_buffer(view.address(), view.stream())
    }
}

impl<'a, T: Copy> From<ViewMut<'a, T>> for Argument<'a> {
    fn from(view: ViewMut<'a, T>) -> Self {
        Self::in_buffer(view.address(), view.stream())
    }
}

impl<'a, T> From<&'a CudaSlice<T>> for Argument<'a> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self::in_buffer(address(slice), StreamId::of(slice.stream()))
    }
}

impl<'a, T> From<&'a mut CudaSlice<T>> for Argument<'a> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Self::in_buffer(address(slice), StreamId::of(slice.stream()))
    }
}

/// The device address of a buffer. Streams are ordered by hand: see [`super`].
pub(super) fn address<T>(slice: &CudaSlice<T>) -> u64 {
    slice.device_ptr(slice.stream()).0
}

impl Gpu {
    /// Launches a kernel on the stream that computes.
    ///
    /// # Safety
    /// What [`Gpu::launch_on`] asks for holds for the stream that computes.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch(
        &self,
        source: &KernelSource,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(&self.stream, source, name, grid, arguments) }
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The arguments are, in number, order and type, those of the kernel's signature, and with this grid
    /// the kernel reads and writes only what the views among them cover: the caller has compared
    /// their extents with the sizes that the kernel is given. Of views to write, nothing else is read or
    /// written by work of another stream that is not ordered with this one by events.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch_on(
        &self,
        stream: &CudaStream,
        source: &KernelSource,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if grid.is_empty() {
            return Ok(());
        }
        grid.check().with_context(|| format!("kernel {name}"))?;
        let own = StreamId::of(&self.stream);
        if arguments.iter().filter_map(|argument| argument.stream).any(|stream| stream != own) {
            return Err(error!(Bug, "kernel {name}: buffers of one open GPU expected"));
        }
        let Grid { blocks, threads, shared } = grid;
        let function = self.function(source, name, shared)?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        self.bind()?;
        // SAFETY: the function is loaded in this context, each pointer is to a live argument, which the driver
        // copies, and what the kernel does with them is the caller's promise.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (blocks.0 as u32, blocks.1 as u32, blocks.2 as u32),
                (threads as u32, 1, 1),
                shared as u32,
                stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(failed)
        .with_context(|| format!("kernel {name}"))
    }

    /// An `extern "C" __constant__ int` of a source: what its kernels ask of their launch.
    pub(crate) fn constant(&self, source: &KernelSource, name: &'static str) -> Result<i32> {
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(value) = loaded.constants.get(&(source.name, name)) {
            return Ok(*value);
        }
        let module = self.module(&mut loaded, source)?;
        let symbol =
            module.get_global(name, &self.stream).map_err(failed).with_context(|| name.to_owned())?;
        let mut bytes = [0u8; 4];
        self.stream.memcpy_dtoh(&symbol, &mut bytes).map_err(failed)?;
        self.synchronize()?;
        let value = i32::from_le_bytes(bytes);
        loaded.constants.insert((source.name, name), value);
        Ok(value)
    }

    /// A kernel, compiled and loaded at its first use.
    fn function(&self, source: &KernelSource, name: &'static str, shared: usize) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(&(source.name, name)) {
            return Ok(function.clone());
        }
        let module = self.module(&mut loaded, source)?;
        let function =
            module.load_function(name).map_err(failed).with_context(|| format!("kernel {name}"))?;
        if shared > 48 << 10 {
            // SAFETY: sets an attribute of a function that is loaded.
            #[allow(unsafe_code)]
            unsafe {
                result::function::set_function_attribute(
                    function.cu_function(),
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared as i32,
                )
            }
            .map_err(failed)
            .with_context(|| format!("kernel {name}: {shared} bytes of shared memory"))?;
        }
        loaded.functions.insert((source.name, name), function.clone());
        Ok(function)
    }

    fn module(&self, loaded: &mut Loaded, source: &KernelSource) -> Result<Arc<CudaModule>> {
        if let Some(module) = loaded.modules.get(source.name) {
            return Ok(Arc::clone(module));
        }
        let module = compile::load(source, self.architecture, self.float16, |code| {
            self.context
                .load_module(cudarc::nvrtc::Ptx::from_binary(code.to_vec()))
                .map_err(failed)
                .with_context(|| format!("cannot load the kernels of {}", source.name))
                .hint("the driver may be older than NVRTC: update it, or install an older nvidia-cuda-nvrtc")
        })?;
        loaded.modules.insert(source.name, Arc::clone(&module));
        Ok(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_such_as_gpus_have() {
        let grid = |x, y, z| Grid { blocks: (x, y, z), threads: 256, shared: 0 };
        let most = i32::MAX as usize;
        for fine in [grid(1, 1, 1), grid(most, 65_535, 65_535), Grid::cover(1 << 33, 256)] {
            assert!(fine.check().is_ok(), "{fine:?}");
        }
        for refused in [grid(most + 1, 1, 1), grid(1, 65_536, 1), grid(1, 1, 65_536), grid(1 << 40, 1, 1)] {
            let error = refused.check().unwrap_err();
            assert!(error.to_string().contains("2147483647 x 65535 x 65535 blocks expected"), "{error}");
        }
        assert!(Grid::new(1, 1024).check().is_ok());
        assert!(Grid::new(1, 1025).check().is_err() && Grid::new(1, 0).check().is_err());
        assert!(grid(3, 0, 1).is_empty() && !grid(1, 1, 1).is_empty());
    }

    #[test]
    fn sizes_that_a_kernel_cannot_count_are_refused() {
        let most = i32::MAX as usize;
        assert_eq!(Argument::int(most).unwrap().bits(), most as u64);
        assert!(Argument::int(most + 1).is_err());
        assert!(Argument::ints([1, most + 1]).is_err());
        assert_eq!(Argument::int64(1 << 40).bits(), 1 << 40);
    }
}
