//! The adapter of a layer of experts on a GPU. Parameters and gradients are f32; the products read 16-bit copies.

use std::sync::Arc;

use super::super::{AdapterSlot, GroupedLinear, Routing, Rows};
use super::products::{Direction, Factor, Product};
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, buffer_bytes};
use crate::kernels::linear;

/// R is rounded up to a multiple of this: 16 bytes of 16-bit numbers.
const RANK_STEP: usize = 8;

/// 16-bit copies of the A and the B of all experts, refreshed when the parameters change.
pub(in super::super) struct Adapters16 {
    experts: usize,
    rank: usize,
    /// [E, R, K], where R is rounded up.
    a: GpuTensor,
    /// B times its scale, [E, N, R].
    b: GpuTensor,
}

/// Bytes that [`Adapters16::new`] takes.
pub(super) fn bytes(experts: usize, inputs: usize, outputs: usize, rank: usize) -> u64 {
    let rank = rank.next_multiple_of(RANK_STEP);
    buffer_bytes::<u16>(experts * rank * inputs) + buffer_bytes::<u16>(experts * outputs * rank)
}

impl Adapters16 {
    /// Copies of the adapter `slot` of `linear`.
    pub(super) fn new(linear: &GroupedLinear, slot: &AdapterSlot, parameters: &GpuVector) -> Result<Self> {
        let (gpu, [a, b]) = (parameters.gpu(), shapes(linear, slot.rank));
        let (a, b) = (GpuTensor::new(gpu, &a)?, GpuTensor::new(gpu, &b)?);
        let mut copies = Self { experts: linear.experts(), rank: slot.rank, a, b };
        copies.refresh(slot, parameters)?;
        Ok(copies)
    }

    /// Whether the adapter of `linear` has the extents of these.
    pub(super) fn are_of(&self, linear: &GroupedLinear) -> bool {
        let shapes = shapes(linear, linear.rank());
        [self.a.shape(), self.b.shape()] == shapes.each_ref().map(<[usize; 3]>::as_slice)
            && self.rank == linear.rank()
    }

    /// Copies the adapter `slot` anew.
    pub(super) fn refresh(&mut self, slot: &AdapterSlot, parameters: &GpuVector) -> Result<()> {
        let (experts, rank, padded) = (self.experts, self.rank, self.a.shape()[1]);
        let (inputs, outputs) = (self.a.shape()[2], self.b.shape()[1]);
        // A row of all ranks of an expert, and a row of the ranks of an output.
        let a = (experts, rank * inputs, padded * inputs, 1.0);
        let b = (experts * outputs, rank, padded, slot.scale);
        let copies = [(&mut self.a, slot.a.clone(), a), (&mut self.b, slot.b.clone(), b)];
        for (copy, from, (rows, filled, columns, scale)) in copies {
            let from = parameters.view(from)?.matrix(rows, filled)?;
            let grid = Grid::cover(copy.len(), 256);
            let sizes = Argument::ints([rows, filled, 0, columns])?;
            let arguments = [&[copy.view_mut()?.into(), from.into()], &sizes[..], &[scale.into()]].concat();
            // SAFETY: `place_b(copy [rows, columns], parameters [rows, filled], rows, filled, first column, columns, scale)`;
            // `copy` has rows · columns numbers.
            #[allow(unsafe_code)]
            unsafe {
                parameters.gpu().launch(&linear::cuda::LORA, "place_b", grid, &arguments)?
            };
        }
        Ok(())
    }

    /// x·Aᵀ [S, R]
    pub(super) fn lora_hidden(&self, (x, rows): (&GpuTensor, Rows), routing: &Routing) -> Result<GpuTensor> {
        let factor = Factor { left: x.view()?, rows, right: self.a.view()? };
        self.of_ranks(x.gpu(), factor, Direction::Forward, routing)
    }

    /// scale·dy·B [S, R]
    pub(super) fn backward(&self, (dy, rows): (&GpuTensor, Rows), routing: &Routing) -> Result<GpuTensor> {
        let factor = Factor { left: dy.view()?, rows, right: self.b.view()? };
        self.of_ranks(dy.gpu(), factor, Direction::Backward, routing)
    }

    fn of_ranks(
        &self,
        gpu: &Arc<Gpu>,
        factor: Factor<'_>,
        direction: Direction,
        routing: &Routing,
    ) -> Result<GpuTensor> {
        let mut hidden = GpuTensor::new(gpu, &[routing.slots(), self.a.shape()[1]])?;
        Product { direction, x: Some(factor), hidden: None }.launch(gpu, hidden.view_mut()?, routing)?;
        Ok(hidden)
    }

    /// The factors of scale·lora_hidden·Bᵀ [S, N].
    pub(super) fn outputs<'a>(&'a self, lora_hidden: &'a GpuTensor) -> Result<Factor<'a>> {
        Ok(Factor { left: lora_hidden.view()?, rows: Rows::Slots, right: self.b.view()? })
    }

    /// The factors of d_lora_hidden·A [S, K].
    pub(super) fn inputs<'a>(&'a self, d_lora_hidden: &'a GpuTensor) -> Result<Factor<'a>> {
        Ok(Factor { left: d_lora_hidden.view()?, rows: Rows::Slots, right: self.a.view()? })
    }
}

/// The shapes of the copies of A and B.
fn shapes(linear: &GroupedLinear, rank: usize) -> [[usize; 3]; 2] {
    let (experts, rank) = (linear.experts(), rank.next_multiple_of(RANK_STEP));
    [[experts, rank, linear.inputs], [experts, linear.outputs, rank]]
}
