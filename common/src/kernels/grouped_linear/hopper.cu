// The same as product.cu for Hopper's tensor cores (wgmma): a block stays on its processor and goes through tiles of
// 128 rows and 256 columns. One of its three warpgroups copies panels ahead, also while the other two, which multiply
// 64 rows each, store the tile before.

constexpr int COLUMNS = 256, STAGES = 4;
constexpr int MULTIPLIERS = 2, GROUP_THREADS = 128, THREADS = (MULTIPLIERS + 1) * GROUP_THREADS;
constexpr int GROUP_ROWS = TILE_ROWS / MULTIPLIERS;
constexpr int COPIER_REGISTERS = 72, MULTIPLIER_REGISTERS = 216;
static_assert(COPIER_REGISTERS + MULTIPLIERS * MULTIPLIER_REGISTERS <= 3 * 168, "of a processor's 64 Ki registers");

template <bool TRANSPOSED>
using Copies = FactorCopier<COLUMNS, GROUP_THREADS, TRANSPOSED>;
constexpr int LEFT_BYTES = Copies<false>::LEFT_BYTES;
constexpr int STAGE_BYTES = LEFT_BYTES + Copies<false>::RIGHT_BYTES;
constexpr int SHARED_BYTES = STAGES * (STAGE_BYTES + 16);

extern "C" __constant__ int grouped_product_columns = COLUMNS;
extern "C" __constant__ int grouped_product_shared_bytes = SHARED_BYTES;

// Panels, numbered from 0, that pass through STAGES places in shared memory.
struct Ring {
    unsigned stages;    // [STAGES]
    unsigned barriers;  // [STAGES] of full, empty

    __device__ __forceinline__ unsigned stage(int number) const { return stages + number % STAGES * STAGE_BYTES; }
    __device__ __forceinline__ unsigned full(int number) const { return barriers + number % STAGES * 16; }
    __device__ __forceinline__ unsigned empty(int number) const { return full(number) + 8; }

    __device__ __forceinline__ void begin() const {
        if (threadIdx.x < STAGES) {
            make_barrier(full(threadIdx.x), GROUP_THREADS);
            make_barrier(empty(threadIdx.x), MULTIPLIERS * GROUP_THREADS / 32);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void wait_until_empty(int number) const {
        if (number >= STAGES) wait_for_barrier(empty(number), number / STAGES - 1 & 1);
    }

    __device__ __forceinline__ void wait_until_full(int number) const {
        wait_for_barrier(full(number), number / STAGES & 1);
        publish_to_tensor_cores();
    }

    __device__ __forceinline__ void release(int number) const {
        if (threadIdx.x % 32 == 0) arrive(empty(number));
    }
};

// Starts c [64, COLUMNS] += the first `steps` · 16 columns of a panel of rows · those of the weights, as a group.
template <bool TRANSPOSED>
__device__ __forceinline__ void start_panel(float (&c)[COLUMNS / 8][4], unsigned left, unsigned right, int steps, bool add) {
    constexpr int STEP_BYTES = STEP_COLUMNS * 2, STEP_ROWS_BYTES = STEP_COLUMNS * PANEL_ROW_BYTES;
    const auto start_step = [&](int step) {
        const unsigned b = right + step * (TRANSPOSED ? STEP_ROWS_BYTES : STEP_BYTES);
        start_wide_product<TRANSPOSED>(c, matrix<GROUP_ROWS>(left + step * STEP_BYTES),
                                       matrix<TRANSPOSED ? PANEL_COLUMNS : COLUMNS>(b), add || step > 0);
    };
    if (steps == STEPS) {
        fence_products();
#pragma unroll
        for (int step = 0; step < STEPS; ++step) start_step(step);
        close_group();
    } else {
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            fence_products();
            start_step(step);
        }
        close_group();
    }
}

// Goes through the tiles of this block: gives `work` each tile of rows with its first column.
template <typename Work>
__device__ __forceinline__ void for_tiles(const Factors& factors, const int4* tiles, int tile_count, const Work& work) {
    const int column_tiles = (factors.columns + COLUMNS - 1) / COLUMNS;
    for (int number = blockIdx.x; number < tile_count * column_tiles; number += gridDim.x)
        work(row_tile_of(tiles, number / column_tiles), number % column_tiles * COLUMNS);
}

template <bool TRANSPOSED>
__device__ __forceinline__ void run(float16* out, const Factors& factors, const int4* tiles, const int* tile_count) {
    const Ring ring = {shared_address(), shared_address() + STAGES * STAGE_BYTES};
    ring.begin();
    const int panels = factors.panels(), count = *tile_count, group = warp_number() / (GROUP_THREADS / 32);
    int number = 0;  // of the next panel
    if (group == MULTIPLIERS) {
        give_registers<COPIER_REGISTERS>();
        Copies<TRANSPOSED> copies(factors, threadIdx.x % GROUP_THREADS);
        for_tiles(factors, tiles, count, [&](RowTile tile, int first_column) {
            copies.begin(tile, first_column);
            for (int panel = 0; panel < panels; ++panel, ++number) {
                ring.wait_until_empty(number);
                copies.copy(ring.stage(number), panel);
                arrive_after_copies(ring.full(number));
            }
        });
        wait_for_copies();
    } else {
        take_registers<MULTIPLIER_REGISTERS>();
        const int group_row = group * GROUP_ROWS, lane = threadIdx.x % 32;
        const int warp_row = group_row + warp_number() % 4 * 16;
        for_tiles(factors, tiles, count, [&](RowTile tile, int first_column) {
            if (group_row >= tile.count) {
                for (int panel = 0; panel < panels; ++panel, ++number) {
                    wait_for_barrier(ring.full(number), number / STAGES & 1);
                    ring.release(number);
                }
                return;
            }
            float c[COLUMNS / 8][4];
            for (int panel = 0; panel < panels; ++panel, ++number) {
                ring.wait_until_full(number);
                const unsigned left = ring.stage(number) + group_row * PANEL_ROW_BYTES;
                start_panel<TRANSPOSED>(c, left, ring.stage(number) + LEFT_BYTES, factors.steps(panel), panel > 0);
                wait_for_groups<1>();
                if (panel > 0) ring.release(number - 1);
            }
            wait_for_group<0>(c);
            ring.release(number - 1);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + half * 8 + lane / 4;
                float16* to = out + (int64)(tile.first + row) * factors.columns + first_column;
#pragma unroll
                for (int n = 0; n < COLUMNS / 8; n += 4) {
                    const float(&pieces)[4][4] = reinterpret_cast<const float(&)[4][4]>(c[n]);
                    store_pieces(to + n * 8, pieces, half, row < tile.count, factors.columns - first_column - n * 8);
                }
            }
        });
    }
}

// Grid: as many blocks as there are processors.
#define PRODUCT(name, transposed)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) name(                                                     \
        float16* out, const float16* x, const float16* weights, const float16* hidden, const float16* adapters,       \
        const unsigned* tokens, const int4* tiles, const int* tile_count, int x_columns, int ranks, int columns) {     \
        const Factors factors = {x, weights, hidden, adapters, tokens, x_columns, ranks, columns};                     \
        run<transposed>(out, factors, tiles, tile_count);                                                              \
    }

PRODUCT(grouped_product, false)
PRODUCT(grouped_product_transposed, true)
