// out[s] = x[row of s]·W[e]ᵀ + hidden[s]·adapter[e]ᵀ for the slots s of each expert e, or without the transposes, on
// the tensor cores of every GPU (mma.sync). A block multiplies a tile of rows with a tile of columns, in a pipeline of
// panels; sums are in f32 and rounded once.

constexpr int THREADS = 256, WARPS = THREADS / 32, STAGES = 3;

// The tiles that a block of WARPS warps makes: ROW_WARPS times TILE_ROWS / ROW_WARPS rows.
template <int COLUMNS, int ROW_WARPS, bool TRANSPOSED>
struct Product {
    using Copies = FactorCopier<COLUMNS, THREADS, TRANSPOSED>;
    static constexpr int COLUMN_WARPS = WARPS / ROW_WARPS;
    static constexpr int ROWS = TILE_ROWS / ROW_WARPS / 16, PAIRS = COLUMNS / COLUMN_WARPS / 16;
    static constexpr int STAGE_BYTES = Copies::LEFT_BYTES + Copies::RIGHT_BYTES;

    static __device__ __forceinline__ void run(float16* out, const Factors& factors, const int4* tiles, const int* tile_count) {
        const int column_tiles = (factors.columns + COLUMNS - 1) / COLUMNS, number = blockIdx.x / column_tiles;
        if (number >= *tile_count) return;
        const RowTile tile = row_tile_of(tiles, number);
        const int first_column = blockIdx.x % column_tiles * COLUMNS;
        const int panels = factors.panels();
        const unsigned stages = shared_address();
        Copies copies(factors, threadIdx.x);
        copies.begin(tile, first_column);
#pragma unroll
        for (int panel = 0; panel < STAGES - 1; ++panel) {
            if (panel < panels) copies.copy(stages + panel * STAGE_BYTES, panel);
            close_copies();
        }

        const int lane = threadIdx.x % 32, warp_row = warp_number() / COLUMN_WARPS * ROWS * 16;
        const int warp_column = warp_number() % COLUMN_WARPS * PAIRS * 16;
        float c[ROWS][2 * PAIRS][4] = {};
        for (int panel = 0; panel < panels; ++panel) {
            wait_for_copies<STAGES - 2>();
            __syncthreads();
            const int next = panel + STAGES - 1;
            if (next < panels) copies.copy(stages + next % STAGES * STAGE_BYTES, next);
            close_copies();
            const unsigned left = stages + panel % STAGES * STAGE_BYTES, right = left + Copies::LEFT_BYTES;
            const int steps = factors.steps(panel);
            for (int step = 0; step < steps; ++step) {
                unsigned a[ROWS][4];
#pragma unroll
                for (int i = 0; i < ROWS; ++i)
                    load_matrices(a[i], left + place_of(warp_row + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int column = warp_column + pair * 16;
                    if (first_column + column >= factors.columns) break;
                    unsigned b[4];
                    if (TRANSPOSED)
                        load_matrices_transposed(
                            b, right + column / PANEL_COLUMNS * PANEL_COLUMNS * PANEL_ROW_BYTES +
                                   place_of(step * 16 + lane % 16, column % PANEL_COLUMNS / PIECE_COLUMNS + lane / 16));
                    else
                        load_matrices(b, right + place_of(column + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
                    for (int i = 0; i < ROWS; ++i) {
                        multiply(c[i][2 * pair], a[i], b[0], b[1]);
                        multiply(c[i][2 * pair + 1], a[i], b[2], b[3]);
                    }
                }
            }
        }
        wait_for_copies();

#pragma unroll
        for (int i = 0; i < ROWS; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4;
                float16* to = out + (int64)(tile.first + row) * factors.columns;
#pragma unroll
                for (int n = 0; n < 2 * PAIRS; n += 4) {
                    const int column = first_column + warp_column + n * 8;
                    const float(&pieces)[4][4] = reinterpret_cast<const float(&)[4][4]>(c[i][n]);
                    store_pieces(to + column, pieces, half, row < tile.count, factors.columns - column);
                }
            }
    }
};

constexpr int WIDE = 128, NARROW = 64;
template <bool TRANSPOSED>
using WideProduct = Product<WIDE, 2, TRANSPOSED>;
template <bool TRANSPOSED>
using NarrowProduct = Product<NARROW, WARPS, TRANSPOSED>;

extern "C" __constant__ int grouped_product_columns = WIDE;
extern "C" __constant__ int grouped_product_narrow_columns = NARROW;
extern "C" __constant__ int grouped_product_shared_bytes = STAGES * WideProduct<false>::STAGE_BYTES;
extern "C" __constant__ int grouped_product_narrow_shared_bytes = STAGES * NarrowProduct<false>::STAGE_BYTES;

// Grid: the column tiles of each tile of rows, those of one tile of rows next to each other.
#define PRODUCT(name, Kind, transposed)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) name(                                                        \
        float16* out, const float16* x, const float16* weights, const float16* hidden, const float16* adapters,       \
        const unsigned* tokens, const int4* tiles, const int* tile_count, int x_columns, int ranks, int columns) {     \
        const Factors factors = {x, weights, hidden, adapters, tokens, x_columns, ranks, columns};                     \
        Kind<transposed>::run(out, factors, tiles, tile_count);                                                        \
    }

PRODUCT(grouped_product, WideProduct, false)
PRODUCT(grouped_product_transposed, WideProduct, true)
PRODUCT(grouped_product_narrow, NarrowProduct, false)
PRODUCT(grouped_product_narrow_transposed, NarrowProduct, true)
