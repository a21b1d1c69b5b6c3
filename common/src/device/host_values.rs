//! Numbers on the host that a device has computed.

use std::ops::{Deref, DerefMut};

use super::cuda::Downloaded;

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
