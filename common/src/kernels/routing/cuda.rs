//! Routing on a GPU. The host learns nothing of the choice, so that it need not wait for the GPU: how many slots each
//! expert has stays there, and so does the list of tiles that products of slots go through.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::{RoutingSpec, Rows};
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, KernelSource, View, ViewMut};
use crate::device::{GpuVector, Vector};
use crate::kernels::Write;
use crate::kernels::linear::{self, Linear};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource =
    KernelSource::new("routing", concat!(include_str!("slots.cuh"), include_str!("routing.cu")));

/// Slots of a tile, as `grouped_linear/factors.cuh` has it.
const TILE_ROWS: usize = 128;
/// Numbers that describe a tile.
const TILE: usize = 4;
/// Tokens of a block, and its threads, as `routing.cu` has them, with the most that it can route.
const TOKENS: usize = 64;
const THREADS: usize = 512;
const MOST_EXPERTS: usize = 512;
const MOST_CHOSEN: usize = 32;

/// The experts of each token, and the order of the slots.
pub(in crate::kernels) struct Chosen {
    gpu: Arc<Gpu>,
    spec: RoutingSpec,
    slots_count: usize,
    /// The softmax of the logits, [T, E].
    probabilities: CudaSlice<f32>,
    /// The slot of each token's choice, [T, n].
    slots: CudaSlice<u32>,
    /// The token of each slot, `[S]`.
    tokens: CudaSlice<u32>,
    /// The first slot of each expert, the number of slots, and the number of tiles, [E + 2].
    starts: CudaSlice<u32>,
    /// The expert, the first slot and the number of slots of each tile: rows that one expert multiplies.
    tiles: CudaSlice<u32>,
}

impl Chosen {
    /// The most tiles that there can be, however the slots are spread over the experts.
    pub(in crate::kernels) fn most_tiles(&self) -> usize {
        most_tiles(self.slots_count, self.spec.experts)
    }

    /// The tiles and their number, as kernels take them.
    pub(in crate::kernels) fn tiles(&self) -> Result<[Argument<'_>; 2]> {
        let experts = self.spec.experts;
        Ok([(&self.tiles).into(), View::from(&self.starts).columns(experts + 1..experts + 2)?.into()])
    }

    /// The softmax of the logits, [T, E], on the host.
    pub(super) fn probabilities(&self) -> Result<Vec<f32>> {
        let tokens = self.slots_count / self.spec.chosen;
        self.gpu.download(&self.probabilities, tokens * self.spec.experts)
    }

    /// How many slots each expert has, `[E]`.
    pub(super) fn slots_of_experts(&self) -> Result<Vec<usize>> {
        let starts = self.gpu.download(&self.starts, self.spec.experts + 1)?;
        Ok(starts.windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize).collect())
    }

    /// The first slot of each expert, as kernels take it.
    pub(in crate::kernels) fn starts(&self) -> Argument<'_> {
        (&self.starts).into()
    }

    /// What leads from slots to rows of a matrix, as kernels take it: the token of each slot, or null.
    pub(in crate::kernels) fn tokens(&self, rows: Rows) -> Argument<'_> {
        match rows {
            Rows::Tokens => (&self.tokens).into(),
            Rows::Slots => Argument::null(),
        }
    }
}

fn most_tiles(slots: usize, experts: usize) -> usize {
    slots / TILE_ROWS + experts.min(slots)
}

/// The choice for x [T, C], and the weight of each slot.
pub(super) fn forward(x: &GpuTensor, router: &Linear, spec: RoutingSpec) -> Result<(Chosen, Vector)> {
    let RoutingSpec { experts, chosen, normalized } = spec;
    if experts > MOST_EXPERTS || chosen > MOST_CHOSEN {
        return Err(error!(
            Unsupported,
            "experts on a GPU: at most {MOST_EXPERTS} of which a token goes to {MOST_CHOSEN} expected, found \
             {experts} and {chosen}"
        )
        .hint("use --device cpu"));
    }
    let (gpu, tokens) = (x.gpu(), x.shape()[0]);
    let slots_count = tokens * chosen;
    let mut logits = gpu.allocate::<f32>(tokens * experts)?;
    if tokens > 0 {
        let out = ViewMut::from(&mut logits).matrix(tokens, experts)?;
        linear::cuda::multiply(gpu, out, x.view()?, router)?;
    }
    let blocks = tokens.div_ceil(TOKENS);
    let mut choices = gpu.allocate::<u32>(slots_count)?;
    let mut choice_weights = gpu.allocate::<f32>(slots_count)?;
    let mut counts = gpu.allocate::<u32>(blocks * experts)?;
    let [t, e, n] = Argument::ints([tokens, experts, chosen])?;
    let arguments = [
        (&mut logits).into(),
        (&mut choices).into(),
        (&mut choice_weights).into(),
        (&mut counts).into(),
        t,
        e,
        n,
        i32::from(normalized).into(),
    ];
    // SAFETY: `choose_experts(logits [T, E], choices [T, n], weights [T, n], counts [blocks, E], T, E, n, normalized)` with
    // a block for each 64 tokens; E and n are no more than the kernel has room for.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "choose_experts", Grid::new(blocks, THREADS), &arguments)?
    };
    let mut starts = gpu.allocate::<u32>(experts + 2)?;
    let mut tiles = gpu.allocate::<u32>(TILE * most_tiles(slots_count, experts))?;
    let [blocks_argument, tile_rows] = Argument::ints([blocks, TILE_ROWS])?;
    let arguments =
        [(&mut starts).into(), (&mut tiles).into(), (&mut counts).into(), blocks_argument, e, tile_rows];
    // SAFETY: `start_experts(starts [E + 2], tiles, counts [blocks, E], blocks, E, rows of a tile)` in one block, whose
    // threads are no fewer than E. The counts sum to the slots, which have no more tiles than there is room for.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "start_experts", Grid::new(1, THREADS), &arguments)?
    };
    let (mut slots, mut tokens_of_slots) =
        (gpu.allocate::<u32>(slots_count)?, gpu.allocate::<u32>(slots_count)?);
    let mut weights = Vector::on_gpu(gpu, slots_count)?;
    let arguments = [
        (&mut slots).into(),
        (&mut tokens_of_slots).into(),
        weights.gpu_mut()?.view_mut(0..slots_count)?.into(),
        (&choices).into(),
        (&choice_weights).into(),
        (&counts).into(),
        (&starts).into(),
        t,
        e,
        n,
    ];
    // SAFETY: `place_slots(slots [T, n], tokens [S], weights [S], choices [T, n], weights [T, n], counts [blocks, E],
    // starts [E], T, E, n)` with the blocks that have counted; each choice gets a slot of its own below S.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "place_slots", Grid::new(blocks, THREADS), &arguments)?
    };
    let chosen = Chosen {
        gpu: Arc::clone(gpu),
        spec,
        slots_count,
        probabilities: logits,
        slots,
        tokens: tokens_of_slots,
        starts,
        tiles,
    };
    Ok((chosen, weights))
}

/// dx [T, C] plus what the router adds to it, from the gradients `[S]` of the slots' weights, and those of the
/// probabilities `[E]` of every token where the experts' balance counts.
pub(super) fn backward(
    dweights: &GpuVector,
    balance: Option<&[f32]>,
    chosen: &Chosen,
    router: &Linear,
    dx: GpuTensor,
) -> Result<GpuTensor> {
    let RoutingSpec { experts, chosen: n, normalized } = chosen.spec;
    let (gpu, tokens) = (dx.gpu().clone(), dx.shape()[0]);
    if tokens == 0 {
        return Ok(dx);
    }
    if let Some(balance) = balance.filter(|balance| balance.len() != experts) {
        return Err(error!(Bug, "routing backward: {} slopes of {experts} experts", balance.len()));
    }
    let balance = balance.map(|balance| gpu.upload(balance)).transpose()?;
    let mut dlogits = GpuTensor::new(&gpu, &[tokens, experts])?;
    let [t, e, n] = Argument::ints([tokens, experts, n])?;
    let arguments = [
        dlogits.view_mut()?.into(),
        dweights.view(0..chosen.slots_count)?.into(),
        Argument::optional(balance.as_ref().map(View::from)),
        (&chosen.probabilities).into(),
        (&chosen.slots).into(),
        (&chosen.starts).into(),
        t,
        e,
        n,
        i32::from(normalized).into(),
    ];
    // SAFETY: `routing_backward(dlogits [T, E], dweights [S], balance [E] or null, probabilities [T, E], slots [T, n],
    // starts [E + 1], T, E, n, normalized)` with a warp for each token; the slots are below S.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "routing_backward", Grid::cover(tokens * 32, 256), &arguments)?
    };
    match dx.overwritten()? {
        (mut sum, None) => {
            linear::cuda::multiply_transposed(&gpu, sum.view_mut()?, dlogits.view()?, router, Write::Add)?;
            Ok(sum)
        }
        (mut added, Some(dx)) => {
            let write = Write::Overwrite;
            linear::cuda::multiply_transposed(&gpu, added.view_mut()?, dlogits.view()?, router, write)?;
            dx.add(&added)
        }
    }
}

/// The sum of each token's rows of x [S, C], plus a row of `residual` [T, C] where there is one: [T, C].
pub(super) fn sum_slots(
    x: &GpuTensor,
    chosen: &Chosen,
    tokens: usize,
    residual: Option<&GpuTensor>,
) -> Result<GpuTensor> {
    let (gpu, c) = (x.gpu(), x.shape()[1]);
    if !c.is_multiple_of(8) {
        return Err(error!(Unsupported, "experts on a GPU: a width in eights expected, found {c}"));
    }
    let mut y = GpuTensor::new(gpu, &[tokens, c])?;
    let threads = (c / 8).next_multiple_of(32).min(256);
    let blocks = (c / 8).div_ceil(threads);
    let [n, c, blocks_of_row] = Argument::ints([chosen.spec.chosen, c, blocks])?;
    let arguments = [
        y.view_mut()?.into(),
        x.view()?.into(),
        (&chosen.slots).into(),
        Argument::optional(residual.map(GpuTensor::view).transpose()?),
        n,
        c,
        blocks_of_row,
    ];
    // SAFETY: `sum_slots(y [T, C], x [S, C], slots [T, n], residual [T, C] or null, n, C, blocks of a row)` with the blocks
    // of T rows; the slots are below S, and C is a multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "sum_slots", Grid::new(tokens * blocks, threads), &arguments)?
    };
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::{TILE_ROWS, most_tiles};

    #[test]
    fn there_is_room_for_the_tiles_of_every_choice() {
        let tiles = |counts: &[usize]| counts.iter().map(|count| count.div_ceil(TILE_ROWS)).sum::<usize>();
        for counts in [&[0, 0, 0][..], &[1, 0, 0], &[1, 1, 1], &[129, 1, 257], &[128, 128, 0], &[1000, 1, 0]]
        {
            let slots = counts.iter().sum();
            assert!(tiles(counts) <= most_tiles(slots, counts.len()), "{counts:?}");
        }
        assert_eq!(most_tiles(131, 3), tiles(&[129, 1, 1]), "none too many");
    }
}
