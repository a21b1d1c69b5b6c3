//! Products of slots with what their experts have, on tensor cores.

use super::super::{Routing, Rows};
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, KernelSource, View, ViewMut};
use crate::{Result, error};

/// Products on every GPU.
pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new(
    "grouped-product",
    concat!(
        include_str!("../../instructions.cuh"),
        include_str!("../tiles.cuh"),
        include_str!("../factors.cuh"),
        include_str!("../product.cu")
    ),
);

/// Products of many columns on Hopper.
pub(in crate::kernels) static HOPPER: KernelSource = KernelSource::for_hopper(
    "grouped-product-hopper",
    concat!(
        include_str!("../../instructions.cuh"),
        include_str!("../../hopper_instructions.cuh"),
        include_str!("../tiles.cuh"),
        include_str!("../factors.cuh"),
        include_str!("../hopper.cu")
    ),
);

/// The gradients of adapters.
pub(in crate::kernels) static GRADIENTS: KernelSource = KernelSource::new(
    "adapter-gradients",
    concat!(
        include_str!("../../instructions.cuh"),
        include_str!("../tiles.cuh"),
        include_str!("../adapter_gradients.cu")
    ),
);

/// Threads of a block: of `product.cu` and `adapter_gradients.cu`, and of `hopper.cu`.
const THREADS: usize = 256;
const HOPPER_THREADS: usize = 384;

/// How the right sides of a product lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `x·W[e]ᵀ`, of weights [E·N, K].
    Forward,
    /// `x·W[e]`, of weights [E·K, N].
    Backward,
}

/// A left side, [T, K] or [S, K], and the right sides of all experts.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    pub(super) left: View<'a, u16>,
    pub(super) rows: Rows,
    pub(super) right: View<'a, u16>,
}

impl Factor<'_> {
    /// K, where the factors give `columns` columns for each slot.
    fn depth(&self, direction: Direction, columns: usize, routing: &Routing) -> Result<usize> {
        let (depth, experts) = (self.left.shape()[1], routing.spec().experts);
        self.left.expect("grouped product: rows", [routing.rows(self.rows), depth])?;
        let right = match direction {
            Direction::Forward => [experts * columns, depth],
            Direction::Backward => [experts * depth, columns],
        };
        self.right.expect("grouped product: weights", right)?;
        match depth.is_multiple_of(8) && columns.is_multiple_of(8) {
            true => Ok(depth),
            false => {
                Err(error!(Bug, "grouped product: sizes in eights expected, found {depth} and {columns}"))
            }
        }
    }
}

/// The sum of two products for each slot, either of which may be missing, rounded once.
pub(super) struct Product<'a> {
    pub(super) direction: Direction,
    pub(super) x: Option<Factor<'a>>,
    /// The part of an adapter, whose left side has the rows of slots.
    pub(super) hidden: Option<Factor<'a>>,
}

/// A kernel for products, and what its launch depends on.
struct Kernel {
    source: &'static KernelSource,
    names: [&'static str; 2],
    threads: usize,
    shared: &'static str,
    columns: &'static str,
}

/// Columns that a block takes where there are no more.
const NARROW: Kernel = Kernel {
    source: &SOURCE,
    names: ["grouped_product_narrow", "grouped_product_narrow_transposed"],
    threads: THREADS,
    shared: "grouped_product_narrow_shared_bytes",
    columns: "grouped_product_narrow_columns",
};
const WIDE: Kernel = Kernel {
    source: &SOURCE,
    names: ["grouped_product", "grouped_product_transposed"],
    threads: THREADS,
    shared: "grouped_product_shared_bytes",
    columns: "grouped_product_columns",
};
const WIDE_ON_HOPPER: Kernel = Kernel { source: &HOPPER, threads: HOPPER_THREADS, ..WIDE };

impl Kernel {
    fn of(gpu: &Gpu, columns: usize) -> Result<&'static Self> {
        Ok(match HOPPER.runs_on(gpu.architecture()) {
            _ if columns <= constant(gpu, NARROW.source, NARROW.columns)? => &NARROW,
            true => &WIDE_ON_HOPPER,
            false => &WIDE,
        })
    }

    /// Blocks for so many tiles of rows. On Hopper they stay, and take one tile after the other.
    fn grid(&self, gpu: &Gpu, tiles: usize, columns: usize) -> Result<Grid> {
        let tiles = tiles * columns.div_ceil(constant(gpu, self.source, self.columns)?);
        let blocks = if self.source.name == HOPPER.name { tiles.min(gpu.multiprocessors()) } else { tiles };
        let shared = constant(gpu, self.source, self.shared)?;
        Ok(Grid { blocks: (blocks, 1, 1), threads: self.threads, shared })
    }
}

/// What a source's kernels ask of their launch.
fn constant(gpu: &Gpu, source: &'static KernelSource, name: &'static str) -> Result<usize> {
    Ok(usize::try_from(gpu.constant(source, name)?).unwrap_or(0))
}

impl Product<'_> {
    /// Writes the sum to `out` [S, N].
    pub(super) fn launch(self, gpu: &Gpu, out: ViewMut<'_, u16>, routing: &Routing) -> Result<()> {
        let columns = out.shape()[1];
        out.expect("grouped product", [routing.slots(), columns])?;
        let depth = |factor: Option<Factor<'_>>| {
            factor.map_or(Ok(0), |factor| factor.depth(self.direction, columns, routing))
        };
        let (k, ranks) = (depth(self.x)?, depth(self.hidden)?);
        if self.hidden.is_some_and(|hidden| hidden.rows != Rows::Slots) {
            return Err(error!(Bug, "grouped product: an adapter's part for each slot expected"));
        }
        let chosen = routing.on_gpu()?;
        let kernel = Kernel::of(gpu, columns)?;
        let grid = kernel.grid(gpu, chosen.most_tiles(), columns)?;
        let [tiles, tile_count] = chosen.tiles()?;
        let [k, ranks, columns] = Argument::ints([k, ranks, columns])?;
        let arguments = [
            out.into(),
            Argument::optional(self.x.map(|x| x.left)),
            Argument::optional(self.x.map(|x| x.right)),
            Argument::optional(self.hidden.map(|hidden| hidden.left)),
            Argument::optional(self.hidden.map(|hidden| hidden.right)),
            self.x.map_or(Argument::null(), |x| chosen.tokens(x.rows)),
            tiles,
            tile_count,
            k,
            ranks,
            columns,
        ];
        // SAFETY: each kernel takes `(out [S, N], x [T or S, K], weights [E, N, K] or [E, K, N], hidden [S, R], adapters
        // [E, N, R] or [E, R, N], tokens [S] or null, tiles, their number, K, R, N)` with a block for each tile of rows that
        // there can be and each tile of columns, or fewer that take several. Tiles are slots below S of experts below E, and
        // tokens are below T, as `routing.cu` makes them. K, R and N are multiples of eight.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(
                kernel.source,
                kernel.names[usize::from(self.direction == Direction::Backward)],
                grid,
                &arguments,
            )
        }
    }
}

/// The gradients of one side of the adapters of all experts: of each, `rank · columns` numbers.
pub(super) struct Gradient {
    pub(super) columns: usize,
    pub(super) rank: usize,
    /// From a number to that of the next rank, and to that of the next column.
    pub(super) rank_stride: usize,
    pub(super) column_stride: usize,
    pub(super) scale: f32,
}

impl Gradient {
    /// Adds scale·hiddenᵀ·y of each expert's slots, for hidden [S, R] and y [T or S, columns].
    pub(super) fn add(
        self,
        gradients: ViewMut<'_, f32>,
        hidden: &GpuTensor,
        (y, rows): (&GpuTensor, Rows),
        routing: &Routing,
    ) -> Result<()> {
        let Self { columns, rank, rank_stride, column_stride, scale } = self;
        let (gpu, chosen, experts) = (y.gpu(), routing.on_gpu()?, routing.spec().experts);
        let (y, hidden) = (y.view()?, hidden.view()?);
        let ranks = hidden.shape()[1];
        gradients.expect("adapter gradients", [1, experts * rank * columns])?;
        y.expect("adapter gradients: rows", [routing.rows(rows), columns])?;
        hidden.expect("adapter gradients: ranks", [routing.slots(), ranks])?;
        let are_inside = (rank - 1) * rank_stride + (columns - 1) * column_stride < rank * columns;
        if !are_inside || rank > ranks || !ranks.is_multiple_of(8) || !columns.is_multiple_of(8) {
            return Err(error!(Bug, "adapter gradients of {rank} ranks of {ranks} and {columns} columns"));
        }
        let constant = |name| constant(gpu, &GRADIENTS, name);
        let column_tiles = columns.div_ceil(constant("adapter_gradients_columns")?);
        let blocks = (experts * column_tiles, rank.div_ceil(constant("adapter_gradients_ranks")?), 1);
        let grid = Grid { blocks, threads: THREADS, shared: constant("adapter_gradients_shared_bytes")? };
        let [ranks, rank, columns] = Argument::ints([ranks, rank, columns])?;
        let [rank_stride, column_stride] = Argument::ints([rank_stride, column_stride])?;
        let arguments = [
            gradients.into(),
            hidden.into(),
            y.into(),
            chosen.tokens(rows),
            chosen.starts(),
            ranks,
            rank,
            columns,
            rank_stride,
            column_stride,
            scale.into(),
        ];
        // SAFETY: `adapter_gradients(gradients, hidden [S, ranks], y [T or S, N], tokens [S] or null, starts [E + 1], ranks,
        // rank, N, rank stride, column stride, scale)` with the blocks of the columns of each expert and of the ranks.
        // Slots of experts are below S and tokens below T; the strides stay inside the rank · N numbers of an expert.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(&GRADIENTS, "adapter_gradients", grid, &arguments)
        }
    }
}
