//! Moments in 8 bits, as bitsandbytes' blockwise 8-bit optimizers keep them (Dettmers and others
//! 2021, arXiv:2110.02861): each value is a code of a dynamic data type, signed for the first moment
//! and unsigned for the second, times the largest magnitude in its block of 256.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use crate::Result;
use crate::device::Device;
use crate::device::cuda::{Buffer, Gpu, buffer_bytes};
use crate::nf4::DynamicMap;

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;

/// Both moments of neighbouring parameters.
#[derive(Debug)]
pub(super) enum Quantized {
    /// On the host.
    Cpu([Blocks; 2]),
    /// On a GPU.
    Cuda(Box<GpuQuantized>),
}

/// One moment of neighbouring parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blocks {
    /// [len]
    pub codes: Vec<u8>,
    /// The largest magnitude in each block, [ceil(len / 256)].
    pub absmax: Vec<f32>,
}

/// Both moments of neighbouring parameters on a GPU: [`Blocks`], and what codes mean.
#[derive(Debug)]
pub(super) struct GpuQuantized {
    pub gpu: Arc<Gpu>,
    pub codes: [Buffer<u8>; 2],
    pub absmax: [Buffer<f32>; 2],
    /// Values and thresholds of the signed map, then of the unsigned one, [4, 256].
    pub maps: CudaSlice<f32>,
    pub len: usize,
}

impl Quantized {
    /// Moments of `len` parameters that are all zero.
    pub(super) fn zeros(len: usize, device: &Device) -> Result<Self> {
        let blocks = |map: &DynamicMap| Blocks {
            codes: vec![map.nearest(0.0); len],
            absmax: vec![0.0; len.div_ceil(BLOCK)],
        };
        Self::on(device, [blocks(DynamicMap::signed()), blocks(DynamicMap::unsigned())])
    }

    /// These moments, moved to the device.
    pub(super) fn on(device: &Device, moments: [Blocks; 2]) -> Result<Self> {
        let Device::Cuda(gpu) = device else { return Ok(Self::Cpu(moments)) };
        let mut maps = Vec::new();
        for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
            maps.extend(map.values);
            maps.extend(map.thresholds);
            maps.push(f32::INFINITY);
        }
        let [first, second] = &moments;
        let own = |codes: &[u8]| gpu.upload(codes).map(Buffer::Own);
        let scales = |absmax: &[f32]| gpu.upload(absmax).map(Buffer::Own);
        Ok(Self::Cuda(Box::new(GpuQuantized {
            codes: [own(&first.codes)?, own(&second.codes)?],
            absmax: [scales(&first.absmax)?, scales(&second.absmax)?],
            maps: gpu.upload(&maps)?,
            len: first.codes.len(),
            gpu: gpu.clone(),
        })))
    }

    /// Bytes of a GPU's own memory that [`Quantized::on`] takes for `len` parameters, and that are left of
    /// them in [`Quantized::paged`].
    pub(super) fn gpu_bytes(len: usize, is_paged: bool) -> u64 {
        let blocks = buffer_bytes::<u8>(len) + buffer_bytes::<f32>(len.div_ceil(BLOCK));
        buffer_bytes::<f32>(4 * DynamicMap::LEN) + if is_paged { 0 } else { 2 * blocks }
    }

    /// Moves the moments to unified memory, where they are on a GPU.
    pub(super) fn paged(self) -> Result<Self> {
        let [first, second] = self.to_host()?;
        match self {
            Self::Cpu(_) => Ok(self),
            Self::Cuda(moments) => {
                let gpu = moments.gpu.clone();
                Ok(Self::Cuda(Box::new(GpuQuantized {
                    codes: [gpu.unified(&first.codes)?, gpu.unified(&second.codes)?],
                    absmax: [gpu.unified(&first.absmax)?, gpu.unified(&second.absmax)?],
                    ..*moments
                })))
            }
        }
    }

    /// A copy on the host.
    pub(super) fn to_host(&self) -> Result<[Blocks; 2]> {
        match self {
            Self::Cpu(moments) => Ok(moments.clone()),
            Self::Cuda(moments) => {
                let GpuQuantized { gpu, codes, absmax, len, .. } = &**moments;
                let blocks = |moment: usize| {
                    let absmax = gpu.read(&absmax[moment], len.div_ceil(BLOCK))?;
                    Ok::<_, crate::Error>(Blocks { codes: gpu.read(&codes[moment], *len)?, absmax })
                };
                Ok([blocks(0)?, blocks(1)?])
            }
        }
    }
}

/// The values of a block, [codes.len()].
pub(super) fn dequantize(map: &DynamicMap, codes: &[u8], absmax: f32, values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = map.value(code) * absmax;
    }
}

/// The nearest codes of the values of a block; returns the block's absmax.
pub(super) fn quantize(map: &DynamicMap, values: &[f32], codes: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (code, value) in codes.iter_mut().zip(values) {
        *code = map.nearest(value / absmax.max(f32::MIN_POSITIVE));
    }
    absmax
}
