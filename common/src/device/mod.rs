//! Where tensors live and products run.

mod assembled;
pub mod cuda;
mod host_values;
mod offloaded;
mod tensor;
mod vector;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

pub(crate) use assembled::AssembledRows;
pub use cuda::GpuVector;
use cuda::{Float16, Gpu};
pub use host_values::{HostValues, PendingValues};
pub(crate) use offloaded::OffloadedTensor;
pub use tensor::Tensor;
pub use vector::Vector;

/// What a result does with the values that are where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The result takes the place of the values.
    Overwrite,
    /// The result is added to the values.
    Add,
}

/// A place that holds tensors and computes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The host's cores, in f32.
    Cpu,
    /// A GPU, in bf16 or fp16 with sums in f32.
    Cuda(Arc<Gpu>),
}

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the host's cores.
    #[default]
    Auto,
    /// The host's cores.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number))) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(number)) if number.parse::<u16>().is_ok() => {
                Ok(Self::Cuda(number.parse().unwrap_or_default()))
            }
            _ => Err(Error::usage(format!("unknown device {text:?}, expected auto, cpu, cuda or cuda:N"))),
        }
    }
}

impl DeviceChoice {
    /// As [`DeviceChoice::open_in`] with bf16.
    pub fn open(self) -> Result<Device> {
        self.open_in(Float16::Bf16)
    }

    /// Opens the device, where a GPU computes in `float16`, and says what `auto` chose and why.
    pub fn open_in(self, float16: Float16) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => Ok(Device::Cuda(Gpu::open(ordinal, float16)?)),
            Self::Auto if Gpu::count() == 0 => {
                let threads = rayon::current_num_threads();
                crate::cli::verbose(format_args!("device: cpu, {threads} threads (no NVIDIA GPU was found)"));
                Ok(Device::Cpu)
            }
            Self::Auto => match Gpu::open(0, float16) {
                Ok(gpu) => {
                    crate::cli::note(format_args!("device: cuda:0, {}", gpu.name()));
                    Ok(Device::Cuda(gpu))
                }
                Err(error) => {
                    crate::cli::warn(format_args!("device: cpu, because the GPU cannot be used: {error}"));
                    if let Some(hint) = error.hint_text() {
                        crate::cli::note(format_args!("hint: {hint}"));
                    }
                    Ok(Device::Cpu)
                }
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(gpu) => write!(f, "cuda:{}", gpu.ordinal()),
        }
    }
}
