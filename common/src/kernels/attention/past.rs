//! Keys and values of tokens that came before.

use super::cuda::GpuPast;
use super::{Heads, check};
use crate::device::Tensor;
use crate::{Result, error};

/// Keys, rotated, and values that every sequence of a batch sees before its own tokens.
#[derive(Debug)]
pub struct Past(Rows);

/// Where the rows are.
#[derive(Debug)]
enum Rows {
    /// f32 on the host.
    Cpu(HostPast),
    /// 16-bit numbers on a GPU.
    Cuda(GpuPast),
}

/// Rows on the host.
#[derive(Debug, Default)]
pub(super) struct HostPast {
    /// [P, K·D]
    pub(super) keys: Vec<f32>,
    /// [P, K·D]
    pub(super) values: Vec<f32>,
    len: usize,
}

impl Past {
    /// The keys and values of qkv [T, (H + 2K)·D].
    pub fn new(qkv: &Tensor, heads: Heads) -> Result<Self> {
        let mut past = match qkv {
            Tensor::Cpu(_) => Self(Rows::Cpu(HostPast::default())),
            Tensor::Cuda(qkv) => {
                let columns = heads.keys * heads.size;
                Self(Rows::Cuda(GpuPast::new(qkv.gpu(), columns, qkv.shape()[0])?))
            }
        };
        past.append(qkv, heads)?;
        Ok(past)
    }

    /// Adds the keys and values of qkv [T, (H + 2K)·D] after those that are there.
    pub fn append(&mut self, qkv: &Tensor, heads: Heads) -> Result<()> {
        let t = check(qkv, heads)?;
        self.check(heads)?;
        match &mut self.0 {
            Rows::Cpu(past) => {
                let columns = heads.keys * heads.size;
                for row in qkv.host()?.chunks_exact(heads.width()) {
                    let (keys, values) = row[heads.queries * heads.size..].split_at(columns);
                    past.keys.extend_from_slice(keys);
                    past.values.extend_from_slice(values);
                }
                past.len += t;
                Ok(())
            }
            Rows::Cuda(past) => past.append(qkv.gpu()?, heads),
        }
    }

    /// P, the tokens it holds.
    pub fn len(&self) -> usize {
        match &self.0 {
            Rows::Cpu(past) => past.len,
            Rows::Cuda(past) => past.len(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Rows::Cpu(past) if len < past.len => {
                let columns = past.keys.len() / past.len;
                past.keys.truncate(len * columns);
                past.values.truncate(len * columns);
                past.len = len;
            }
            Rows::Cpu(_) => {}
            Rows::Cuda(past) => past.truncate(len),
        }
    }

    pub(super) fn host(&self) -> Result<&HostPast> {
        match &self.0 {
            Rows::Cpu(past) => Ok(past),
            Rows::Cuda(_) => Err(error!(Bug, "attention: a past on the host expected, found one on a GPU")),
        }
    }

    pub(super) fn gpu(&self) -> Result<&GpuPast> {
        match &self.0 {
            Rows::Cpu(_) => Err(error!(Bug, "attention: a past on a GPU expected, found one on the host")),
            Rows::Cuda(past) => Ok(past),
        }
    }

    pub(super) fn check(&self, heads: Heads) -> Result<()> {
        let columns = match &self.0 {
            Rows::Cpu(past) if past.len == 0 => return Ok(()),
            Rows::Cpu(past) => past.keys.len() / past.len,
            Rows::Cuda(past) => past.columns(),
        };
        match columns == heads.keys * heads.size {
            true => Ok(()),
            false => Err(error!(
                Bug,
                "attention: a past of rows of {} expected, found {columns}",
                heads.keys * heads.size
            )),
        }
    }
}
