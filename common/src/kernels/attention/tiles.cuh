// Tiles in shared memory, and products of tiles by warps.

constexpr int WARPS = THREADS / 32;

// Rows of a warp of attention_forward and of attention_backward_queries, in tiles of 16: as many as its registers
// hold the results of.
constexpr int ROW_TILES = QUERY_ROWS / (WARPS * 16);
constexpr int WARP_ROWS = ROW_TILES * 16;

// Bytes of a tile's row in shared memory. The 16 bytes after the D elements put eight rows' elements of one column
// into different banks, so that no load of matrices has bank conflicts.
constexpr int ROW_BYTES = (HEAD_SIZE + 8) * 2;
// Bytes of 16 columns of a row.
constexpr int STEP_BYTES = 32;

// Starts copying rows first .. first + COUNT to a tile [COUNT, D]; rows after the last are zeros. Fewer copies in a
// turn of the loop take fewer registers. `COPIERS` are the block's threads.
template <int COUNT, int COPIES_A_TURN = COUNT, int COPIERS = THREADS>
__device__ __forceinline__ void copy_rows(unsigned tile, const Rows& rows, int first) {
    constexpr int COPIES = COUNT * PIECES, AT_ONCE = COPIERS / PIECES;
    const bool is_past = first + COUNT <= rows.past_count;
    if (COPIES % COPIERS == 0 && COPIERS % PIECES == 0 && (is_past || first >= rows.past_count)) {
        // A thread copies one column of pieces.
        const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const int stride = is_past ? rows.past_stride : rows.stride, present = rows.count - first - row;
        const float16* from = (is_past ? rows.past : rows.own) + (long long)(first + row) * stride + piece * 8;
        const unsigned to = tile + row * ROW_BYTES + piece * 16;
#pragma unroll COPIES_A_TURN
        for (int i = 0; i < COUNT; i += AT_ONCE, from += AT_ONCE * stride) copy_16_bytes(to + i * ROW_BYTES, from, i < present);
        return;
    }
#pragma unroll 2
    for (int start = 0; start < COPIES; start += COPIERS) {
        const int i = start + threadIdx.x, row = i / PIECES, piece = i % PIECES;
        if (start + COPIERS > COPIES && i >= COPIES) break;
        const bool present = first + row < rows.count;
        copy_16_bytes(tile + row * ROW_BYTES + piece * 16, rows[present ? first + row : 0] + piece * 8, present);
    }
}

// Byte offsets of this lane's row in a load of four matrices from a tile's corner [16, 16]:
// the matrices in the order upper left, lower left, upper right, lower right,
__device__ __forceinline__ unsigned down_offset() {
    const int lane = threadIdx.x % 32;
    return lane % 16 * ROW_BYTES + lane / 16 * 16;
}

// or in the order upper left, upper right, lower left, lower right.
__device__ __forceinline__ unsigned across_offset() {
    const int lane = threadIdx.x % 32;
    return (lane / 16 * 8 + lane % 8) * ROW_BYTES + lane / 8 % 2 * 16;
}

// a [TILES][16, 16] from rows of a tile, at an address with `down_offset`.
template <int TILES>
__device__ __forceinline__ void load_left(unsigned (&a)[TILES][4], unsigned tile) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) load_matrices(a[i], tile + i * 16 * ROW_BYTES);
}

// c [TILES·16, COUNT] += a [TILES·16, 16] · b [COUNT, 16]ᵀ, with b at an address with `across_offset`.
template <int TILES, int COUNT>
__device__ __forceinline__ void multiply_transposed(float (&c)[TILES][COUNT / 8][4], const unsigned (&a)[TILES][4],
                                                    unsigned b_tile) {
#pragma unroll
    for (int n = 0; n < COUNT / 16; ++n) {
        unsigned b[4];
        load_matrices(b, b_tile + n * 16 * ROW_BYTES);
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            multiply(c[i][2 * n], a[i], b[0], b[1]);
            multiply(c[i][2 * n + 1], a[i], b[2], b[3]);
        }
    }
}

// c [TILES·16, COUNT·8] += a [TILES·16, 16] · b [16, COUNT·8], with b at an address with `down_offset`.
template <int TILES, int COUNT>
__device__ __forceinline__ void multiply(float (&c)[TILES][COUNT][4], const unsigned (&a)[TILES][4], unsigned b_tile) {
#pragma unroll
    for (int d = 0; d < COUNT / 2; ++d) {
        unsigned b[4];
        load_matrices_transposed(b, b_tile + d * STEP_BYTES);
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            multiply(c[i][2 * d], a[i], b[0], b[1]);
            multiply(c[i][2 * d + 1], a[i], b[2], b[3]);
        }
    }
}

// Columns 16·step .. + 16 of c [TILES·16, COUNT].
template <int TILES, int PIECES_OF_C>
__device__ __forceinline__ void to_left(unsigned (&a)[TILES][4], const float (&c)[TILES][PIECES_OF_C][4], int step) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) to_left(a[i], c[i][2 * step], c[i][2 * step + 1]);
}
