// Causal attention of packed sequences after an optional shared past, forward.
//
// A thread block owns QUERY_ROWS query rows of one head and goes through the keys that its last
// row sees, a tile at a time, with a running softmax: nothing of the size of the scores is kept
// (Dao et al. 2022). A warp owns WARP_ROWS of the rows. The values of a tile arrive while its scores are
// computed, the keys of the next tile while the values are used.

constexpr int FORWARD_KEYS = 32;
constexpr int FORWARD_STAGE_BYTES = 2 * FORWARD_KEYS * ROW_BYTES;
constexpr int FORWARD_SHARED_BYTES = QUERY_ROWS * ROW_BYTES + 2 * FORWARD_STAGE_BYTES;
static_assert(FORWARD_SHARED_BYTES <= MOST_SHARED_BYTES, "a block's tiles");

extern "C" __constant__ int attention_forward_shared_bytes = FORWARD_SHARED_BYTES;

// Launch: tasks·H blocks. A task is a block of QUERY_ROWS rows, those with the most keys first.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_forward(
    float16* out,                // [T, H·D]
    float* log_sums,             // [T, H], log of the sum of exponentials of the scaled scores
    const float16* qkv,          // [T, (H + 2K)·D]
    const float16* past_keys,    // [P, K·D], rows past_stride elements apart
    const float16* past_values,  // [P, K·D], likewise
    const int4* tasks,           // [tasks]
    int heads,                   // H
    int key_heads,               // K
    int past_count,              // P
    int past_stride,
    int window,                  // tokens that a row sees
    float scale,
    float cap) {                 // of scores before their scale
    const int head = blockIdx.x % heads;
    const Block block = block_of(tasks[blockIdx.x / heads]);
    const Rows queries = queries_of(qkv, block, head, heads, key_heads);
    const KeysAndValues rows = keys_and_values(qkv, block, head / (heads / key_heads), heads, key_heads, past_keys,
                                                    past_values, past_stride, past_count);

    const unsigned query_tile = shared_address();
    const unsigned stages = query_tile + QUERY_ROWS * ROW_BYTES;  // [2][keys, then values]
    const int lane = threadIdx.x % 32;
    const int warp_row = warp_number() * WARP_ROWS;
    const int first = block.first + warp_row;  // the warp's first row
    const unsigned warp_queries = query_tile + warp_row * ROW_BYTES + down_offset();

    const int begin = first_seen(past_count + block.first, window) / FORWARD_KEYS * FORWARD_KEYS;
    copy_rows<QUERY_ROWS>(query_tile, queries, block.first);
    copy_rows<FORWARD_KEYS>(stages, rows.keys, begin);
    copy_rows<FORWARD_KEYS>(stages + FORWARD_KEYS * ROW_BYTES, rows.values, begin);
    const int seen = past_count + min(block.first + QUERY_ROWS, block.length);
    float result[ROW_TILES][PIECES][4];
    clear(result);
    Softmax<ROW_TILES> softmax;
    unsigned stage = stages, next_stage = stages + FORWARD_STAGE_BYTES;
    for (int key = begin; key < seen; key += FORWARD_KEYS) {
        const unsigned key_tile = stage, value_tile = stage + FORWARD_KEYS * ROW_BYTES;
        wait_for_copies();
        __syncthreads();
        if (key + FORWARD_KEYS < seen) {
            copy_rows<FORWARD_KEYS>(next_stage, rows.keys, key + FORWARD_KEYS);
            copy_rows<FORWARD_KEYS>(next_stage + FORWARD_KEYS * ROW_BYTES, rows.values, key + FORWARD_KEYS);
        }
        stage = next_stage;
        next_stage = key_tile;
        if (first >= block.length || key > past_count + first + WARP_ROWS - 1) continue;
        if (WINDOWED && key + FORWARD_KEYS <= first_seen(past_count + first, window)) continue;

        float scores[ROW_TILES][FORWARD_KEYS / 8][4];
        clear(scores);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[ROW_TILES][4];
            load_left(left, warp_queries + step * STEP_BYTES);
            multiply_transposed<ROW_TILES, FORWARD_KEYS>(scores, left, key_tile + across_offset() + step * STEP_BYTES);
        }
        if (SOFTCAPPED) Softcap(cap).apply(scores);
        // A row sees keys up to its own position after the past.
        if (key + FORWARD_KEYS - 1 > past_count + first) {
            const int limit = past_count + first + lane / 4 - key - lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
                for (int n = 0; n < FORWARD_KEYS / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        if (n * 8 + j % 2 > limit + i * 16 + j / 2 * 8) scores[i][n][j] = MINUS_INFINITY;
        }
        if (WINDOWED && key < first_seen(past_count + first + WARP_ROWS - 1, window)) {
            const int limit = past_count + first + lane / 4 - key - lane % 4 * 2 - window;
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
                for (int n = 0; n < FORWARD_KEYS / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        if (n * 8 + j % 2 <= limit + i * 16 + j / 2 * 8) scores[i][n][j] = MINUS_INFINITY;
        }
        float correction[ROW_TILES][2];
        softmax.add(scores, correction, scale * LOG2_E);
        rescale(result, correction);
#pragma unroll
        for (int step = 0; step < FORWARD_KEYS / 16; ++step) {
            unsigned left[ROW_TILES][4];
            to_left(left, scores, step);
            multiply(result, left, value_tile + down_offset() + step * 16 * ROW_BYTES);
        }
    }

    softmax.finish();
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + i * 16 + half * 8 + lane / 4;
            if (row >= block.length) continue;
            const long long at = (long long)(block.start + row) * heads + head;
            store_row(out + at * HEAD_SIZE, result[i], half, 1.0f / softmax.sum[i][half]);
            if (lane % 4 == 0) log_sums[at] = softmax.maximum[i][half] * scale + logf(softmax.sum[i][half]);
        }
}
