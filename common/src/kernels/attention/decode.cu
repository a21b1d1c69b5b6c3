// Causal attention of sequences with a few new rows each, each after a long past of its own.
//
// Reading the pasts is the work, so it is split over thread blocks (Dao et al. 2023, Flash-Decoding),
// each of which leaves its output and log-sum; a second kernel combines them, in their order. The query
// heads that share a key head, and the rows, are together the rows of the scores: row r of a sequence's is
// its token r / (H/K), head r % (H/K) of the group. A thread block owns 16 of those; each of its warps takes
// 16 of every DECODE_KEYS keys, with a softmax of its own.

constexpr int DECODE_ROWS = 16;
// As many as shared memory has room for the keys of.
constexpr int DECODE_WARPS = HEAD_SIZE > 128 ? 2 : 4;
constexpr int DECODE_THREADS = DECODE_WARPS * 32;
constexpr int DECODE_KEYS = 16 * DECODE_WARPS;
constexpr int DECODE_STAGE_BYTES = 2 * DECODE_KEYS * ROW_BYTES;
constexpr int DECODE_SHARED_BYTES = DECODE_ROWS * ROW_BYTES + 2 * DECODE_STAGE_BYTES;
static_assert(DECODE_SHARED_BYTES <= MOST_SHARED_BYTES, "a block's tiles");
static_assert(DECODE_WARPS * DECODE_ROWS * (HEAD_SIZE + 2) * 4 <= 2 * DECODE_STAGE_BYTES, "the warps' results lie in the stages");

extern "C" __constant__ int attention_decode_threads = DECODE_THREADS;
extern "C" __constant__ int attention_decode_rows = DECODE_ROWS;
extern "C" __constant__ int attention_decode_keys = DECODE_KEYS;
extern "C" __constant__ int attention_decode_shared_bytes = DECODE_SHARED_BYTES;

// A sequence that continues a past, as cuda/continued.rs lays it out.
struct Continued {
    float16* keys;    // of the past, [past, K·D]
    float16* values;  // likewise
    int past;         // tokens of the past
    int first;        // the row of qkv of its first new token
    int tokens;       // its new tokens
    int unused;
};

// The sequences of a launch lie in its arguments, so that nothing is copied before it.
constexpr int MOST_CONTINUED = 64;

struct Sequences {
    Continued all[MOST_CONTINUED];
};

// Launch: grid (sequences·row_blocks, K, splits), row_blocks = ceil(most tokens of a sequence·H/K / DECODE_ROWS),
// splits = ceil(most keys that any row of a sequence sees / keys_per_split).
extern "C" __global__ void __launch_bounds__(DECODE_THREADS) attention_decode(
    float* split_out,            // [splits, T, H·D]
    float* split_log_sums,       // [splits, T, H], -inf where a row sees no key of the split
    const float16* qkv,          // [T, (H + 2K)·D]
    const __grid_constant__ Sequences sequences,
    int rows_in_all,             // T
    int heads,                   // H
    int key_heads,               // K
    int row_blocks,
    int keys_per_split,         // a multiple of DECODE_KEYS
    int window,                 // tokens that a row sees
    float scale,
    float cap) {                // of scores before their scale
    const int split = blockIdx.z, key_head = blockIdx.y, row_block = blockIdx.x % row_blocks;
    const Continued& sequence = sequences.all[blockIdx.x / row_blocks];
    const int past_count = sequence.past, tokens = sequence.tokens;
    const int group = heads / key_heads;
    if (row_block * DECODE_ROWS >= tokens * group) return;
    const int stride = (heads + 2 * key_heads) * HEAD_SIZE;
    const int key_count = past_count + tokens;
    // Of a row's head in the results of the split.
    const auto result_of = [&](int token, int row) {
        return ((long long)split * rows_in_all + sequence.first + token) * heads + key_head * group + row % group;
    };
    const int first = first_seen(past_count, window) + split * keys_per_split, last = min(first + keys_per_split, key_count);
    if (first >= last) {
        // Another sequence has keys here.
        for (int i = threadIdx.x; i < DECODE_ROWS * HEAD_SIZE; i += DECODE_THREADS) {
            const int row = row_block * DECODE_ROWS + i / HEAD_SIZE, token = row / group;
            if (token >= tokens) break;
            split_out[result_of(token, row) * HEAD_SIZE + i % HEAD_SIZE] = 0.0f;
            if (i % HEAD_SIZE == 0) split_log_sums[result_of(token, row)] = MINUS_INFINITY;
        }
        return;
    }
    const KeysAndValues rows = keys_and_values(qkv, {sequence.first, tokens, 0}, key_head, heads, key_heads,
                                               sequence.keys, sequence.values, key_heads * HEAD_SIZE, past_count);
    const unsigned query_tile = shared_address();
    const unsigned stages = query_tile + DECODE_ROWS * ROW_BYTES;  // [2][keys, then values]
    const int lane = threadIdx.x % 32, warp = warp_number();
    const unsigned warp_offset = warp * 16 * ROW_BYTES;

    const auto copy_stage = [&](unsigned stage, int key) {
        copy_rows<DECODE_KEYS, DECODE_KEYS, DECODE_THREADS>(stage, rows.keys, key);
        copy_rows<DECODE_KEYS, DECODE_KEYS, DECODE_THREADS>(stage + DECODE_KEYS * ROW_BYTES, rows.values, key);
    };
    for (int i = threadIdx.x; i < DECODE_ROWS * PIECES; i += DECODE_THREADS) {
        const int row = row_block * DECODE_ROWS + i / PIECES, token = row / group;
        const bool present = token < tokens;
        const float16* query = qkv + (long long)(sequence.first + (present ? token : 0)) * stride + (key_head * group + row % group) * HEAD_SIZE;
        copy_16_bytes(query_tile + i / PIECES * ROW_BYTES + i % PIECES * 16, query + i % PIECES * 8, present);
    }
    copy_stage(stages, first);

    float result[1][PIECES][4];
    clear(result);
    Softmax<1> softmax;
    unsigned stage = stages, next_stage = stages + DECODE_STAGE_BYTES;
    for (int key = first; key < last; key += DECODE_KEYS) {
        wait_for_copies();
        __syncthreads();
        if (key + DECODE_KEYS < last) copy_stage(next_stage, key + DECODE_KEYS);
        float scores[1][2][4];
        clear(scores);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[1][4];
            load_left(left, query_tile + down_offset() + step * STEP_BYTES);
            multiply_transposed<1, 16>(scores, left, stage + warp_offset + across_offset() + step * STEP_BYTES);
        }
        if (SOFTCAPPED) Softcap(cap).apply(scores);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int token = (row_block * DECODE_ROWS + half * 8 + lane / 4) / group;
            const int limit = past_count + token - key - warp * 16 - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    if (n * 8 + j > limit || (WINDOWED && n * 8 + j <= limit - window))
                        scores[0][n][2 * half + j] = MINUS_INFINITY;
        }
        float correction[1][2];
        softmax.add(scores, correction, scale * LOG2_E);
        rescale(result, correction);
        unsigned left[1][4];
        to_left(left, scores, 0);
        multiply(result, left, stage + DECODE_KEYS * ROW_BYTES + warp_offset + down_offset());
        const unsigned free_stage = stage;
        stage = next_stage;
        next_stage = free_stage;
    }
    softmax.finish();

    // The warps' results, in shared memory: outputs [DECODE_WARPS, 16, D], maxima and sums [DECODE_WARPS, 16].
    const unsigned outputs = stages, maxima = outputs + DECODE_WARPS * DECODE_ROWS * HEAD_SIZE * 4;
    const unsigned sums = maxima + DECODE_WARPS * DECODE_ROWS * 4;
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = warp * DECODE_ROWS + half * 8 + lane / 4;
#pragma unroll
        for (int d = 0; d < PIECES; ++d)
#pragma unroll
            for (int j = 0; j < 2; ++j)
                store_shared(outputs + (row * HEAD_SIZE + d * 8 + lane % 4 * 2 + j) * 4, result[0][d][2 * half + j]);
        if (lane % 4 == 0) {
            store_shared(maxima + row * 4, softmax.maximum[0][half]);
            store_shared(sums + row * 4, softmax.sum[0][half]);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < DECODE_ROWS * HEAD_SIZE; i += DECODE_THREADS) {
        const int row = i / HEAD_SIZE, column = i % HEAD_SIZE;
        const int of_all = row_block * DECODE_ROWS + row, token = of_all / group;
        if (token >= tokens) break;
        float highest = MINUS_INFINITY;
        for (int w = 0; w < DECODE_WARPS; ++w) highest = fmaxf(highest, load_shared(maxima + (w * DECODE_ROWS + row) * 4));
        const float base = highest == MINUS_INFINITY ? 0.0f : highest;
        float sum = 0.0f, output = 0.0f;
        for (int w = 0; w < DECODE_WARPS; ++w) {
            const int at = w * DECODE_ROWS + row;
            const float weight = power_of_two((load_shared(maxima + at * 4) - base) * (scale * LOG2_E));
            sum += weight * load_shared(sums + at * 4);
            output += weight * load_shared(outputs + (at * HEAD_SIZE + column) * 4);
        }
        const long long at = result_of(token, of_all);
        split_out[at * HEAD_SIZE + column] = sum > 0.0f ? output / sum : 0.0f;
        if (column == 0) split_log_sums[at] = base * scale + logf(sum);
    }
}

// Launch: grid (most tokens of a sequence·H, sequences), D threads.
extern "C" __global__ void __launch_bounds__(HEAD_SIZE) attention_decode_combine(
    float16* out,                 // [T, H·D]
    const float* split_out,       // [splits, T, H·D]
    const float* split_log_sums,  // [splits, T, H]
    const __grid_constant__ Sequences sequences,
    int rows_in_all,              // T
    int heads,                    // H
    int splits) {
    const Continued& sequence = sequences.all[blockIdx.y];
    if ((int)blockIdx.x >= sequence.tokens * heads) return;
    const int row = sequence.first * heads + blockIdx.x, rows = rows_in_all * heads;
    float highest = MINUS_INFINITY;
    for (int split = 0; split < splits; ++split) highest = fmaxf(highest, split_log_sums[(long long)split * rows + row]);
    float sum = 0.0f, output = 0.0f;
    for (int split = 0; split < splits; ++split) {
        const long long at = (long long)split * rows + row;
        const float weight = power_of_two((split_log_sums[at] - highest) * LOG2_E);
        sum += weight;
        output += weight * split_out[at * HEAD_SIZE + threadIdx.x];
    }
    out[(long long)row * HEAD_SIZE + threadIdx.x] = to_float16(output / sum);
}
