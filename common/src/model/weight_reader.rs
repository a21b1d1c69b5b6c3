//! Reads the weights of a checkpoint to the device that computes with them.

use super::ExpertModules;
use super::modules::{Module, NormWeight};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::device::cuda::StreamedBlock;
use crate::device::{Device, Vector};
use crate::kernels::grouped_linear::GroupedLinear;
use crate::kernels::linear::{Linear, Projection, Weight};
use crate::nf4::Scheme;
use crate::{Result, error};

/// Reads the weights of a checkpoint to where they are used.
#[derive(Clone, Copy)]
pub(super) struct WeightReader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// How linear layers of blocks that are not in 4 bits in the checkpoint are quantized.
    pub(super) quantization: Option<Scheme>,
    pub(super) device: &'a Device,
    /// The streamed block that linear layers become part of; without one they stay on the device.
    pub(super) block: Option<&'a StreamedBlock>,
}

impl WeightReader<'_> {
    /// The weight of a norm whose results are all multiplied with `scale`.
    pub(super) fn scaled_norm(&self, norm: &NormWeight, scale: f32) -> Result<Vector> {
        let mut weight = self.vector(&norm.name, norm.len)?;
        weight.iter_mut().for_each(|weight| *weight = (*weight + norm.offset) * scale);
        Vector::from_vec(weight, self.device)
    }

    /// The weight of a norm.
    pub(super) fn norm(&self, norm: &NormWeight) -> Result<Vector> {
        self.repeated_norms(&[(norm, 1)])
    }

    /// Weights of norms one after the other, each as often as it says.
    pub(super) fn repeated_norms(&self, norms: &[(&NormWeight, usize)]) -> Result<Vector> {
        let mut values = Vec::new();
        for (norm, times) in norms {
            let mut weight = self.vector(&norm.name, norm.len)?;
            weight.iter_mut().for_each(|weight| *weight += norm.offset);
            values.extend(weight.repeat(*times));
        }
        Vector::from_vec(values, self.device)
    }

    /// Linear layers of one input, stacked.
    pub(super) fn stack(&self, modules: &[Module]) -> Result<Linear> {
        let projections = modules.iter().map(|module| self.projection(module));
        Linear::new(projections.collect::<Result<_>>()?)?.into_block(self.device, self.block)
    }

    fn projection(&self, module: &Module) -> Result<Projection> {
        let bias = module.bias().map(|name| self.vector(&name, module.shape[0])).transpose()?;
        Ok(Projection { weight: self.quantized(module)?, bias, adapter: None, name: module.name.clone() })
    }

    /// The layers of a mixture's experts.
    pub(super) fn experts(&self, modules: &ExpertModules) -> Result<GroupedLinear> {
        let weights = modules.experts.iter();
        let weights = weights.map(|modules| modules.iter().map(|module| self.quantized(module)).collect());
        let weights = weights.collect::<Result<_>>()?;
        GroupedLinear::new(modules.name.clone(), weights)?.into_block(self.device, self.block)
    }

    /// The router of a mixture, which is never quantized. A weight that is no number would send tokens anywhere.
    pub(super) fn router(&self, module: &Module) -> Result<Linear> {
        let weight = self.weight(module)?;
        let [n, k] = weight.shape();
        let mut values = vec![0.0; n * k];
        weight.read_rows(0..n, &mut values)?;
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (place / k, place % k);
            return Err(error!(
                Malformed,
                "{}: {} at [{row}, {column}], a finite weight of the router expected",
                module.weight(),
                values[place]
            ));
        }
        let projection = Projection { weight, bias: None, adapter: None, name: module.name.clone() };
        Linear::new(vec![projection])?.to_device(self.device)
    }

    /// A weight of a block, in 4 bits where it is to be quantized.
    fn quantized(&self, module: &Module) -> Result<Weight> {
        match self.quantization {
            Some(scheme) => self.weight(module)?.quantized(scheme),
            None => self.weight(module),
        }
    }

    pub(super) fn weight(&self, module: &Module) -> Result<Weight> {
        Weight::load(self.checkpoint, &module.weight(), module.shape)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        vector_of(self.checkpoint, name, len)?.to_f32()
    }
}

/// The tensor `name`, which must have the shape [len].
pub(super) fn vector_of(checkpoint: &Checkpoint, name: &str, len: usize) -> Result<Tensor> {
    let tensor = checkpoint.tensor(name)?;
    match tensor.shape == [len] {
        true => Ok(tensor),
        false => Err(error!(Malformed, "tensor {name}: shape [{len}] expected, found {:?}", tensor.shape)),
    }
}
