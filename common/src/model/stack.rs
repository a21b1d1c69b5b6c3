//! The linear layers of one product, with the adapters that they can have: a stack of layers of one input, or the
//! layers of a mixture's experts.

use crate::device::{Device, Vector};
use crate::kernels::grouped_linear::{DetachedAdapter, GroupedLinear};
use crate::kernels::linear::{AdapterSlot, DetachedAdapters, Linear};
use crate::{Result, bail};

use super::StackConfig;

/// A stack to read.
#[derive(Clone, Copy)]
pub enum Stack<'a> {
    /// Layers of one input.
    Linear(&'a Linear),
    /// The layers of all experts.
    Experts(&'a GroupedLinear),
}

/// A stack to attach adapters to.
pub(super) enum StackMut<'a> {
    Linear(&'a mut Linear),
    Experts(&'a mut GroupedLinear),
}

/// The adapters of a stack that have been taken off it.
pub(super) enum DetachedStack {
    Linear(DetachedAdapters),
    Experts(DetachedAdapter),
}

/// A layer, or the layers of all experts, that an adapter can sit on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The path of the module, or of the experts' parameter.
    pub name: &'a str,
    /// How many experts there are; `None` where it is no mixture's.
    pub experts: Option<usize>,
    /// [N, K]
    pub shape: [usize; 2],
}

impl<'a> StackConfig<'a> {
    /// What adapters can sit on.
    pub(super) fn targets(self) -> Vec<Target<'a>> {
        match self {
            Self::Linear(modules) => modules
                .iter()
                .map(|module| Target { name: &module.name, experts: None, shape: module.shape })
                .collect(),
            Self::Experts(modules) => {
                let experts = Some(modules.experts.len());
                vec![Target { name: &modules.name, experts, shape: modules.shape }]
            }
        }
    }
}

impl<'a> Stack<'a> {
    /// What adapters can sit on, each with the place of its adapter.
    pub(super) fn targets(self) -> Vec<(Target<'a>, Option<&'a AdapterSlot>)> {
        match self {
            Self::Linear(linear) => {
                let target = |projection: &'a crate::kernels::linear::Projection| {
                    let shape = projection.weight.shape();
                    (Target { name: &projection.name, experts: None, shape }, projection.adapter.as_ref())
                };
                linear.projections().iter().map(target).collect()
            }
            Self::Experts(linear) => {
                let shape = [linear.outputs(), linear.inputs()];
                let target = Target { name: &linear.name, experts: Some(linear.experts()), shape };
                vec![(target, linear.adapter.as_ref())]
            }
        }
    }

    /// Whether there is any adapter.
    pub fn has_adapter(self) -> bool {
        match self {
            Self::Linear(linear) => linear.has_adapter(),
            Self::Experts(linear) => linear.adapter.is_some(),
        }
    }

    /// ΣR of the adapters.
    pub fn ranks(self) -> usize {
        match self {
            Self::Linear(linear) => linear.ranks(),
            Self::Experts(linear) => linear.rank(),
        }
    }
}

impl StackMut<'_> {
    /// The stack to read.
    pub(super) fn as_ref(&self) -> Stack<'_> {
        match self {
            Self::Linear(linear) => Stack::Linear(linear),
            Self::Experts(linear) => Stack::Experts(linear),
        }
    }

    /// Gives each target of the stack the place of its adapter.
    pub(super) fn attach(&mut self, slots: Vec<Option<AdapterSlot>>) {
        match self {
            Self::Linear(linear) => {
                for (projection, slot) in linear.projections_mut().iter_mut().zip(slots) {
                    projection.adapter = slot;
                }
            }
            Self::Experts(linear) => linear.adapter = slots.into_iter().next().flatten(),
        }
    }

    /// Takes the adapters off the stack.
    pub(super) fn detach(&mut self) -> DetachedStack {
        match self {
            Self::Linear(linear) => DetachedStack::Linear(linear.detach_adapters()),
            Self::Experts(linear) => DetachedStack::Experts(linear.detach_adapter()),
        }
    }

    /// Puts adapters that were taken off the stack back on it.
    pub(super) fn attach_detached(&mut self, detached: DetachedStack) -> Result<()> {
        match (self, detached) {
            (Self::Linear(linear), DetachedStack::Linear(detached)) => linear.attach_adapters(detached),
            (Self::Experts(linear), DetachedStack::Experts(detached)) => linear.attach_adapter(detached),
            _ => bail!(Bug, "adapters that were taken off another stack"),
        }
        Ok(())
    }

    /// Copies the adapters to where a GPU multiplies them.
    pub(super) fn refresh_adapters(&mut self, parameters: &Vector) -> Result<()> {
        match self {
            Self::Linear(linear) => linear.refresh_adapters(parameters),
            Self::Experts(linear) => linear.refresh_adapters(parameters),
        }
    }

    /// On a GPU, keeps 16-bit copies of quantized weights within `budget` bytes, and returns the bytes.
    pub(super) fn cache_dequantized(&mut self, budget: u64, device: &Device) -> Result<u64> {
        match self {
            Self::Linear(linear) => linear.cache_dequantized(budget, device),
            Self::Experts(linear) => linear.cache_dequantized(budget, device),
        }
    }
}
