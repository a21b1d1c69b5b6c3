// gradient[e] += scale · the sum over slots s of expert e of hidden[s]ᵀ · y[row of s], for hidden [S, R] and y
// [rows, N]: the gradients of adapters, dA [R, N] and dB [N, R]. A block sums all slots of an expert for some columns
// of y, so that the order of the sums is always the same.

constexpr int THREADS = 256, STAGES = 3;
// Slots that are copied at a time, and what a block sums of them: a panel of ranks and some of columns.
constexpr int SLOTS = 64, RANKS = PANEL_COLUMNS, COLUMNS = 128;
static_assert(THREADS / 32 * 16 == COLUMNS, "a warp takes 16 columns");
constexpr int PANEL_BYTES = SLOTS * PANEL_ROW_BYTES;
constexpr int STAGE_BYTES = PANEL_BYTES * (1 + COLUMNS / PANEL_COLUMNS);

extern "C" __constant__ int adapter_gradients_ranks = RANKS;
extern "C" __constant__ int adapter_gradients_columns = COLUMNS;
extern "C" __constant__ int adapter_gradients_shared_bytes = STAGES * STAGE_BYTES;

// Grid (column tiles of each expert, tiles of ranks).
extern "C" __global__ void __launch_bounds__(THREADS) adapter_gradients(
    float* gradients,        // of each expert RANK · N numbers
    const float16* hidden,   // [S, ranks]
    const float16* y,        // [rows, N]
    const unsigned* tokens,  // [S], or null where the rows of y are slots
    const unsigned* starts,  // the first slot of each expert, [E + 1]
    int ranks,               // a multiple of 8
    int rank,                // those that have gradients
    int columns,             // N, a multiple of 8
    int rank_stride,         // from a gradient to that of the next rank
    int column_stride,       // and of the next column
    float scale) {
    const int column_tiles = (columns + COLUMNS - 1) / COLUMNS, expert = blockIdx.x / column_tiles;
    const int first_column = blockIdx.x % column_tiles * COLUMNS, first_rank = blockIdx.y * RANKS;
    const int first = starts[expert], count = (int)starts[expert + 1] - first;
    const int panels = (count + SLOTS - 1) / SLOTS;
    if (panels == 0) return;

    const unsigned stages = shared_address();
    using Slots = Copier<SLOTS, THREADS>;
    const Slots copier(threadIdx.x);
    int rows[Slots::COUNT];  // of the next panel
    const auto find_rows = [&](int panel) {
        copier.find_rows(rows, tokens, first + panel * SLOTS, count - panel * SLOTS);
    };
    const auto copy = [&](int panel) {
        if (panel < panels) {
            const unsigned left = stages + panel % STAGES * STAGE_BYTES, right = left + PANEL_BYTES;
            const int slot = panel * SLOTS;
            copier.copy(left, hidden + (int64)(first + slot) * ranks + first_rank, ranks, count - slot, ranks - first_rank);
#pragma unroll
            for (int column = 0; column < COLUMNS; column += PANEL_COLUMNS)
                copier.copy(right + column / PANEL_COLUMNS * PANEL_BYTES, y + first_column + column, columns, rows,
                            columns - first_column - column);
            find_rows(panel + 1);
        }
        close_copies();
    };
    find_rows(0);
#pragma unroll
    for (int panel = 0; panel < STAGES - 1; ++panel) copy(panel);

    const int lane = threadIdx.x % 32, column = warp_number() * 16;
    float c[RANKS / 16][2][4] = {};
    for (int panel = 0; panel < panels; ++panel) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        copy(panel + STAGES - 1);
        const unsigned left = stages + panel % STAGES * STAGE_BYTES;
        const unsigned right = left + PANEL_BYTES * (1 + column / PANEL_COLUMNS);
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot += 16) {
            unsigned b[4];
            load_matrices_transposed(
                b, right + place_of(slot + lane % 16, column % PANEL_COLUMNS / PIECE_COLUMNS + lane / 16));
#pragma unroll
            for (int i = 0; i < RANKS / 16; ++i) {
                if (first_rank + i * 16 >= ranks) break;
                unsigned a[4];
                load_matrices_transposed(a, left + place_of(slot + lane / 16 * 8 + lane % 8, i * 2 + lane / 8 % 2));
                multiply(c[i][0], a, b[0], b[1]);
                multiply(c[i][1], a, b[2], b[3]);
            }
        }
    }
    wait_for_copies();

    gradients += (int64)expert * rank * columns;
#pragma unroll
    for (int i = 0; i < RANKS / 16; ++i)
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int r = first_rank + i * 16 + j / 2 * 8 + lane / 4;
                const int at = first_column + column + n * 8 + lane % 4 * 2 + j % 2;
                if (r < rank && at < columns)
                    gradients[(int64)r * rank_stride + (int64)at * column_stride] += scale * c[i][n][j];
            }
}
