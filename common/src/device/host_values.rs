//! Numbers that a computation brings to the host.

use std::ops::{Deref, DerefMut};

use super::cuda::Downloaded;
use crate::Result;

/// Numbers on the host, or on their way there.
#[derive(Debug)]
pub enum HostValues {
    /// In memory of this process.
    Owned(Vec<f32>),
    /// In page-locked memory that a GPU writes. There are none before [`HostValues::wait`].
    Downloaded(Downloaded),
}

impl HostValues {
    /// Returns whether the numbers are on the host, so that nothing is left to wait for.
    pub fn are_there(&self) -> bool {
        match self {
            Self::Owned(_) => true,
            Self::Downloaded(values) => values.is_there(),
        }
    }

    /// Waits until the numbers are on the host. Fails where the GPU has failed.
    pub fn wait(&mut self) -> Result<()> {
        match self {
            Self::Owned(_) => Ok(()),
            Self::Downloaded(values) => values.wait(),
        }
    }

    /// Returns the numbers as a vector.
    pub fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Owned(values) => values,
            Self::Downloaded(values) => values.to_vec(),
        }
    }
}

impl Deref for HostValues {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Owned(values) => values,
            Self::Downloaded(values) => values,
        }
    }
}

impl DerefMut for HostValues {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Owned(values) => values,
            Self::Downloaded(values) => values,
        }
    }
}
