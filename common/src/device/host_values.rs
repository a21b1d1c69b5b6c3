//! Numbers that a computation brings to the host.

use std::ops::{Deref, DerefMut};

use super::cuda::{Download, Downloaded};
use crate::Result;

/// Numbers on their way to the host.
#[derive(Debug)]
pub enum PendingValues {
    /// They are there.
    Owned(Vec<f32>),
    /// A GPU may still be computing or copying them.
    Download(Download),
}

impl PendingValues {
    /// Returns whether the numbers are on the host, so that nothing is left to wait for.
    pub fn are_there(&self) -> bool {
        matches!(self, Self::Owned(_))
    }

    /// Waits until the numbers are on the host. Fails where the GPU has failed.
    pub fn wait(self) -> Result<HostValues> {
        match self {
            Self::Owned(values) => Ok(HostValues::Owned(values)),
            Self::Download(values) => values.wait().map(HostValues::Downloaded),
        }
    }
}

/// Numbers on the host.
#[derive(Debug)]
pub enum HostValues {
    /// In memory of this process.
    Owned(Vec<f32>),
    /// In page-locked memory that a GPU has written.
    Downloaded(Downloaded),
}

impl HostValues {
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
