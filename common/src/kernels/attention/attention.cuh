// What the attention kernels share: tiles in shared memory and products of tiles.
//
// Letters: T tokens, H query heads, K key/value heads (K divides H), D = HEAD_SIZE, P past tokens.
// qkv [T, (H + 2K)·D]: a row is H queries, then K keys, then K values. All matrices are row-major.

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

// Bytes of a tile's row in shared memory. The 16 bytes behind the D elements put eight rows'
// elements of one column into different banks, so that no load of matrices has bank conflicts.
constexpr int ROW_BYTES = (HEAD_SIZE + 8) * 2;
// Bytes of 16 columns of a row.
constexpr int STEP_BYTES = 32;
// Multiplications that cover a head, 16 columns each.
constexpr int STEPS = HEAD_SIZE / 16;
// Pieces of C that cover a head, 8 columns each.
constexpr int PIECES = HEAD_SIZE / 8;

constexpr float LOG2_E = 1.44269504088896341f;
#define MINUS_INFINITY __int_as_float(0xff800000)

// Blocks of rows of one sequence are what the host hands out: first and last bound of the sequence,
// and first row of the block, all as rows of qkv. The fourth number is not used.
struct Block {
    int start;   // the sequence's first token
    int length;  // its tokens
    int first;   // the block's first row, counted from the sequence's first token
};

__device__ __forceinline__ Block block_of(int4 task) { return {task.x, task.y - task.x, task.z - task.x}; }

// Rows of one head, `count` in all: the first `past_count`, if any, in the past, row r of them at
// past + r·past_stride, those behind in the sequence itself, row r of them at own + r·stride.
struct Rows {
    const float16* own;
    int stride;
    int count;
    const float16* past = nullptr;
    int past_stride = 0;
    int past_count = 0;

    __device__ __forceinline__ const float16* operator[](int row) const {
        return row < past_count ? past + (long long)row * past_stride : own + (long long)row * stride;
    }
};

// Starts copying rows first .. first + COUNT to a tile [COUNT, D]; rows behind the last are zeros.
template <int COUNT>
__device__ __forceinline__ void copy_rows(unsigned tile, const Rows& rows, int first) {
    constexpr int COPIES = COUNT * PIECES;
#pragma unroll 2
    for (int start = 0; start < COPIES; start += THREADS) {
        const int i = start + threadIdx.x, row = i / PIECES, piece = i % PIECES;
        if (start + THREADS > COPIES && i >= COPIES) break;
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

// c [TILES·16, D] += a [TILES·16, 16] · b [16, D], with b at an address with `down_offset`.
template <int TILES>
__device__ __forceinline__ void multiply(float (&c)[TILES][PIECES][4], const unsigned (&a)[TILES][4], unsigned b_tile) {
#pragma unroll
    for (int d = 0; d < STEPS; ++d) {
        unsigned b[4];
        load_matrices_transposed(b, b_tile + d * STEP_BYTES);
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            multiply(c[i][2 * d], a[i], b[0], b[1]);
            multiply(c[i][2 * d + 1], a[i], b[2], b[3]);
        }
    }
}

// Columns 16·step .. + 16 of c [TILES·16, COUNT] as the left side of a multiplication: a lane holds
// the same elements of both.
template <int TILES, int PIECES_OF_C>
__device__ __forceinline__ void to_left(unsigned (&a)[TILES][4], const float (&c)[TILES][PIECES_OF_C][4], int step) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        const float(&left)[4] = c[i][2 * step];
        const float(&right)[4] = c[i][2 * step + 1];
        a[i][0] = pack_float16(left[0], left[1]);
        a[i][1] = pack_float16(left[2], left[3]);
        a[i][2] = pack_float16(right[0], right[1]);
        a[i][3] = pack_float16(right[2], right[3]);
    }
}

// Running maximum and sum of exponentials of a lane's rows g and g + 8 of TILES tiles of scores
// (Milakov and Gimelshein 2018). The sum is of the lane's own columns until `finish`.
template <int TILES>
struct Softmax {
    float maximum[TILES][2];
    float sum[TILES][2];

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                maximum[i][half] = MINUS_INFINITY;
                sum[i][half] = 0.0f;
            }
    }

    // Turns scores [TILES·16, COUNT] into exponentials relative to the new maximum, and rescales
    // out [TILES·16, D] to it. `scale` is the scores' scale times log2(e).
    template <int COUNT>
    __device__ __forceinline__ void add(float (&scores)[TILES][COUNT][4], float (&out)[TILES][PIECES][4], float scale) {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = maximum[i][half];
#pragma unroll
                for (int n = 0; n < COUNT; ++n)
                    highest = fmaxf(highest, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
                highest = row_maximum(highest);
                // A row that has seen no key yet has only scores of -inf: any finite base gives 0.
                const float base = highest == MINUS_INFINITY ? 0.0f : highest * scale;
                const float correction = power_of_two(maximum[i][half] * scale - base);
                maximum[i][half] = highest;
                float added = 0.0f;
#pragma unroll
                for (int n = 0; n < COUNT; ++n)
#pragma unroll
                    for (int j = 2 * half; j < 2 * half + 2; ++j) {
                        scores[i][n][j] = power_of_two(scores[i][n][j] * scale - base);
                        added += scores[i][n][j];
                    }
                sum[i][half] = sum[i][half] * correction + added;
#pragma unroll
                for (int d = 0; d < PIECES; ++d) {
                    out[i][d][2 * half] *= correction;
                    out[i][d][2 * half + 1] *= correction;
                }
            }
    }

    // Adds up the lanes' sums.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) sum[i][half] = row_sum(sum[i][half]);
    }
};

template <int TILES, int COUNT>
__device__ __forceinline__ void clear(float (&c)[TILES][COUNT][4]) {
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
        for (int n = 0; n < COUNT; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) c[i][n][j] = 0.0f;
}

// Stores scale times row g (half 0) or g + 8 (half 1) of c [16, D] to a row of float16.
__device__ __forceinline__ void store_row(float16* row, const float (&c)[PIECES][4], int half, float scale) {
#pragma unroll
    for (int d = 0; d < PIECES; ++d) {
        unsigned* to = (unsigned*)(row + d * 8 + threadIdx.x % 4 * 2);
        *to = pack_float16(c[d][2 * half] * scale, c[d][2 * half + 1] * scale);
    }
}
