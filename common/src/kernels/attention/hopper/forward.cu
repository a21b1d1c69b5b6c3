// The same as ../forward.cu, for long sequences on Hopper (Shah et al. 2024, FlashAttention-3).
//
// Each of two warpgroups owns 64 of a block's rows. The tensor cores multiply the probabilities of a tile of
// keys with its values while the threads make those of the next. The warpgroups take turns to start
// products, so that the exponentials of one lie beside the products of the other.

constexpr int FORWARD_KEYS = 128;
using ForwardRing = Ring<3, FORWARD_KEYS>;
constexpr int FORWARD_SHARED_BYTES = QUERY_ROWS * TILE_ROW_BYTES + 2 * (ForwardRing::BYTES + ForwardRing::BARRIER_BYTES);

extern "C" __constant__ int attention_forward_shared_bytes = FORWARD_SHARED_BYTES;

// Launch: tasks·H blocks. A task is a block of QUERY_ROWS rows, those with the most keys first.
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1) attention_forward(
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
    float) {                     // no cap of scores: ../forward.cu has it
    const int head = blockIdx.x % heads;
    const Block block = block_of(tasks[blockIdx.x / heads]);
    const Rows queries = queries_of(qkv, block, head, heads, key_heads);
    const KeysAndValues rows = keys_and_values(qkv, block, head / (heads / key_heads), heads, key_heads, past_keys,
                                                    past_values, past_stride, past_count);

    const unsigned query_tile = shared_address();
    const unsigned rings = query_tile + QUERY_ROWS * TILE_ROW_BYTES, barriers = rings + 2 * ForwardRing::BYTES;
    const ForwardRing keys = {rings, barriers}, values = {rings + ForwardRing::BYTES, barriers + ForwardRing::BARRIER_BYTES};
    const int lane = threadIdx.x % 32;
    const int warpgroup = warp_number() / 4, group_row = warpgroup * 64;
    const int first = block.first + warp_number() * 16;  // the warp's first row

    // The tiles that the block's last row sees, and the warpgroup's, from the first that any row sees.
    const int first_tile = first_seen(past_count + block.first, window) / FORWARD_KEYS;
    const auto tiles_up_to = [&](int row) {
        return (past_count + min(row, block.length) + FORWARD_KEYS - 1) / FORWARD_KEYS - first_tile;
    };
    const int tiles = tiles_up_to(block.first + QUERY_ROWS);
    const int own_tiles = block.first + group_row < block.length ? tiles_up_to(block.first + group_row + 64) : 0;

    const auto copy_keys = [&](int tile) {
        if (tile < tiles) keys.copy(tile, rows.keys, (first_tile + tile) * FORWARD_KEYS);
    };
    const auto copy_values = [&](int tile) {
        if (tile < tiles) values.copy(tile, rows.values, (first_tile + tile) * FORWARD_KEYS);
    };
    float scores[1][FORWARD_KEYS / 8][4], result[1][PIECES][4];
    unsigned probabilities[FORWARD_KEYS / 16][4];
    Softmax<1> softmax;
    const auto start_tile = [&](int tile) {
        keys.wait(tile);
        start_scores<QUERY_ROWS, FORWARD_KEYS>(scores[0], query_tile, group_row, keys.tile(tile));
    };
    const auto add_values = [&](int tile) {
        values.wait(tile);
        start_sum<FORWARD_KEYS>(result[0], probabilities, values.tile(tile));
    };
    // A row sees keys up to its own position after the past.
    const auto exponentials = [&](int tile, float(&correction)[1][2]) {
        const int key = (first_tile + tile) * FORWARD_KEYS;
        if (key + FORWARD_KEYS - 1 > past_count + first) {
            const int limit = past_count + first + lane / 4 - key - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < FORWARD_KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (n * 8 + j % 2 > limit + j / 2 * 8) scores[0][n][j] = MINUS_INFINITY;
        }
        if (WINDOWED && key < first_seen(past_count + first + 15, window)) {
            const int limit = past_count + first + lane / 4 - key - lane % 4 * 2 - window;
#pragma unroll
            for (int n = 0; n < FORWARD_KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (n * 8 + j % 2 <= limit + j / 2 * 8) scores[0][n][j] = MINUS_INFINITY;
        }
        softmax.add(scores, correction, scale * LOG2_E);
    };
    const auto give_turn = [&](int tile) {
        if (warpgroup == 0 || tile + 1 < tiles) give_turn_to(1 - warpgroup);
    };

    keys.begin();
    values.begin();
    __syncthreads();
    copy_tile<QUERY_ROWS>(query_tile, queries, block.first);
    copy_keys(0);
    copy_values(0);
    copy_keys(1);
    clear(result);
    float correction[1][2];
    if (own_tiles > 0) {
        fence_products();
        start_tile(0);
        wait_for_group<0>(scores[0]);
        exponentials(0, correction);
        to_left(probabilities, scores[0]);
    }
    keys.release(0);
    for (int tile = 0; tile < tiles; ++tile) {
        copy_values(tile + 1);
        copy_keys(tile + 2);
        if (warpgroup > 0 || tile > 0) wait_for_turn(warpgroup);
        if (tile + 1 < own_tiles) {
            fence_products();
            start_tile(tile + 1);
            add_values(tile);
            give_turn(tile);
            wait_for_group<1>(scores[0]);
            keys.release(tile + 1);
            exponentials(tile + 1, correction);
            wait_for_group<0>(result[0]);
            values.release(tile);
            rescale(result, correction);
            to_left(probabilities, scores[0]);
        } else {
            give_turn(tile);
            if (tile + 1 == own_tiles) {
                fence_products();
                add_values(tile);
                wait_for_group<0>(result[0]);
            }
            values.release(tile);
            if (tile + 1 < tiles) keys.release(tile + 1);
        }
    }
    wait_for_copies();

    softmax.finish();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + half * 8 + lane / 4;
        if (row >= block.length) continue;
        const long long at = (long long)(block.start + row) * heads + head;
        store_row(out + at * HEAD_SIZE, result[0], half, 1.0f / softmax.sum[0][half]);
        if (lane % 4 == 0) log_sums[at] = softmax.maximum[0][half] * scale + logf(softmax.sum[0][half]);
    }
}
