// dQ. A thread block owns QUERY_ROWS query rows of one head, a warp WARP_ROWS of them, and goes through the
// keys up to its last row, a tile at a time, the next tile arriving meanwhile.

// Fewer where two tiles of queries leave no room for more.
constexpr int QUERY_KEYS = HEAD_SIZE > 128 || MOST_SHARED_BYTES < (100 << 10) ? 16 : 32;
constexpr int QUERY_SHARED_BYTES = (2 * QUERY_ROWS + 4 * QUERY_KEYS) * ROW_BYTES;
static_assert(QUERY_SHARED_BYTES <= MOST_SHARED_BYTES, "a block's tiles");

extern "C" __constant__ int attention_backward_queries_shared_bytes = QUERY_SHARED_BYTES;

// Launch: tasks·H blocks. A task is a block of QUERY_ROWS rows, those with the most keys first.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries(
    float16* dqkv,          // [T, (H + 2K)·D], of which the H·D columns of the queries are written
    const float16* dout,    // [T, H·D]
    const float16* qkv,     // [T, (H + 2K)·D]
    const float* log_sums,  // [T, H]
    const float* delta,     // [T, H]
    const int4* tasks,      // [tasks]
    int heads,              // H
    int key_heads,          // K
    int window,             // tokens that a row sees
    float scale,
    float cap) {            // of scores before their scale
    const int head = blockIdx.x % heads;
    const Block block = block_of(tasks[blockIdx.x / heads]);
    const Rows queries = queries_of(qkv, block, head, heads, key_heads), douts = outputs_of(dout, block, head, heads);
    const KeysAndValues rows = keys_and_values(qkv, block, head / (heads / key_heads), heads, key_heads);

    const unsigned query_tile = shared_address();
    const unsigned dout_tile = query_tile + QUERY_ROWS * ROW_BYTES;
    const unsigned key_tiles = dout_tile + QUERY_ROWS * ROW_BYTES;  // [2][keys, then values]
    const int lane = threadIdx.x % 32;
    const int warp_row = warp_number() * WARP_ROWS;
    const int first = block.first + warp_row;  // the warp's first row
    const unsigned warp_queries = query_tile + warp_row * ROW_BYTES + down_offset();
    const unsigned warp_douts = dout_tile + warp_row * ROW_BYTES + down_offset();

    copy_rows<QUERY_ROWS>(query_tile, queries, block.first);
    copy_rows<QUERY_ROWS>(dout_tile, douts, block.first);
    // A multiple of two tiles: the first lies where an even tile does.
    const int begin = first_seen(block.first, window) / (2 * QUERY_KEYS) * (2 * QUERY_KEYS);
    copy_rows<QUERY_KEYS>(key_tiles, rows.keys, begin);
    copy_rows<QUERY_KEYS>(key_tiles + QUERY_KEYS * ROW_BYTES, rows.values, begin);

    float row_log_sum[ROW_TILES][2], row_delta[ROW_TILES][2];  // the former in powers of two
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = min(first + i * 16 + half * 8 + lane / 4, block.length - 1);
            const long long at = (long long)(block.start + row) * heads + head;
            row_log_sum[i][half] = log_sums[at] * LOG2_E;
            row_delta[i][half] = delta[at];
        }

    float dquery[ROW_TILES][PIECES][4];
    clear(dquery);
    const int seen = min(block.first + QUERY_ROWS, block.length);
    for (int key = begin; key < seen; key += QUERY_KEYS) {
        const unsigned key_tile = key_tiles + key / QUERY_KEYS % 2 * (2 * QUERY_KEYS * ROW_BYTES);
        const unsigned value_tile = key_tile + QUERY_KEYS * ROW_BYTES;
        wait_for_copies();
        __syncthreads();
        if (key + QUERY_KEYS < seen) {
            const unsigned next = key_tiles + (key / QUERY_KEYS + 1) % 2 * (2 * QUERY_KEYS * ROW_BYTES);
            copy_rows<QUERY_KEYS>(next, rows.keys, key + QUERY_KEYS);
            copy_rows<QUERY_KEYS>(next + QUERY_KEYS * ROW_BYTES, rows.values, key + QUERY_KEYS);
        }
        if (first >= block.length || key > first + WARP_ROWS - 1) continue;
        if (WINDOWED && first - key - QUERY_KEYS + 1 >= window) continue;

        float scores[ROW_TILES][QUERY_KEYS / 8][4], dscores[ROW_TILES][QUERY_KEYS / 8][4];
        clear(scores);
        clear(dscores);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[ROW_TILES][4];
            load_left(left, warp_queries + step * STEP_BYTES);
            multiply_transposed<ROW_TILES, QUERY_KEYS>(scores, left, key_tile + across_offset() + step * STEP_BYTES);
            load_left(left, warp_douts + step * STEP_BYTES);
            multiply_transposed<ROW_TILES, QUERY_KEYS>(dscores, left, value_tile + across_offset() + step * STEP_BYTES);
        }
        const bool masked = key + QUERY_KEYS - 1 > first;
        const int limit = first + lane / 4 - key - lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int n = 0; n < QUERY_KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float slope = 1.0f;
                    if (SOFTCAPPED) scores[i][n][j] = Softcap(cap)(scores[i][n][j], slope);
                    float probability = power_of_two(scores[i][n][j] * (scale * LOG2_E) - row_log_sum[i][j / 2]);
                    // A key after the query is, as an unsigned distance, outside every window. Two comparisons would spill.
                    if (WINDOWED ? (unsigned)(limit + i * 16 + j / 2 * 8 - n * 8 - j % 2) >= (unsigned)window
                                 : masked && n * 8 + j % 2 > limit + i * 16 + j / 2 * 8)
                        probability = 0.0f;
                    dscores[i][n][j] = probability * (dscores[i][n][j] - row_delta[i][j / 2]) * slope;
                }
#pragma unroll
        for (int step = 0; step < QUERY_KEYS / 16; ++step) {
            unsigned left[ROW_TILES][4];
            to_left(left, dscores, step);
            multiply(dquery, left, key_tile + down_offset() + step * 16 * ROW_BYTES);
        }
    }

#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + i * 16 + half * 8 + lane / 4;
            if (row >= block.length) continue;
            store_row(dqkv + (long long)(block.start + row) * queries.stride + head * HEAD_SIZE, dquery[i], half, scale);
        }
}
