//! Kernels by name, and their launch.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result, sys};

use super::compile::{self, KernelSource};
use super::{Gpu, Loaded, failed};
use crate::{Context, Result};

/// How many blocks of how many threads, and the bytes of shared memory each block asks for.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: (usize, usize, usize),
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

impl Grid {
    /// Blocks in a row.
    pub fn new(blocks: usize, threads: usize) -> Self {
        Self { blocks: (blocks, 1, 1), threads, shared: 0 }
    }

    /// Enough blocks for a thread an item.
    pub fn cover(items: usize, threads: usize) -> Self {
        Self::new(items.div_ceil(threads), threads)
    }
}

/// A value that a kernel takes: its bits, as the driver reads them through a pointer.
#[derive(Debug, Clone, Copy)]
pub struct Argument(u64);

impl Argument {
    /// An address that may be null.
    pub fn address(pointer: Option<u64>) -> Self {
        Self(pointer.unwrap_or(0))
    }

    /// The bits, as a structure in GPU memory holds them.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self(u64::from(value as u32))
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self(value as u64)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self(u64::from(value.to_bits()))
    }
}

impl<T> From<&CudaSlice<T>> for Argument {
    fn from(slice: &CudaSlice<T>) -> Self {
        Self(address(slice))
    }
}

/// The device address of a buffer. Streams are ordered by hand: see [`Gpu`].
pub fn address<T>(slice: &CudaSlice<T>) -> u64 {
    slice.device_ptr(slice.stream()).0
}

impl Gpu {
    /// Launches a kernel on the stream that computes.
    pub fn launch(
        &self,
        source: &KernelSource,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        self.launch_on(&self.stream, source, name, grid, arguments)
    }

    /// Launches a kernel. The arguments must be what its signature says: the op beside the kernel
    /// is the only caller, and has checked all shapes.
    pub fn launch_on(
        &self,
        stream: &CudaStream,
        source: &KernelSource,
        name: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let Grid { blocks, threads, shared } = grid;
        if blocks.0 == 0 || blocks.1 == 0 || blocks.2 == 0 {
            return Ok(());
        }
        let function = self.function(source, name, shared)?;
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| (&raw const argument.0).cast_mut().cast()).collect();
        self.bind()?;
        // SAFETY: the function is loaded in this context, and each pointer is to a live argument.
        #[allow(unsafe_code)]
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
    pub fn constant(&self, source: &KernelSource, name: &'static str) -> Result<i32> {
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
