// dK and dV. A thread block owns KEY_ROWS keys of one key head, a warp 16 of them, whose keys and
// values stay in registers. It goes through the query rows from the first key on, a tile at a time,
// for each query head of its part of the group. Scores are computed transposed, [keys, queries], so
// that Pᵀ and dSᵀ are already the left sides of the products that give dV and dK.

constexpr int KEY_ROWS = 64;
constexpr int KEY_QUERIES = 32;
// All registers are in use: what does not spill depends on the GPU.
#if __CUDA_ARCH__ < 1000
constexpr int KEY_COPIES_A_TURN = 2;
#else
constexpr int KEY_COPIES_A_TURN = 4;
#endif
constexpr int KEY_STAGE_BYTES = 2 * KEY_QUERIES * ROW_BYTES + 2 * KEY_QUERIES * 4;
constexpr int KEY_SHARED_BYTES = 2 * KEY_STAGE_BYTES;
static_assert(2 * KEY_ROWS * ROW_BYTES <= KEY_SHARED_BYTES, "the keys and values pass through the stages");

extern "C" __constant__ int attention_backward_keys_rows = KEY_ROWS;
extern "C" __constant__ int attention_backward_keys_shared_bytes = KEY_SHARED_BYTES;

// Launch: tasks·K·parts blocks. A task is a block of KEY_ROWS rows, those with the most rows behind first.
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
    float scale) {
    const KeyBlock of = key_block_of(tasks, heads, key_heads, parts);
    const Block block = of.block;

    // A stage is a tile of queries, one of dout, and their log-sums and deltas.
    const unsigned stages = shared_address();
    const int lane = threadIdx.x % 32;
    const int warp_row = warp_number() * 16;
    const int first = block.first + warp_row;  // the warp's first key

    // The warp's keys and values [16, D].
    unsigned keys[STEPS][1][4], values[STEPS][1][4];
    const unsigned value_tile = stages + KEY_ROWS * ROW_BYTES;
    const KeysAndValues own = keys_and_values(qkv, block, of.key_head, heads, key_heads);
    copy_rows<KEY_ROWS>(stages, own.keys, block.first);
    copy_rows<KEY_ROWS>(value_tile, own.values, block.first);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        load_left(keys[step], stages + warp_row * ROW_BYTES + down_offset() + step * STEP_BYTES);
        load_left(values[step], value_tile + warp_row * ROW_BYTES + down_offset() + step * STEP_BYTES);
    }
    __syncthreads();

    const auto copy_stage = [&](unsigned stage, int head, int query) {
        copy_rows<KEY_QUERIES, KEY_COPIES_A_TURN>(stage, queries_of(qkv, block, head, heads, key_heads), query);
        copy_rows<KEY_QUERIES, KEY_COPIES_A_TURN>(stage + KEY_QUERIES * ROW_BYTES, outputs_of(dout, block, head, heads), query);
        copy_statistics<KEY_QUERIES>(stage + 2 * KEY_QUERIES * ROW_BYTES, log_sums, delta, block, head, heads, query);
    };

    float dkeys[1][PIECES][4], dvalues[1][PIECES][4];
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
            const unsigned dout_tile = stage + KEY_QUERIES * ROW_BYTES;
            const unsigned statistics = dout_tile + KEY_QUERIES * ROW_BYTES + lane % 4 * 8;
            float scores[1][KEY_QUERIES / 8][4], dscores[1][KEY_QUERIES / 8][4];
            clear(scores);
            clear(dscores);
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                multiply_transposed<1, KEY_QUERIES>(scores, keys[step], stage + across_offset() + step * STEP_BYTES);
                multiply_transposed<1, KEY_QUERIES>(dscores, values[step],
                                                    dout_tile + across_offset() + step * STEP_BYTES);
            }
            // Rows behind the sequence's last are zeros in all four tiles and add nothing.
            const bool masked = query < first + 15;
            const int limit = first + lane / 4 - query - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < KEY_QUERIES / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const unsigned at = statistics + (n * 8 + j % 2) * 4;
                    const float log_sum = load_shared(at) * LOG2_E, row_delta = load_shared(at + KEY_QUERIES * 4);
                    float probability = power_of_two(scores[0][n][j] * (scale * LOG2_E) - log_sum);
                    if (masked && n * 8 + j % 2 < limit + j / 2 * 8) probability = 0.0f;
                    if (WINDOWED && n * 8 + j % 2 >= limit + j / 2 * 8 + window) probability = 0.0f;
                    scores[0][n][j] = probability;
                    dscores[0][n][j] = probability * (dscores[0][n][j] - row_delta);
                }
#pragma unroll
            for (int step = 0; step < KEY_QUERIES / 16; ++step) {
                unsigned left[1][4];
                to_left(left, scores, step);
                multiply(dvalues, left, dout_tile + down_offset() + step * 16 * ROW_BYTES);
                to_left(left, dscores, step);
                multiply(dkeys, left, stage + down_offset() + step * 16 * ROW_BYTES);
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
        store_key_row(dkeys_values, of, row, tokens, key_heads, dkeys[0], dvalues[0], half, scale);
    }
}
