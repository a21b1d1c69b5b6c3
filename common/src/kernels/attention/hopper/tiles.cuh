// Tiles in shared memory as Hopper's tensor cores read them, and products of tiles.
//
// A tile [rows, D] is D / 64 panels [rows, 64], each of which begins at a multiple of 1024 bytes. In a row of a
// panel, 128 bytes, the 16 bytes of columns 8c .. 8c + 8 are at place c ^ (row % 8), so that eight rows of one
// column lie in different banks: the "128-byte swizzle" (PTX ISA, "Asynchronous warpgroup level matrix
// instructions", strides and matrix descriptors).

// Of a thread block: two warpgroups.
constexpr int HOPPER_THREADS = 256;

// Bytes of a row of a tile, and of a panel.
constexpr int TILE_ROW_BYTES = HEAD_SIZE * 2;
constexpr int PANEL_ROW_BYTES = 128;
static_assert(HEAD_SIZE % 64 == 0, "whole panels");

// Starts copying rows first .. first + COUNT to a tile [COUNT, D]; rows after the last are zeros.
template <int COUNT>
__device__ __forceinline__ void copy_tile(unsigned tile, const Rows& rows, int first) {
    constexpr int ROWS_AT_ONCE = HOPPER_THREADS / PIECES;
    static_assert(COUNT % ROWS_AT_ONCE == 0 && ROWS_AT_ONCE % 8 == 0, "a thread copies one column of pieces");
    const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    const unsigned to = tile + piece / 8 * (COUNT * PANEL_ROW_BYTES) + row * PANEL_ROW_BYTES + (piece % 8 ^ row % 8) * 16;
    const int present = rows.count - first - row;
    const bool is_past = first + COUNT <= rows.past_count;
    if (is_past || first >= rows.past_count) {
        const int stride = is_past ? rows.past_stride : rows.stride;
        const float16* from = (is_past ? rows.past : rows.own) + (long long)(first + row) * stride + piece * 8;
#pragma unroll
        for (int i = 0; i < COUNT; i += ROWS_AT_ONCE, from += ROWS_AT_ONCE * stride)
            copy_16_bytes(to + i * PANEL_ROW_BYTES, from, i < present);
    } else {
        for (int i = 0; i < COUNT; i += ROWS_AT_ONCE)
            copy_16_bytes(to + i * PANEL_ROW_BYTES, rows[i < present ? first + row + i : 0] + piece * 8, i < present);
    }
}

// Tiles [ROWS, D], numbered from 0, that pass through SLOTS places in shared memory. All threads copy
// them, and each warp says when it has read one; warpgroups wait for each other no more than that asks.
template <int SLOTS, int ROWS>
struct Ring {
    static constexpr int TILE_BYTES = ROWS * TILE_ROW_BYTES;
    static constexpr int BYTES = SLOTS * TILE_BYTES;
    static constexpr int BARRIER_BYTES = SLOTS * 16;

    unsigned tiles;     // [SLOTS]
    unsigned barriers;  // [SLOTS] of full, empty

    __device__ __forceinline__ unsigned tile(int number) const { return tiles + number % SLOTS * TILE_BYTES; }
    __device__ __forceinline__ unsigned full(int number) const { return barriers + number % SLOTS * 16; }
    __device__ __forceinline__ unsigned empty(int number) const { return full(number) + 8; }

    // Before the first copy of any thread.
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x < SLOTS) {
            make_barrier(full(threadIdx.x), HOPPER_THREADS);
            make_barrier(empty(threadIdx.x), HOPPER_THREADS / 32);
        }
    }

    // Starts copying rows first .. as a tile, once all have read the one that was in its place.
    __device__ __forceinline__ void copy(int number, const Rows& rows, int first) const {
        if (number >= SLOTS) wait_for_barrier(empty(number), number / SLOTS - 1 & 1);
        copy_tile<ROWS>(tile(number), rows, first);
        arrive_after_copies(full(number));
    }

    // Waits for a tile, and for all that was copied before it.
    __device__ __forceinline__ void wait(int number) const {
        wait_for_barrier(full(number), number / SLOTS & 1);
        publish_to_tensor_cores();
    }

    __device__ __forceinline__ void release(int number) const {
        if (threadIdx.x % 32 == 0) arrive(empty(number));
    }
};

// Bytes from a tile's corner to its columns 16·step ..
template <int ROWS>
__device__ __forceinline__ constexpr unsigned columns_offset(int step) {
    return step / 4 * (ROWS * PANEL_ROW_BYTES) + step % 4 * 32;
}

// Bytes from a tile's corner to its rows 16·step ..
__device__ __forceinline__ constexpr unsigned rows_offset(int step) { return step * 16 * PANEL_ROW_BYTES; }

// All columns of c [64, COUNT] as left sides of products.
template <int COUNT>
__device__ __forceinline__ void to_left(unsigned (&a)[COUNT][4], const float (&c)[2 * COUNT][4]) {
#pragma unroll
    for (int step = 0; step < COUNT; ++step) to_left(a[step], c[2 * step], c[2 * step + 1]);
}

// Starts c [64, COUNT] = rows first .. first + 64 of a [A_ROWS, D] · b [COUNT, D]ᵀ, as a group.
template <int A_ROWS, int B_ROWS, int COUNT>
__device__ __forceinline__ void start_scores(float (&c)[COUNT][4], unsigned a, int first, unsigned b) {
    static_assert(COUNT * 8 == B_ROWS, "a column of c for each row of b");
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
        start_product_transposed(c, matrix<A_ROWS>(a + first * PANEL_ROW_BYTES + columns_offset<A_ROWS>(step)),
                                 matrix<B_ROWS>(b + columns_offset<B_ROWS>(step)), step > 0);
    close_group();
}

// Starts c [64, D] += a [64, ROWS] · b [ROWS, D], as a group.
template <int ROWS>
__device__ __forceinline__ void start_sum(float (&c)[PIECES][4], const unsigned (&a)[ROWS / 16][4], unsigned b) {
#pragma unroll
    for (int step = 0; step < ROWS / 16; ++step) start_product(c, a[step], matrix<ROWS>(b + rows_offset(step)));
    close_group();
}
