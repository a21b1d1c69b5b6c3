//! Where tensors live and products run.

mod host_memory;
mod tensor;

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

pub use host_memory::{available_memory, peak_resident_memory, resident_memory};
pub use tensor::Tensor;

/// A place that holds tensors and computes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The host's cores, in f32.
    Cpu,
}

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The fastest device there is.
    #[default]
    Auto,
    /// The host's cores.
    Cpu,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::usage(format!("unknown device {text:?}, expected auto or cpu"))),
        }
    }
}

impl DeviceChoice {
    /// Opens the device, and says what `auto` chose and why.
    pub fn open(self) -> Result<Device> {
        if self == Self::Auto {
            crate::cli::detail(format_args!("device: cpu, {} threads", rayon::current_num_threads()));
        }
        Ok(Device::Cpu)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}
