// dK and dV. A thread block owns KEY_ROWS keys of one key head, a warp 16 of them, whose keys and
// values stay in registers. It goes through the query rows from the first key on, a tile at a time,
// for each query head of its part of the group. Scores are computed transposed, [keys, queries], so
// that Pᵀ and dSᵀ are already the left sides of the products that give dV and dK.
//
// Where a head is too wide for the registers of one warp, two warps own the same 16 keys, each with half of the
// head's columns: each computes its half of the sums that are the scores, and adds the other's.

// Warps that own the same keys, and multiplications and pieces that cover the columns of each.
constexpr int KEY_SHARERS = HEAD_SIZE > 128 ? 2 : 1;
constexpr int KEY_STEPS = STEPS / KEY_SHARERS;
constexpr int KEY_PIECES = PIECES / KEY_SHARERS;
constexpr int KEY_ROWS = WARPS / KEY_SHARERS * 16;
constexpr int KEY_QUERIES = 32;
// All registers are in use: what does not spill depends on the GPU.
#if __CUDA_ARCH__ < 1000
constexpr int KEY_COPIES_A_TURN = 2;
#else
constexpr int KEY_COPIES_A_TURN = 4;
#endif
constexpr int KEY_STAGE_BYTES = 2 * KEY_QUERIES * ROW_BYTES + 2 * KEY_QUERIES * 4;
// What a warp tells the one that shares its keys: 16 bytes of each lane for each piece of two tiles of scores.
constexpr int KEY_SHARE_BYTES = KEY_SHARERS > 1 ? 2 * KEY_QUERIES / 8 * 512 : 0;
constexpr int KEY_SHARED_BYTES = 2 * KEY_STAGE_BYTES + WARPS * KEY_SHARE_BYTES;
static_assert(KEY_SHARED_BYTES <= MOST_SHARED_BYTES, "a block's tiles");
static_assert(2 * KEY_ROWS * ROW_BYTES <= 2 * KEY_STAGE_BYTES, "the keys and values pass through the stages");

extern "C" __constant__ int attention_backward_keys_rows = KEY_ROWS;
extern "C" __constant__ int attention_backward_keys_shared_bytes = KEY_SHARED_BYTES;

// Stores the pieces of c [16, COUNT·8] for the warp that shares this one's keys,
template <int COUNT>
__device__ __forceinline__ void give_share(unsigned to, const float (&c)[1][COUNT][4]) {
#pragma unroll
    for (int n = 0; n < COUNT; ++n) store_shared_four(to + n * 512 + threadIdx.x % 32 * 16, c[0][n]);
}

// and adds those of that warp. Both have the same sum to the bit, because either order of two terms gives it.
template <int COUNT>
__device__ __forceinline__ void add_share(float (&c)[1][COUNT][4], unsigned from) {
#pragma unroll
    for (int n = 0; n < COUNT; ++n) {
        float added[4];
        load_shared_four(added, from + n * 512 + threadIdx.x % 32 * 16);
#pragma unroll
        for (int j = 0; j < 4; ++j) c[0][n][j] += added[j];
    }
}

// Launch: tasks·K·parts blocks. A task is a block of KEY_ROWS rows, those with the most rows after them first.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys(
    float* dkeys_values,    // [parts, T, 2K·D], a row is K keys, then K values
    const float16* dout,    // [T, H·D]
    const float16* qkv,     // [T, (H + 2K)·D]
    const float* log_sums,  // [T, H]
    const float* delta,     // [T, H]
    const int4* tasks,      // [tasks]
    int tokens,             // T
    int heads,              // H
    int key_heads,          // K
    int parts,              // 1 to H / K
    int window,             // tokens that a row sees
    float scale,
    float cap) {            // of scores before their scale
    const KeyBlock of = key_block_of(tasks, heads, key_heads, parts);
    const Block block = of.block;

    // A stage is a tile of queries, one of dout, and their log-sums and deltas.
    const unsigned stages = shared_address();
    const int lane = threadIdx.x % 32, warp = warp_number();
    const int warp_row = warp / KEY_SHARERS * 16;
    const int column = warp % KEY_SHARERS * (KEY_PIECES * 8);  // the warp's first column
    const int first = block.first + warp_row;  // the warp's first key

    // The warp's keys and values, and its columns of them.
    unsigned keys[KEY_STEPS][1][4], values[KEY_STEPS][1][4];
    const unsigned value_tile = stages + KEY_ROWS * ROW_BYTES;
    const KeysAndValues own = keys_and_values(qkv, block, of.key_head, heads, key_heads);
    copy_rows<KEY_ROWS>(stages, own.keys, block.first);
    copy_rows<KEY_ROWS>(value_tile, own.values, block.first);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
        load_left(keys[step], stages + warp_row * ROW_BYTES + column * 2 + down_offset() + step * STEP_BYTES);
        load_left(values[step], value_tile + warp_row * ROW_BYTES + column * 2 + down_offset() + step * STEP_BYTES);
    }
    __syncthreads();

    const auto copy_stage = [&](unsigned stage, int head, int query) {
        copy_rows<KEY_QUERIES, KEY_COPIES_A_TURN>(stage, queries_of(qkv, block, head, heads, key_heads), query);
        copy_rows<KEY_QUERIES, KEY_COPIES_A_TURN>(stage + KEY_QUERIES * ROW_BYTES, outputs_of(dout, block, head, heads), query);
        copy_statistics<KEY_QUERIES>(stage + 2 * KEY_QUERIES * ROW_BYTES, log_sums, delta, block, head, heads, query);
    };

    float dkeys[1][KEY_PIECES][4], dvalues[1][KEY_PIECES][4];
    clear(dkeys);
    clear(dvalues);
    int head = of.first_head, query = block.first;
    const int end = last_query(block, KEY_ROWS, window);
    unsigned stage = stages;
    copy_stage(stage, head, query);
    while (head < of.last_head) {
        int next_head = head, next_query = query + KEY_QUERIES;
        if (next_query >= end) {
            next_head = head + 1;
            next_query = block.first;
        }
        const unsigned next_stage = 2 * stages + KEY_STAGE_BYTES - stage;  // the other of two
        wait_for_copies();
        __syncthreads();
        if (next_head < of.last_head) copy_stage(next_stage, next_head, next_query);

        if (first < block.length && query + KEY_QUERIES > first) {
            const unsigned query_tile = stage + column * 2, dout_tile = query_tile + KEY_QUERIES * ROW_BYTES;
            const unsigned statistics = stage + 2 * KEY_QUERIES * ROW_BYTES + lane % 4 * 8;
            float scores[1][KEY_QUERIES / 8][4], dscores[1][KEY_QUERIES / 8][4];
            clear(scores);
            clear(dscores);
#pragma unroll
            for (int step = 0; step < KEY_STEPS; ++step) {
                multiply_transposed<1, KEY_QUERIES>(scores, keys[step], query_tile + across_offset() + step * STEP_BYTES);
                multiply_transposed<1, KEY_QUERIES>(dscores, values[step],
                                                    dout_tile + across_offset() + step * STEP_BYTES);
            }
            if (KEY_SHARERS > 1) {
                const unsigned shares = stages + 2 * KEY_STAGE_BYTES, of_dscores = KEY_SHARE_BYTES / 2;
                const int own = warp_number();  // asked for again: no register is left to keep it in
                const unsigned own_share = shares + own * KEY_SHARE_BYTES, other_share = shares + (own ^ 1) * KEY_SHARE_BYTES;
                give_share(own_share, scores);
                give_share(own_share + of_dscores, dscores);
                wait_for_pair(own / 2);
                add_share(scores, other_share);
                add_share(dscores, other_share + of_dscores);
            }
            // Rows after the sequence's last are zeros in all four tiles and add nothing.
            const bool masked = query < first + 15;
            const int limit = first + lane / 4 - query - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < KEY_QUERIES / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const unsigned at = statistics + (n * 8 + j % 2) * 4;
                    const float log_sum = load_shared(at) * LOG2_E, row_delta = load_shared(at + KEY_QUERIES * 4);
                    float slope = 1.0f;
                    if (SOFTCAPPED) scores[0][n][j] = Softcap(cap)(scores[0][n][j], slope);
                    float probability = power_of_two(scores[0][n][j] * (scale * LOG2_E) - log_sum);
                    if (masked && n * 8 + j % 2 < limit + j / 2 * 8) probability = 0.0f;
                    if (WINDOWED && n * 8 + j % 2 >= limit + j / 2 * 8 + window) probability = 0.0f;
                    scores[0][n][j] = probability;
                    dscores[0][n][j] = probability * (dscores[0][n][j] - row_delta) * slope;
                }
#pragma unroll
            for (int step = 0; step < KEY_QUERIES / 16; ++step) {
                unsigned left[1][4];
                to_left(left, scores, step);
                multiply(dvalues, left, dout_tile + down_offset() + step * 16 * ROW_BYTES);
                to_left(left, dscores, step);
                multiply(dkeys, left, query_tile + down_offset() + step * 16 * ROW_BYTES);
            }
        }
        head = next_head;
        query = next_query;
        stage = next_stage;
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + half * 8 + lane / 4;
        if (row >= block.length) continue;
        store_key_row(dkeys_values, of, row, tokens, key_heads, dkeys[0], dvalues[0], half, scale, column);
    }
}
