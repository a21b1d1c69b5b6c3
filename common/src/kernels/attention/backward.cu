// Causal attention of packed sequences, backward.
//
// With P the probabilities, O the output and δ = rowsum(dO ∘ O):
//   dV = Pᵀ·dO,  dS = P ∘ (dO·Vᵀ - δ),  dQ = scale · dS·K,  dK = scale · dSᵀ·Q
// where P is computed again from the log-sums (Dao et al. 2022). Four kernels, in this order:
// δ; dQ by blocks of query rows; dK and dV by blocks of keys, as one or more parts of the sum over
// the query heads that share them; the sum of the parts. No atomics: the same input gives the same bits.
// Together they write every element of dqkv.

// δ [T, H] from dout and out [T, H·D]. 16 threads take one row of one head.
// Launch: ceil(T·H / 8) blocks.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_delta(
    float* delta,       // [T, H]
    const float16* dout,   // [T, H·D]
    const float16* out,    // [T, H·D]
    int rows) {         // T·H
    const int row = blockIdx.x * (THREADS / 16) + threadIdx.x / 16;
    const int piece = threadIdx.x % 16;
    float sum = 0.0f;
    if (row < rows && piece < PIECES) {
        const long long at = (long long)row * PIECES + piece;
        const uint4 a = ((const uint4*)dout)[at], b = ((const uint4*)out)[at];
        const unsigned as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum += to_float((float16)as[i]) * to_float((float16)bs[i]);
            sum += to_float((float16)(as[i] >> 16)) * to_float((float16)(bs[i] >> 16));
        }
    }
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (row < rows && piece == 0) delta[row] = sum;
}

// dQ. A thread block owns QUERY_ROWS query rows of one head, a warp 32 of them, and goes through the
// keys up to its last row, a tile at a time, the next tile arriving meanwhile.

constexpr int QUERY_ROWS = 128;
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
constexpr int QUERY_KEYS = 16;  // 99 KiB of shared memory at most
#else
constexpr int QUERY_KEYS = 32;
#endif
constexpr int QUERY_SHARED_BYTES = (2 * QUERY_ROWS + 4 * QUERY_KEYS) * ROW_BYTES;

extern "C" __constant__ int attention_backward_queries_rows = QUERY_ROWS;
extern "C" __constant__ int attention_backward_queries_shared_bytes = QUERY_SHARED_BYTES;

// Launch: tasks·H blocks. A task is a block of QUERY_ROWS rows, those with the most keys first.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries(
    float16* dqkv,               // [T, (H + 2K)·D], of which the H·D columns of the queries are written
    const float16* dout,         // [T, H·D]
    const float16* qkv,          // [T, (H + 2K)·D]
    const float* log_sums,    // [T, H]
    const float* delta,       // [T, H]
    const int4* tasks,        // [tasks]
    int heads,                // H
    int key_heads,            // K
    float scale) {
    const int head = blockIdx.x % heads;
    const int key_head = head / (heads / key_heads);
    const Block block = block_of(tasks[blockIdx.x / heads]);
    const int stride = (heads + 2 * key_heads) * HEAD_SIZE;
    const float16* sequence = qkv + (long long)block.start * stride;
    const Rows queries = {sequence + head * HEAD_SIZE, stride, block.length};
    const Rows keys = {sequence + (heads + key_head) * HEAD_SIZE, stride, block.length};
    const Rows values = {sequence + (heads + key_heads + key_head) * HEAD_SIZE, stride, block.length};
    const Rows douts = {dout + ((long long)block.start * heads + head) * HEAD_SIZE, heads * HEAD_SIZE, block.length};

    const unsigned query_tile = shared_address();
    const unsigned dout_tile = query_tile + QUERY_ROWS * ROW_BYTES;
    const unsigned key_tiles = dout_tile + QUERY_ROWS * ROW_BYTES;  // [2][keys, then values]
    const int lane = threadIdx.x % 32;
    const int warp_row = warp_number() * 32;
    const int first = block.first + warp_row;  // the warp's first row
    const unsigned warp_queries = query_tile + warp_row * ROW_BYTES + down_offset();
    const unsigned warp_douts = dout_tile + warp_row * ROW_BYTES + down_offset();

    copy_rows<QUERY_ROWS>(query_tile, queries, block.first);
    copy_rows<QUERY_ROWS>(dout_tile, douts, block.first);
    copy_rows<QUERY_KEYS>(key_tiles, keys, 0);
    copy_rows<QUERY_KEYS>(key_tiles + QUERY_KEYS * ROW_BYTES, values, 0);

    float row_log_sum[2][2], row_delta[2][2];  // the former in powers of two
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = min(first + i * 16 + half * 8 + lane / 4, block.length - 1);
            const long long at = (long long)(block.start + row) * heads + head;
            row_log_sum[i][half] = log_sums[at] * LOG2_E;
            row_delta[i][half] = delta[at];
        }

    float dquery[2][PIECES][4];
    clear(dquery);
    const int seen = min(block.first + QUERY_ROWS, block.length);
    for (int key = 0; key < seen; key += QUERY_KEYS) {
        const unsigned key_tile = key_tiles + key / QUERY_KEYS % 2 * (2 * QUERY_KEYS * ROW_BYTES);
        const unsigned value_tile = key_tile + QUERY_KEYS * ROW_BYTES;
        wait_for_copies();
        __syncthreads();
        if (key + QUERY_KEYS < seen) {
            const unsigned next = key_tiles + (key / QUERY_KEYS + 1) % 2 * (2 * QUERY_KEYS * ROW_BYTES);
            copy_rows<QUERY_KEYS>(next, keys, key + QUERY_KEYS);
            copy_rows<QUERY_KEYS>(next + QUERY_KEYS * ROW_BYTES, values, key + QUERY_KEYS);
        }
        if (first >= block.length || key > first + 31) continue;

        float scores[2][QUERY_KEYS / 8][4], dscores[2][QUERY_KEYS / 8][4];
        clear(scores);
        clear(dscores);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned left[2][4];
            load_left(left, warp_queries + step * STEP_BYTES);
            multiply_transposed<2, QUERY_KEYS>(scores, left, key_tile + across_offset() + step * STEP_BYTES);
            load_left(left, warp_douts + step * STEP_BYTES);
            multiply_transposed<2, QUERY_KEYS>(dscores, left, value_tile + across_offset() + step * STEP_BYTES);
        }
        const bool masked = key + QUERY_KEYS - 1 > first;
        const int limit = first + lane / 4 - key - lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int n = 0; n < QUERY_KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float probability = power_of_two(scores[i][n][j] * (scale * LOG2_E) - row_log_sum[i][j / 2]);
                    if (masked && n * 8 + j % 2 > limit + i * 16 + j / 2 * 8) probability = 0.0f;
                    dscores[i][n][j] = probability * (dscores[i][n][j] - row_delta[i][j / 2]);
                }
#pragma unroll
        for (int step = 0; step < QUERY_KEYS / 16; ++step) {
            unsigned left[2][4];
            to_left(left, dscores, step);
            multiply(dquery, left, key_tile + down_offset() + step * 16 * ROW_BYTES);
        }
    }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + i * 16 + half * 8 + lane / 4;
            if (row >= block.length) continue;
            store_row(dqkv + (long long)(block.start + row) * stride + head * HEAD_SIZE, dquery[i], half, scale);
        }
}

// dK and dV. A thread block owns KEY_ROWS keys of one key head, a warp 16 of them, whose keys and
// values stay in registers. It goes through the query rows from the first key on, a tile at a time,
// for each query head of its part of the group. Scores are computed transposed, [keys, queries], so
// that Pᵀ and dSᵀ are already the left sides of the products that give dV and dK.

constexpr int KEY_ROWS = 64;
constexpr int KEY_QUERIES = 32;
constexpr int KEY_STAGE_BYTES = 2 * KEY_QUERIES * ROW_BYTES + 2 * KEY_QUERIES * 4;
constexpr int KEY_SHARED_BYTES = 2 * KEY_STAGE_BYTES;
static_assert(2 * KEY_ROWS * ROW_BYTES <= KEY_SHARED_BYTES, "the keys and values pass through the stages");

extern "C" __constant__ int attention_backward_keys_rows = KEY_ROWS;
extern "C" __constant__ int attention_backward_keys_shared_bytes = KEY_SHARED_BYTES;

// Launch: tasks·K·parts blocks. A task is a block of KEY_ROWS rows, those with the most rows behind first.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys(
    float* dkeys_values,      // [parts, T, 2K·D], a row is K keys, then K values
    const float16* dout,         // [T, H·D]
    const float16* qkv,          // [T, (H + 2K)·D]
    const float* log_sums,    // [T, H]
    const float* delta,       // [T, H]
    const int4* tasks,        // [tasks]
    int tokens,               // T
    int heads,                // H
    int key_heads,            // K
    int parts,                // 1 to H / K
    float scale) {
    const int part = blockIdx.x % parts;
    const int key_head = blockIdx.x / parts % key_heads;
    const Block block = block_of(tasks[blockIdx.x / parts / key_heads]);
    const int group = heads / key_heads;
    const int first_head = key_head * group + group * part / parts;
    const int last_head = key_head * group + group * (part + 1) / parts;
    const int stride = (heads + 2 * key_heads) * HEAD_SIZE;
    const float16* sequence = qkv + (long long)block.start * stride;

    // A stage is a tile of queries, one of dout, and their log-sums and deltas.
    const unsigned stages = shared_address();
    const int lane = threadIdx.x % 32;
    const int warp_row = warp_number() * 16;
    const int first = block.first + warp_row;  // the warp's first key

    // The warp's keys and values [16, D].
    unsigned keys[STEPS][1][4], values[STEPS][1][4];
    const unsigned value_tile = stages + KEY_ROWS * ROW_BYTES;
    const Rows key_rows = {sequence + (heads + key_head) * HEAD_SIZE, stride, block.length};
    const Rows value_rows = {sequence + (heads + key_heads + key_head) * HEAD_SIZE, stride, block.length};
    copy_rows<KEY_ROWS>(stages, key_rows, block.first);
    copy_rows<KEY_ROWS>(value_tile, value_rows, block.first);
    wait_for_copies();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        load_left(keys[step], stages + warp_row * ROW_BYTES + down_offset() + step * STEP_BYTES);
        load_left(values[step], value_tile + warp_row * ROW_BYTES + down_offset() + step * STEP_BYTES);
    }
    __syncthreads();

    const auto copy_stage = [&](unsigned stage, int head, int query) {
        const Rows query_rows = {sequence + head * HEAD_SIZE, stride, block.length};
        const Rows dout_rows = {dout + ((long long)block.start * heads + head) * HEAD_SIZE, heads * HEAD_SIZE, block.length};
        copy_rows<KEY_QUERIES>(stage, query_rows, query);
        copy_rows<KEY_QUERIES>(stage + KEY_QUERIES * ROW_BYTES, dout_rows, query);
        if (threadIdx.x < 2 * KEY_QUERIES) {
            const int row = query + threadIdx.x % KEY_QUERIES;
            const bool present = row < block.length;
            const float* statistics = threadIdx.x < KEY_QUERIES ? log_sums : delta;
            const long long at = (long long)(block.start + (present ? row : 0)) * heads + head;
            copy_4_bytes(stage + 2 * KEY_QUERIES * ROW_BYTES + threadIdx.x * 4, statistics + at, present);
        }
    };

    float dkeys[1][PIECES][4], dvalues[1][PIECES][4];
    clear(dkeys);
    clear(dvalues);
    int head = first_head, query = block.first;
    unsigned stage = stages, next_stage = stages + KEY_STAGE_BYTES;
    copy_stage(stage, head, query);
    while (head < last_head) {
        int next_head = head, next_query = query + KEY_QUERIES;
        if (next_query >= block.length) {
            next_head = head + 1;
            next_query = block.first;
        }
        wait_for_copies();
        __syncthreads();
        if (next_head < last_head) copy_stage(next_stage, next_head, next_query);

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
        const unsigned free_stage = stage;
        stage = next_stage;
        next_stage = free_stage;
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + half * 8 + lane / 4;
        if (row >= block.length) continue;
        float* dkey = dkeys_values + (((long long)part * tokens + block.start + row) * 2 * key_heads + key_head) * HEAD_SIZE;
        float* dvalue = dkey + key_heads * HEAD_SIZE;
#pragma unroll
        for (int d = 0; d < PIECES; ++d) {
            const int column = d * 8 + lane % 4 * 2;
            *(float2*)(dkey + column) = {dkeys[0][d][2 * half] * scale, dkeys[0][d][2 * half + 1] * scale};
            *(float2*)(dvalue + column) = {dvalues[0][d][2 * half], dvalues[0][d][2 * half + 1]};
        }
    }
}

// The columns of the keys and values of dqkv: the sum over the parts, in their order.
// Launch: ceil(T·2K·D / (4·THREADS)) blocks. A thread takes four columns.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_sum(
    float16* dqkv,                   // [T, (H + 2K)·D]
    const float* dkeys_values,    // [parts, T, 2K·D]
    int tokens,                   // T
    int heads,                    // H
    int key_heads,                // K
    int parts) {
    const int columns = 2 * key_heads * HEAD_SIZE / 4;  // of four elements
    const long long count = (long long)tokens * columns;
    const long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    float4 sum = ((const float4*)dkeys_values)[i];
    for (int part = 1; part < parts; ++part) {
        const float4 added = ((const float4*)dkeys_values)[part * count + i];
        sum.x += added.x;
        sum.y += added.y;
        sum.z += added.z;
        sum.w += added.w;
    }
    const long long at = i / columns * (heads + 2 * key_heads) * HEAD_SIZE + heads * HEAD_SIZE + i % columns * 4;
    *(uint2*)(dqkv + at) = {pack_float16(sum.x, sum.y), pack_float16(sum.z, sum.w)};
}
