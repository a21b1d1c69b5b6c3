//! Keys and values of tokens that came before.

use std::ops::Range;

use super::cuda::GpuPast;
use super::{Heads, check};
use crate::device::{Device, Tensor};
use crate::{Result, error};

/// Keys, rotated, and values that every sequence of a batch sees before its own tokens.
#[derive(Debug)]
pub struct Past {
    heads: Heads,
    rows: Rows,
}

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
    /// A past without tokens, on the device that will compute them.
    pub fn empty(heads: Heads, device: &Device) -> Result<Self> {
        let rows = match device {
            Device::Cpu => Rows::Cpu(HostPast::default()),
            Device::Cuda(gpu) => Rows::Cuda(GpuPast::new(gpu, heads.keys * heads.size, 0)?),
        };
        Ok(Self { heads, rows })
    }

    /// The keys and values of qkv [T, (H + 2K)·D].
    pub fn new(qkv: &Tensor, heads: Heads) -> Result<Self> {
        let rows = match qkv {
            Tensor::Cpu(_) => Rows::Cpu(HostPast::default()),
            Tensor::Cuda(qkv) => {
                let columns = heads.keys * heads.size;
                Rows::Cuda(GpuPast::new(qkv.gpu(), columns, qkv.shape()[0])?)
            }
        };
        let mut past = Self { heads, rows };
        past.append(qkv, heads)?;
        Ok(past)
    }

    /// Becomes a copy of the first `len` tokens of another past, which lies on the same device.
    pub fn copy_prefix(&mut self, of: &Self, len: usize) -> Result<()> {
        of.check(self.heads)?;
        if len > of.len() {
            return Err(error!(Bug, "attention: {len} tokens of a past of {}", of.len()));
        }
        match (&mut self.rows, &of.rows) {
            (Rows::Cpu(past), Rows::Cpu(of)) => {
                let numbers = len * self.heads.keys * self.heads.size;
                for (to, from) in [(&mut past.keys, &of.keys), (&mut past.values, &of.values)] {
                    to.clear();
                    to.extend_from_slice(&from[..numbers]);
                }
                past.len = len;
                Ok(())
            }
            (Rows::Cuda(past), Rows::Cuda(of)) => past.copy_prefix(of, len, self.heads),
            _ => Err(error!(Bug, "attention: pasts on different devices")),
        }
    }

    /// Makes room for `tokens` tokens in all, so that they come without copies of those that are there.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        match &mut self.rows {
            Rows::Cpu(_) => Ok(()),
            Rows::Cuda(past) => past.reserve(tokens, self.heads),
        }
    }

    /// Adds the keys and values of qkv [T, (H + 2K)·D] after those that are there.
    pub fn append(&mut self, qkv: &Tensor, heads: Heads) -> Result<()> {
        let t = check(qkv, heads)?;
        self.check(heads)?;
        match &mut self.rows {
            Rows::Cpu(_) => self.append_rows(qkv, 0..t, heads),
            Rows::Cuda(past) => past.append(qkv.gpu()?, heads),
        }
    }

    /// Adds the keys and values of some rows of qkv [T, (H + 2K)·D], which is on the host.
    pub(super) fn append_rows(&mut self, qkv: &Tensor, rows: Range<usize>, heads: Heads) -> Result<()> {
        let Rows::Cpu(past) = &mut self.rows else {
            return Err(error!(Bug, "attention: a past on the host expected, found one on a GPU"));
        };
        let (width, columns) = (heads.width(), heads.keys * heads.size);
        for row in qkv.host()?[rows.start * width..rows.end * width].chunks_exact(width) {
            let (keys, values) = row[heads.queries * heads.size..].split_at(columns);
            past.keys.extend_from_slice(keys);
            past.values.extend_from_slice(values);
        }
        past.len += rows.len();
        Ok(())
    }

    /// P, the tokens it holds.
    pub fn len(&self) -> usize {
        match &self.rows {
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
        match &mut self.rows {
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
        match &self.rows {
            Rows::Cpu(past) => Ok(past),
            Rows::Cuda(_) => Err(error!(Bug, "attention: a past on the host expected, found one on a GPU")),
        }
    }

    pub(super) fn gpu(&self) -> Result<&GpuPast> {
        match &self.rows {
            Rows::Cpu(_) => Err(error!(Bug, "attention: a past on a GPU expected, found one on the host")),
            Rows::Cuda(past) => Ok(past),
        }
    }

    pub(super) fn gpu_mut(&mut self) -> Result<&mut GpuPast> {
        match &mut self.rows {
            Rows::Cpu(_) => Err(error!(Bug, "attention: a past on a GPU expected, found one on the host")),
            Rows::Cuda(past) => Ok(past),
        }
    }

    pub(super) fn check(&self, heads: Heads) -> Result<()> {
        let columns = match &self.rows {
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
