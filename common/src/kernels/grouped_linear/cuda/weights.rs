//! The weights of all experts of a layer on a GPU, one after the other in the same buffers: 16-bit numbers, or 4 bits as
//! they are stored.

use std::ops::Range;

use cudarc::driver::{CudaSlice, CudaStream};

use super::super::{Routing, Rows, Weight};
use crate::checkpoint::{self, Bytes};
use crate::device::cuda::{Argument, FrozenBuffer, Gpu, GpuMemory, Grid, KernelSource, View, ViewMut};
use crate::kernels::linear::cuda::{DEQUANTIZED_BY_BLOCK, PART, float16_bytes, part, shift};
use crate::nf4::{Absmax, Quantized};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new(
    "quantized-experts",
    concat!(
        include_str!("../../routing/slots.cuh"),
        include_str!("../../linear/quantized.cuh"),
        include_str!("../quantized.cu")
    ),
);

/// Warps of a block that multiplies weights as they are, and the rows of a weight that each takes.
const WARPS_OF_BLOCK: usize = 4;
const ROWS_OF_WARP: usize = 2;

/// The frozen weights [E·N, K].
pub(super) struct Weights {
    experts: usize,
    outputs: usize,
    inputs: usize,
    values: Values,
}

enum Values {
    Dense(FrozenBuffer<u16>),
    Quantized(Box<QuantizedWeights>),
}

/// The parts of quantized weights, each of all weights of all experts.
struct QuantizedWeights {
    packed: FrozenBuffer<u8>,
    absmax: FrozenBuffer<f32>,
    /// The codes of the absmax, where they are quantized too.
    codes: FrozenBuffer<u8>,
    /// What codes stand for: tables that differ, one after the other.
    tables: FrozenBuffer<f32>,
    /// Where the parts of each weight lie, [`PART`] words for each.
    parts: CudaSlice<u64>,
    parts_of_expert: usize,
    /// Rows of the largest weight.
    most_rows: usize,
}

impl Weights {
    pub(super) fn load(memory: GpuMemory, name: &str, weights: &[Vec<Weight>]) -> Result<Self> {
        let first: &[Weight] = weights.first().map_or(&[], Vec::as_slice);
        let inputs = first.first().map_or(0, |weight| weight.shape()[1]);
        let outputs = first.iter().map(|weight| weight.shape()[0]).sum::<usize>();
        let (experts, all) = (weights.len(), || weights.iter().flatten());
        if !inputs.is_multiple_of(8) || all().any(|weight| !weight.shape()[0].is_multiple_of(8)) {
            return Err(error!(
                Unsupported,
                "{name}: experts of widths in eights expected on a GPU, found {inputs} and {outputs}"
            )
            .hint("use --device cpu"));
        }
        let dense: Vec<_> = all().filter_map(Weight::dense).collect();
        let quantized: Vec<_> = all().filter_map(Weight::as_quantized).collect();
        let values = match (&dense[..], &quantized[..]) {
            (dense, []) => Values::Dense(load_dense(memory, dense)?),
            ([], quantized) => {
                Values::Quantized(Box::new(QuantizedWeights::load(memory, quantized, first.len())?))
            }
            (dense, quantized) => {
                let (dense, quantized) = (dense.len(), quantized.len());
                return Err(error!(
                    Unsupported,
                    "{name}: {dense} weights are dense and {quantized} quantized; all experts alike expected on a GPU"
                )
                .hint("use --device cpu, or quantize the model with `quantize`"));
            }
        };
        Ok(Self { experts, outputs, inputs, values })
    }

    /// E·N and K.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.experts * self.outputs, self.inputs]
    }

    /// Numbers of all weights.
    pub(super) fn len(&self) -> usize {
        self.shape().iter().product()
    }

    pub(super) fn is_quantized(&self) -> bool {
        matches!(self.values, Values::Quantized(_))
    }

    /// The 16-bit numbers in a row, where the weights are dense.
    pub(super) fn dense(&self) -> Result<Option<View<'_, u16>>> {
        match &self.values {
            Values::Dense(values) => values.view().map(Some),
            Values::Quantized(_) => Ok(None),
        }
    }

    fn quantized(&self) -> Result<&QuantizedWeights> {
        match &self.values {
            Values::Dense(_) => Err(error!(Bug, "quantized weights of experts expected, found dense ones")),
            Values::Quantized(weights) => Ok(weights),
        }
    }

    /// Writes all weights in 16 bits to `out`, a row of E·N·K numbers.
    pub(super) fn dequantize(&self, gpu: &Gpu, stream: &CudaStream, out: ViewMut<'_, u16>) -> Result<()> {
        let weights = self.quantized()?;
        weights.packed.expect_present()?;
        let largest = weights.most_rows * self.inputs;
        let grid = Grid {
            blocks: (largest.div_ceil(DEQUANTIZED_BY_BLOCK), self.experts * weights.parts_of_expert, 1),
            threads: 256,
            shared: 0,
        };
        let out = out.columns(0..self.len())?;
        let arguments = [out.into(), (&weights.parts).into(), Argument::int(self.inputs)?];
        // SAFETY: `dequantize_experts(weights [E·N, K], parts, K)` with the blocks of the largest part for each of the parts,
        // whose addresses are those of these weights, as `QuantizedWeights::load` lays them out, and whose rows are those of
        // `out`. `stream` is ordered with the one that computes by `Gpu::with_dequantized`, or is that one.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch_on(stream, &SOURCE, "dequantize_experts", grid, &arguments)
        }
    }

    /// Whether [`Weights::multiply_rows`] can multiply these weights.
    pub(super) fn has_few_rows(&self) -> bool {
        self.is_quantized() && self.inputs.is_multiple_of(32)
    }

    /// Writes x·W[e]ᵀ to y [S, N] for a few slots, or adds it to what y holds; the weights as they are.
    pub(super) fn multiply_rows(
        &self,
        gpu: &Gpu,
        y: ViewMut<'_, u16>,
        (x, rows): (View<'_, u16>, Rows),
        routing: &Routing,
        adds: bool,
    ) -> Result<()> {
        let weights = self.quantized()?;
        weights.packed.expect_present()?;
        let slots = routing.slots();
        y.expect("rows of experts", [slots, self.outputs])?;
        x.expect("rows of experts: x", [routing.rows(rows), self.inputs])?;
        if !self.has_few_rows() || routing.spec().experts != self.experts {
            return Err(error!(Bug, "rows of {} experts of {:?}", routing.spec().experts, self.shape()));
        }
        let chosen = routing.on_gpu()?;
        let blocks = weights.most_rows.div_ceil(WARPS_OF_BLOCK * ROWS_OF_WARP);
        let grid = Grid {
            blocks: (blocks, weights.parts_of_expert, slots),
            threads: 32 * WARPS_OF_BLOCK,
            shared: 0,
        };
        let [experts, n, k] = Argument::ints([self.experts, self.outputs, self.inputs])?;
        let arguments = [
            y.into(),
            x.into(),
            (&weights.parts).into(),
            chosen.tokens(rows),
            chosen.starts(),
            experts,
            n,
            k,
            i32::from(adds).into(),
        ];
        // SAFETY: `expert_rows(y [S, N], x [T or S, K], parts, tokens [S] or null, starts [E + 1], E, N, K, adds)` with the
        // blocks of the largest part for each part of an expert and each slot. Parts are as for `dequantize_experts`, tokens
        // are below T, K is a multiple of 32, and a warp has read what it adds to before it writes.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(&SOURCE, "expert_rows", grid, &arguments)
        }
    }
}

fn load_dense(memory: GpuMemory, weights: &[&checkpoint::Tensor]) -> Result<FrozenBuffer<u16>> {
    let len = weights.iter().map(|weight| weight.element_count()).sum();
    memory.concatenate(len, weights.iter().map(|weight| float16_bytes(weight, memory.gpu().float16())))
}

impl QuantizedWeights {
    fn load(memory: GpuMemory, weights: &[&Quantized], parts_of_expert: usize) -> Result<Self> {
        let layout = Layout::new(weights);
        let packed_len = weights.iter().map(|weight| weight.packed().len()).sum();
        let codes = weights.iter().filter_map(|weight| codes(weight)).cloned().map(Ok);
        let mut loaded = Self {
            packed: memory
                .concatenate(packed_len, weights.iter().map(|weight| Ok(weight.packed().clone())))?,
            absmax: memory.store(&layout.absmax)?,
            codes: memory.concatenate(layout.codes_len, codes)?,
            tables: memory.store(&layout.tables.values)?,
            parts: memory.gpu().allocate(0)?,
            parts_of_expert,
            most_rows: weights.iter().map(|weight| weight.shape()[0]).max().unwrap_or(0),
        };
        let parts = weights.iter().zip(&layout.places).map(|(weight, place)| loaded.part(weight, place));
        loaded.parts = memory.gpu().upload(&parts.collect::<Result<Vec<_>>>()?.concat())?;
        Ok(loaded)
    }

    /// The weight as `quantized.cuh` has it in a `Part`: addresses that hold for as long as these buffers do.
    fn part(&self, weight: &Quantized, place: &Place) -> Result<[u64; PART]> {
        let codes = place.codes.clone().map(|range| self.codes.address_of(range)).transpose()?;
        let map = place.map.clone().map(|range| self.tables.address_of(range)).transpose()?;
        let (offset, nested_block) = match weight.absmax() {
            Absmax::Plain(_) => (0.0, 1),
            Absmax::Nested { offset, block_size, .. } => (*offset, *block_size),
        };
        let scales = [
            self.tables.address_of(place.values.clone())?,
            self.absmax.address_of(place.absmax.clone())?,
            codes.unwrap_or(Argument::null()),
            map.unwrap_or(Argument::null()),
            offset.into(),
            shift(weight.block_size())?.into(),
            shift(nested_block)?.into(),
        ];
        let packed = self.packed.address_of(place.packed.clone())?;
        part(packed, scales, weight.shape()[0], place.first_row)
    }
}

/// The codes of a weight's absmax, where they are quantized.
fn codes(weight: &Quantized) -> Option<&Bytes> {
    match weight.absmax() {
        Absmax::Plain(_) => None,
        Absmax::Nested { codes, .. } => Some(codes),
    }
}

/// Where the parts of weights lie in the buffers of all.
struct Layout {
    places: Vec<Place>,
    absmax: Vec<f32>,
    codes_len: usize,
    tables: Tables,
}

/// Where the parts of one weight lie.
#[derive(Debug, PartialEq)]
struct Place {
    packed: Range<usize>,
    absmax: Range<usize>,
    codes: Option<Range<usize>>,
    map: Option<Range<usize>>,
    values: Range<usize>,
    first_row: usize,
}

impl Layout {
    fn new(weights: &[&Quantized]) -> Self {
        let mut layout =
            Self { places: Vec::new(), absmax: Vec::new(), codes_len: 0, tables: Tables::default() };
        let (mut packed, mut row) = (0, 0);
        for weight in weights {
            let after = |start: usize, len: usize| start..start + len;
            let (absmax, nested) = match weight.absmax() {
                Absmax::Plain(absmax) => (absmax, None),
                Absmax::Nested { codes, map, absmax, .. } => (absmax, Some((codes.len(), map))),
            };
            let place = Place {
                packed: after(packed, weight.packed().len()),
                absmax: after(layout.absmax.len(), absmax.len()),
                codes: nested.map(|(len, _)| after(layout.codes_len, len)),
                map: nested.map(|(_, map)| layout.tables.place(&map[..])),
                values: layout.tables.place(weight.quant_type().values()),
                first_row: row,
            };
            packed = place.packed.end;
            row += weight.shape()[0];
            layout.absmax.extend_from_slice(absmax);
            layout.codes_len += nested.map_or(0, |(len, _)| len);
            layout.places.push(place);
        }
        layout
    }
}

/// Tables of numbers, each of which is kept once: those of a model's weights are the same.
#[derive(Default)]
struct Tables {
    values: Vec<f32>,
    places: Vec<Range<usize>>,
}

impl Tables {
    fn place(&mut self, table: &[f32]) -> Range<usize> {
        let is_same = |place: &&Range<usize>| self.values[(*place).clone()] == *table;
        if let Some(place) = self.places.iter().find(is_same) {
            return place.clone();
        }
        let place = self.values.len()..self.values.len() + table.len();
        self.values.extend_from_slice(table);
        self.places.push(place.clone());
        place
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::GroupedLinearSpec;
    use super::*;
    use crate::device::cuda::buffer_bytes;
    use crate::kernels::linear::WeightSpec;
    use crate::nf4::Scheme;

    fn quantized(rows: usize, scheme: Scheme, shift: f32) -> Quantized {
        let values: Vec<f32> = (0..rows * 64).map(|i| (i as f32 * 0.37 + shift).sin()).collect();
        Quantized::quantize(&checkpoint::Tensor::from_f32("w", vec![rows, 64], &values), scheme).unwrap()
    }

    #[test]
    fn parts_of_weights_follow_each_other() {
        let scheme = Scheme::default();
        let plain = Scheme { double_quant: false, ..scheme };
        let weights = [quantized(8, scheme, 0.0), quantized(16, scheme, 1.0), quantized(8, plain, 2.0)];
        let layout = Layout::new(&weights.each_ref());
        let [first, second, third] = &layout.places[..] else { panic!("three places") };
        assert_eq!((&first.packed, &second.packed, &third.packed), (&(0..256), &(256..768), &(768..1024)));
        assert_eq!((first.first_row, second.first_row, third.first_row), (0, 8, 24));
        assert_eq!((&first.absmax, &second.absmax, &third.absmax), (&(0..1), &(1..2), &(2..10)));
        assert_eq!((&first.codes, &second.codes, &third.codes), (&Some(0..8), &Some(8..24), &None));
        // One map and one table of values serve all.
        assert_eq!((&first.map, &second.map, &third.map), (&Some(0..256), &Some(0..256), &None));
        assert!([first, second, third].iter().all(|place| place.values == (256..272)));
        assert_eq!((layout.tables.values.len(), layout.codes_len, layout.absmax.len()), (272, 24, 10));
    }

    #[test]
    fn bytes_are_those_of_the_buffers() {
        let scheme = Scheme::default();
        for scheme in [scheme, Scheme { double_quant: false, ..scheme }] {
            let weights: Vec<_> = [0.0, 1.0, 2.0].map(|shift| quantized(264, scheme, shift)).into();
            let layout = Layout::new(&weights.iter().collect::<Vec<_>>());
            let packed = layout.places.last().unwrap().packed.end;
            let spec = WeightSpec::Quantized(crate::nf4::QuantizedSpec::new([264, 64], scheme));
            let spec = GroupedLinearSpec { weights: vec![vec![spec]; 3] };
            let found = buffer_bytes::<u8>(packed)
                + buffer_bytes::<f32>(layout.absmax.len())
                + buffer_bytes::<u8>(layout.codes_len)
                + buffer_bytes::<f32>(layout.tables.values.len())
                + buffer_bytes::<u64>(PART * weights.len());
            assert_eq!(spec.gpu_bytes(), found, "{scheme:?}");
        }
    }
}
