//! What AdamW keeps of each parameter between steps, in f32 or in 8 bits.

use std::ops::Range;

use super::quantized::{BLOCK, Blocks, Quantized};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::device::{Device, Vector};
use crate::{Error, Result, error};

/// Tensors with fewer values keep f32 moments: bitsandbytes' `min_8bit_size`.
pub const LEAST_IN_8_BITS: usize = 4096;

/// How the moments of parameters are kept, before there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MomentsSpec {
    /// Ranges that follow each other, and whether their moments are in 8 bits.
    parts: Vec<(Range<usize>, bool)>,
    /// Whether they will be in unified memory where they are on a GPU: the driver moves them to the host
    /// where the GPU's memory is short (Dettmers et al. 2023, arXiv:2305.14314, section 3).
    pub is_paged: bool,
}

impl MomentsSpec {
    /// f32 moments of `len` parameters.
    pub fn exact(len: usize) -> Self {
        Self { parts: vec![(0..len, false)], is_paged: false }
    }

    /// 8-bit moments of parameters that are made of `tensors`, which follow each other. As in
    /// bitsandbytes' optimizers blocks begin anew with each tensor, and tensors of fewer than
    /// [`LEAST_IN_8_BITS`] values keep f32 moments.
    pub fn in_8_bits(tensors: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
        for tensor in tensors {
            let in_8_bits = tensor.len() >= LEAST_IN_8_BITS;
            match parts.last_mut() {
                // After a whole number of blocks the next tensor's blocks begin by themselves.
                Some((range, kind))
                    if *kind == in_8_bits && (!in_8_bits || range.len().is_multiple_of(BLOCK)) =>
                {
                    range.end = tensor.end;
                }
                _ => parts.push((tensor, in_8_bits)),
            }
        }
        Self { parts, is_paged: false }
    }

    /// These moments in unified memory, where they are on a GPU.
    pub fn paged(self) -> Self {
        Self { is_paged: true, ..self }
    }

    /// The memory that the moments take, wherever they are.
    pub fn bytes(&self) -> u64 {
        let of = |(range, in_8_bits): &(Range<usize>, bool)| match in_8_bits {
            true => 2 * range.len() + 8 * range.len().div_ceil(BLOCK),
            false => 8 * range.len(),
        };
        self.parts.iter().map(of).sum::<usize>() as u64
    }

    /// Bytes of a GPU's own memory that they take.
    pub fn gpu_bytes(&self) -> u64 {
        let of = |(range, in_8_bits): &(Range<usize>, bool)| match (in_8_bits, self.is_paged) {
            (true, is_paged) => Quantized::gpu_bytes(range.len(), is_paged),
            (false, true) => 0,
            (false, false) => 2 * Vector::gpu_bytes(range.len()),
        };
        self.parts.iter().map(of).sum()
    }
}

/// First and second moments, and the number of steps taken.
#[derive(Debug)]
pub struct Moments {
    /// Parts that follow each other and together are all parameters.
    pub(super) parts: Vec<Part>,
    /// Steps taken.
    pub steps: u64,
    /// Whether they are in unified memory on a GPU.
    is_paged: bool,
}

/// The moments of neighbouring parameters.
#[derive(Debug)]
pub(super) struct Part {
    /// Which parameters.
    pub range: Range<usize>,
    pub storage: Storage,
}

/// How moments are kept.
#[derive(Debug)]
pub(super) enum Storage {
    /// As f32 values: 8 bytes a parameter.
    Exact { first: Vector, second: Vector },
    /// As bitsandbytes' 8-bit optimizers keep them: 2 bytes a parameter, and 8 for each block of 256.
    Quantized(Quantized),
}

impl Storage {
    fn paged(self) -> Result<Self> {
        match self {
            Self::Exact { first, second } => {
                Ok(Self::Exact { first: first.paged()?, second: second.paged()? })
            }
            Self::Quantized(moments) => Ok(Self::Quantized(moments.paged()?)),
        }
    }
}

impl Moments {
    /// f32 moments of `len` parameters before the first step, where the parameters are.
    pub fn new(len: usize, device: &Device) -> Result<Self> {
        Self::of(&MomentsSpec::exact(len), device)
    }

    /// Moments before the first step, where the parameters are.
    pub fn of(spec: &MomentsSpec, device: &Device) -> Result<Self> {
        let part = |(range, in_8_bits): &(Range<usize>, bool)| {
            let len = range.len();
            let storage = match in_8_bits {
                true => Storage::Quantized(Quantized::zeros(len, device)?),
                false => {
                    Storage::Exact { first: Vector::zeros(len, device)?, second: Vector::zeros(len, device)? }
                }
            };
            let storage = if spec.is_paged { storage.paged()? } else { storage };
            Ok(Part { range: range.clone(), storage })
        };
        let parts = spec.parts.iter().map(part).collect::<Result<_>>()?;
        Ok(Self { parts, steps: 0, is_paged: spec.is_paged })
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.parts.last().map_or(0, |part| part.range.end)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The moments as tensors of a file, for the parts N of the parameters: `first_moment.N` (F32), or
    /// `first_moment.N.codes` (U8) and `first_moment.N.absmax` (F32), and the second moments likewise.
    pub fn to_tensors(&self) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            match &part.storage {
                Storage::Exact { first, second } => {
                    for (name, moment) in NAMES.iter().zip([first, second]) {
                        let (name, shape) = (format!("{name}.{index}"), vec![moment.len()]);
                        tensors.push(Tensor::from_f32(name, shape, &moment.to_vec()?));
                    }
                }
                Storage::Quantized(moments) => {
                    for (name, Blocks { codes, absmax }) in NAMES.iter().zip(moments.to_host()?) {
                        let shape = vec![absmax.len()];
                        tensors.push(Tensor::from_f32(format!("{name}.{index}.absmax"), shape, &absmax));
                        let (name, shape) = (format!("{name}.{index}.codes"), vec![codes.len()]);
                        tensors.push(Tensor { name, dtype: Dtype::U8, shape, bytes: codes.into() });
                    }
                }
            }
        }
        Ok(tensors)
    }

    /// Takes over what [`Moments::to_tensors`] gave of moments of the same parameters and kind.
    pub fn load(&mut self, file: &Checkpoint, device: &Device) -> Result<()> {
        let is_paged = self.is_paged;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let len = part.range.len();
            match &mut part.storage {
                Storage::Exact { first, second } => {
                    for (name, moment) in NAMES.iter().zip([first, second]) {
                        let saved = tensor(file, &format!("{name}.{index}"), Dtype::F32, len)?;
                        let values = Vector::from_vec(saved.to_f32()?, device)?;
                        *moment = if is_paged { values.paged()? } else { values };
                    }
                }
                Storage::Quantized(moments) => {
                    let blocks = |name: &str| {
                        let codes = tensor(file, &format!("{name}.{index}.codes"), Dtype::U8, len)?;
                        let name = format!("{name}.{index}.absmax");
                        let absmax = tensor(file, &name, Dtype::F32, len.div_ceil(BLOCK))?.to_f32()?;
                        Ok::<_, Error>(Blocks { codes: codes.bytes.to_vec(), absmax })
                    };
                    let saved = Quantized::on(device, [blocks(NAMES[0])?, blocks(NAMES[1])?])?;
                    *moments = if is_paged { saved.paged()? } else { saved };
                }
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 2] = ["first_moment", "second_moment"];

fn tensor(file: &Checkpoint, name: &str, dtype: Dtype, len: usize) -> Result<Tensor> {
    let tensor = file.tensor(name)?;
    match tensor.dtype == dtype && tensor.element_count() == len {
        true => Ok(tensor),
        false => Err(error!(
            Malformed,
            "tensor {name}: {len} values in {dtype} expected, found {} in {}",
            tensor.element_count(),
            tensor.dtype
        )),
    }
}
