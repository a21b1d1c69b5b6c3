// The same as ../backward_queries.cu, for long sequences on Hopper.
//
// Each of two warpgroups owns 64 of a block's rows. The tensor cores add one tile of keys to dQ while the
// threads make dS of the next.

constexpr int QUERY_KEYS = 64;
constexpr int QUERY_TILE_BYTES = QUERY_KEYS * TILE_ROW_BYTES;
constexpr int QUERY_STAGE_BYTES = 2 * QUERY_TILE_BYTES;
constexpr int QUERY_SHARED_BYTES = 2 * QUERY_ROWS * TILE_ROW_BYTES + 3 * QUERY_STAGE_BYTES;

extern "C" __constant__ int attention_backward_queries_shared_bytes = QUERY_SHARED_BYTES;

// Launch: tasks·H blocks. A task is a block of QUERY_ROWS rows, those with the most keys first.
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1) attention_backward_queries(
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
    float) {                // no cap of scores: ../backward_queries.cu has it
    const int head = blockIdx.x % heads;
    const Block block = block_of(tasks[blockIdx.x / heads]);
    const Rows queries = queries_of(qkv, block, head, heads, key_heads), douts = outputs_of(dout, block, head, heads);
    const KeysAndValues rows = keys_and_values(qkv, block, head / (heads / key_heads), heads, key_heads);

    const unsigned query_tile = shared_address();
    const unsigned dout_tile = query_tile + QUERY_ROWS * TILE_ROW_BYTES;
    const unsigned stages = dout_tile + QUERY_ROWS * TILE_ROW_BYTES;  // [3][keys, then values]
    const int lane = threadIdx.x % 32;
    const int group_row = warp_number() / 4 * 64;
    const int first = block.first + warp_number() * 16;  // the warp's first row

    // The tiles that the block's last row sees, and the warpgroup's, from the first that any row sees.
    const int first_tile = first_seen(block.first, window) / QUERY_KEYS;
    const auto tiles_up_to = [&](int row) {
        return (min(row, block.length) + QUERY_KEYS - 1) / QUERY_KEYS - first_tile;
    };
    const int tiles = tiles_up_to(block.first + QUERY_ROWS);
    const int own_tiles = block.first + group_row < block.length ? tiles_up_to(block.first + group_row + 64) : 0;

    const auto stage_of = [&](int tile) { return stages + tile % 3 * QUERY_STAGE_BYTES; };
    const auto copy_stage = [&](int tile) {
        if (tile >= tiles) return;
        copy_tile<QUERY_KEYS>(stage_of(tile), rows.keys, (first_tile + tile) * QUERY_KEYS);
        copy_tile<QUERY_KEYS>(stage_of(tile) + QUERY_TILE_BYTES, rows.values, (first_tile + tile) * QUERY_KEYS);
    };
    // Waits for a tile, and starts copying the next to where every warpgroup is done.
    const auto next = [&](int tile) {
        wait_for_copies();
        publish_to_tensor_cores();
        __syncthreads();
        copy_stage(tile + 1);
    };
    copy_tile<QUERY_ROWS>(query_tile, queries, block.first);
    copy_tile<QUERY_ROWS>(dout_tile, douts, block.first);
    copy_stage(0);

    float row_log_sum[2], row_delta[2];  // the former in powers of two
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = min(first + half * 8 + lane / 4, block.length - 1);
        const long long at = (long long)(block.start + row) * heads + head;
        row_log_sum[half] = log_sums[at] * LOG2_E;
        row_delta[half] = delta[at];
    }

    float scores[1][QUERY_KEYS / 8][4], dscores[1][QUERY_KEYS / 8][4], dquery[1][PIECES][4];
    unsigned left[QUERY_KEYS / 16][4];
    clear(dquery);
    const auto start_tile = [&](int tile) {
        start_scores<QUERY_ROWS, QUERY_KEYS>(scores[0], query_tile, group_row, stage_of(tile));
        start_scores<QUERY_ROWS, QUERY_KEYS>(dscores[0], dout_tile, group_row, stage_of(tile) + QUERY_TILE_BYTES);
    };
    const auto probabilities = [&](int tile) {
        const int key = (first_tile + tile) * QUERY_KEYS;
        const bool masked = key + QUERY_KEYS - 1 > first;
        const int limit = first + lane / 4 - key - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < QUERY_KEYS / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                scores[0][n][j] = power_of_two(scores[0][n][j] * (scale * LOG2_E) - row_log_sum[j / 2]);
                if (masked && n * 8 + j % 2 > limit + j / 2 * 8) scores[0][n][j] = 0.0f;
                if (WINDOWED && n * 8 + j % 2 <= limit + j / 2 * 8 - window) scores[0][n][j] = 0.0f;
            }
    };
    const auto dprobabilities = [&] {
#pragma unroll
        for (int n = 0; n < QUERY_KEYS / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) dscores[0][n][j] = scores[0][n][j] * (dscores[0][n][j] - row_delta[j / 2]);
    };
    next(0);
    if (own_tiles > 0) {
        fence_products();
        start_tile(0);
        wait_for_group<1>(scores[0]);
        probabilities(0);
        wait_for_group<0>(dscores[0]);
        dprobabilities();
        to_left(left, dscores[0]);
    }
    for (int tile = 0; tile < tiles; ++tile) {
        next(tile + 1);
        if (tile + 1 < own_tiles) {
            fence_products();
            start_tile(tile + 1);
            start_sum<QUERY_KEYS>(dquery[0], left, stage_of(tile));
            wait_for_group<2>(scores[0]);
            probabilities(tile + 1);
            wait_for_group<1>(dscores[0]);
            dprobabilities();
            wait_for_group<0>(dquery[0]);
            to_left(left, dscores[0]);
        } else if (tile + 1 == own_tiles) {
            fence_products();
            start_sum<QUERY_KEYS>(dquery[0], left, stage_of(tile));
            wait_for_group<0>(dquery[0]);
        }
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + half * 8 + lane / 4;
        if (row >= block.length) continue;
        store_row(dqkv + (long long)(block.start + row) * queries.stride + head * HEAD_SIZE, dquery[0], half, scale);
    }
}
