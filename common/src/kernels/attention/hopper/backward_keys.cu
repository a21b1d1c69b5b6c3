// The same as ../backward_keys.cu, for long sequences on Hopper.
//
// Each of two warpgroups owns 64 of a block's keys. The tensor cores multiply while the threads make P and dS:
// P beside V·dOᵀ, dS beside Pᵀ·dO, and the first of a tile's products follow the last of the tile before.

constexpr int KEY_ROWS = 128;
constexpr int KEY_QUERIES = 64;
constexpr int KEY_TILE_BYTES = KEY_QUERIES * TILE_ROW_BYTES;
constexpr int KEY_STAGE_BYTES = 2 * KEY_TILE_BYTES;
constexpr int KEY_STATISTICS_BYTES = 2 * KEY_QUERIES * 4;
constexpr int KEY_SHARED_BYTES = 2 * KEY_ROWS * TILE_ROW_BYTES + 3 * (KEY_STAGE_BYTES + KEY_STATISTICS_BYTES);

extern "C" __constant__ int attention_backward_keys_rows = KEY_ROWS;
extern "C" __constant__ int attention_backward_keys_shared_bytes = KEY_SHARED_BYTES;

// Launch: tasks·K·parts blocks. A task is a block of KEY_ROWS rows, those with the most rows after them first.
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1) attention_backward_keys(
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
    float) {                // no cap of scores: ../backward_keys.cu has it
    const KeyBlock of = key_block_of(tasks, heads, key_heads, parts);
    const Block block = of.block;

    const unsigned key_tile = shared_address();
    const unsigned value_tile = key_tile + KEY_ROWS * TILE_ROW_BYTES;
    const unsigned stages = value_tile + KEY_ROWS * TILE_ROW_BYTES;  // [3][queries, then dout]
    const unsigned statistics = stages + 3 * KEY_STAGE_BYTES;        // [3][log-sums, then deltas]
    const int lane = threadIdx.x % 32;
    const int group_row = warp_number() / 4 * 64;
    const int first = block.first + warp_number() * 16;  // the warp's first key

    // A tile is KEY_QUERIES rows of one head, from the block's first key on.
    const int tiles_of_head = (last_query(block, KEY_ROWS, window) - block.first + KEY_QUERIES - 1) / KEY_QUERIES;
    const int tiles = (of.last_head - of.first_head) * tiles_of_head;
    const auto copy_stage = [&](int tile) {
        if (tile >= tiles) return;
        const int head = of.first_head + tile / tiles_of_head, query = block.first + tile % tiles_of_head * KEY_QUERIES;
        const unsigned stage = stages + tile % 3 * KEY_STAGE_BYTES;
        copy_tile<KEY_QUERIES>(stage, queries_of(qkv, block, head, heads, key_heads), query);
        copy_tile<KEY_QUERIES>(stage + KEY_TILE_BYTES, outputs_of(dout, block, head, heads), query);
        copy_statistics<KEY_QUERIES>(statistics + tile % 3 * KEY_STATISTICS_BYTES, log_sums, delta, block, head, heads, query);
    };
    const KeysAndValues own = keys_and_values(qkv, block, of.key_head, heads, key_heads);
    copy_tile<KEY_ROWS>(key_tile, own.keys, block.first);
    copy_tile<KEY_ROWS>(value_tile, own.values, block.first);
    copy_stage(0);

    float scores[1][KEY_QUERIES / 8][4], dscores[1][KEY_QUERIES / 8][4], dkeys[1][PIECES][4], dvalues[1][PIECES][4];
    unsigned left[KEY_QUERIES / 16][4], dleft[KEY_QUERIES / 16][4];
    clear(dkeys);
    clear(dvalues);
    for (int tile = 0; tile < tiles; ++tile) {
        wait_for_copies();
        publish_to_tensor_cores();
        __syncthreads();
        copy_stage(tile + 1);
        const int query = block.first + tile % tiles_of_head * KEY_QUERIES;
        const unsigned query_tile = stages + tile % 3 * KEY_STAGE_BYTES, dout_tile = query_tile + KEY_TILE_BYTES;
        // The warpgroup's keys come after all of the tile's queries, or after the end of the sequence.
        if (query + KEY_QUERIES <= block.first + group_row || block.first + group_row >= block.length) {
            wait_for_group<0>(dkeys[0]);
            continue;
        }
        fence_products();
        start_scores<KEY_ROWS, KEY_QUERIES>(scores[0], key_tile, group_row, query_tile);
        start_scores<KEY_ROWS, KEY_QUERIES>(dscores[0], value_tile, group_row, dout_tile);
        wait_for_group<1>(scores[0]);  // and for the sums of the tile before
        // Rows after the sequence's last are zeros in all four tiles and add nothing.
        const bool masked = query < first + 15;
        const int limit = first + lane / 4 - query - lane % 4 * 2;
        const unsigned row_statistics = statistics + tile % 3 * KEY_STATISTICS_BYTES + lane % 4 * 8;
#pragma unroll
        for (int n = 0; n < KEY_QUERIES / 8; ++n) {
            const float2 log_sums = load_shared_pair(row_statistics + n * 32);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float log_sum = (j % 2 == 0 ? log_sums.x : log_sums.y) * LOG2_E;
                scores[0][n][j] = power_of_two(scores[0][n][j] * (scale * LOG2_E) - log_sum);
                if (masked && n * 8 + j % 2 < limit + j / 2 * 8) scores[0][n][j] = 0.0f;
                if (WINDOWED && n * 8 + j % 2 >= limit + j / 2 * 8 + window) scores[0][n][j] = 0.0f;
            }
        }
        to_left(left, scores[0]);
        fence_products();
        start_sum<KEY_QUERIES>(dvalues[0], left, dout_tile);
        wait_for_group<1>(dscores[0]);
#pragma unroll
        for (int n = 0; n < KEY_QUERIES / 8; ++n) {
            const float2 deltas = load_shared_pair(row_statistics + KEY_QUERIES * 4 + n * 32);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                dscores[0][n][j] = scores[0][n][j] * (dscores[0][n][j] - (j % 2 == 0 ? deltas.x : deltas.y));
        }
        to_left(dleft, dscores[0]);
        fence_products();
        start_sum<KEY_QUERIES>(dkeys[0], dleft, query_tile);
    }
    wait_for_group<0>(dvalues[0]);
    wait_for_group<0>(dkeys[0]);

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + half * 8 + lane / 4;
        if (row >= block.length) continue;
        store_key_row(dkeys_values, of, row, tokens, key_heads, dkeys[0], dvalues[0], half, scale);
    }
}
