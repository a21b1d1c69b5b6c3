// Causal attention of packed sequences, backward.
//
// With P the probabilities, O the output and δ = rowsum(dO ∘ O):
//   dV = Pᵀ·dO,  dS = P ∘ (dO·Vᵀ - δ),  dQ = scale · dS·K,  dK = scale · dSᵀ·Q
// where P is computed again from the log-sums (Dao et al. 2022), and dS is also multiplied with the slope of the
// soft cap of scores, where there is one. Four kernels, in this order: δ; dQ by blocks of query rows; dK and dV by blocks of keys, as one or more parts of the sum over
// the query heads that share them; the sum of the parts. No atomics: the same input gives the same bits.
// Together they write every element of dqkv.

// δ [T, H] from dout and out [T, H·D]. 16 threads take one row of one head.
// Launch: ceil(T·H / 8) blocks.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_delta(
    float* delta,         // [T, H]
    const float16* dout,  // [T, H·D]
    const float16* out,   // [T, H·D]
    int rows) {           // T·H
    const int row = blockIdx.x * (THREADS / 16) + threadIdx.x / 16;
    float sum = 0.0f;
    for (int piece = threadIdx.x % 16; row < rows && piece < PIECES; piece += 16) {
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
    if (row < rows && threadIdx.x % 16 == 0) delta[row] = sum;
}

// A block of keys of one key head, and the query heads of its part of the group.
struct KeyBlock {
    Block block;
    int key_head, part, first_head, last_head;
};

// Behind the last query row that sees any of the `rows` keys of a block.
__device__ __forceinline__ int last_query(Block block, int rows, int window) {
    return WINDOWED ? min(block.length, block.first + rows - 1 + window) : block.length;
}

// Of a launch of tasks·K·parts blocks.
__device__ __forceinline__ KeyBlock key_block_of(const int4* tasks, int heads, int key_heads, int parts) {
    const int part = blockIdx.x % parts, key_head = blockIdx.x / parts % key_heads, group = heads / key_heads;
    return {block_of(tasks[blockIdx.x / parts / key_heads]), key_head, part,
            key_head * group + group * part / parts, key_head * group + group * (part + 1) / parts};
}

// Starts copying the log-sums of rows first .. first + COUNT of one head, then their deltas; zeros after the last.
template <int COUNT>
__device__ __forceinline__ void copy_statistics(unsigned to, const float* log_sums, const float* delta, Block block, int head,
                                                int heads, int first) {
    if (threadIdx.x >= 2 * COUNT) return;
    const int row = first + threadIdx.x % COUNT;
    const long long at = (long long)(block.start + row) * heads + head;
    copy_4_bytes(to + threadIdx.x * 4, (threadIdx.x < COUNT ? log_sums : delta) + at, row < block.length);
}

// Stores row g (half 0) or g + 8 (half 1) of dkeys and dvalues [16, COUNT·8] as `row` of the block's sequence, from
// `column` of the head on.
template <int COUNT>
__device__ __forceinline__ void store_key_row(float* dkeys_values, const KeyBlock& keys, int row, int tokens, int key_heads,
                                              const float (&dkeys)[COUNT][4], const float (&dvalues)[COUNT][4], int half,
                                              float scale, int column = 0) {
    const long long at = (long long)keys.part * tokens + keys.block.start + row;
    float* dkey = dkeys_values + (at * 2 * key_heads + keys.key_head) * HEAD_SIZE + column + threadIdx.x % 4 * 2;
    float* dvalue = dkey + key_heads * HEAD_SIZE;
#pragma unroll
    for (int d = 0; d < COUNT; ++d) {
        *(float2*)(dkey + d * 8) = {dkeys[d][2 * half] * scale, dkeys[d][2 * half + 1] * scale};
        *(float2*)(dvalue + d * 8) = {dvalues[d][2 * half], dvalues[d][2 * half + 1]};
    }
}

// The columns of the keys and values of dqkv: the sum over the parts, in their order.
// Launch: ceil(T·2K·D / (4·THREADS)) blocks. A thread takes four columns.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_sum(
    float16* dqkv,              // [T, (H + 2K)·D]
    const float* dkeys_values,  // [parts, T, 2K·D]
    int tokens,                 // T
    int heads,                  // H
    int key_heads,              // K
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
