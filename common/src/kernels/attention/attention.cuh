// What the attention kernels share: their work, and what becomes of scores.
//
// Letters: T tokens, H query heads, K key/value heads (K divides H), D = HEAD_SIZE, P past tokens.
// qkv [T, (H + 2K)·D]: a row is H queries, then K keys, then K values. All matrices are row-major.

constexpr int THREADS = 128;

// Whether tokens see the last `window` tokens only, themselves included: kernels of their own, so that others
// do not pay for it.
#ifdef HAS_WINDOW
constexpr bool WINDOWED = true;
#else
constexpr bool WINDOWED = false;
#endif

// Whether scores are capped (Gemma 2): kernels of their own likewise.
#ifdef HAS_SOFTCAP
constexpr bool SOFTCAPPED = true;
#else
constexpr bool SOFTCAPPED = false;
#endif

// Shared memory that a block may have.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
constexpr int MOST_SHARED_BYTES = 99 << 10;
#elif __CUDA_ARCH__ < 900
constexpr int MOST_SHARED_BYTES = 163 << 10;
#else
constexpr int MOST_SHARED_BYTES = 227 << 10;
#endif

// Query rows of a block of attention_forward and of attention_backward_queries.
constexpr int QUERY_ROWS = HEAD_SIZE > 128 ? 64 : 128;

extern "C" __constant__ int attention_query_rows = QUERY_ROWS;

// Multiplications that cover a head, 16 columns each.
constexpr int STEPS = HEAD_SIZE / 16;
// Pieces of C that cover a head, 8 columns each.
constexpr int PIECES = HEAD_SIZE / 8;

constexpr float LOG2_E = 1.44269504088896341f;
#define MINUS_INFINITY __int_as_float(0xff800000)

// Blocks of rows of one sequence are what the host hands out: first and last bound of the sequence,
// and first row of the block, all as rows of qkv. The fourth number is not used.
struct Block {
    int start;   // the sequence's first token
    int length;  // its tokens
    int first;   // the block's first row, counted from the sequence's first token
};

__device__ __forceinline__ Block block_of(int4 task) { return {task.x, task.y - task.x, task.z - task.x}; }

// Rows of one head, `count` in all: the first `past_count`, if any, in the past, row r of them at past +
// r·past_stride, those after it in the sequence itself, row r of them at own + r·stride.
struct Rows {
    const float16* own;
    int stride;
    int count;
    const float16* past = nullptr;
    int past_stride = 0;
    int past_count = 0;

    __device__ __forceinline__ const float16* operator[](int row) const {
        return row < past_count ? past + (long long)row * past_stride : own + (long long)row * stride;
    }
};

// The keys and values that the query heads of one group see.
struct KeysAndValues {
    Rows keys, values;
};

// Of key head `key_head`, in the sequence of `block`, after past_count others, if any.
__device__ __forceinline__ KeysAndValues keys_and_values(const float16* qkv, Block block, int key_head, int heads, int key_heads,
                                                         const float16* past_keys = nullptr,
                                                         const float16* past_values = nullptr, int past_stride = 0,
                                                         int past_count = 0) {
    const int stride = (heads + 2 * key_heads) * HEAD_SIZE, column = key_head * HEAD_SIZE;
    // The sequence's first token is row past_count of the keys.
    const float16* own = qkv + (long long)(block.start - past_count) * stride + heads * HEAD_SIZE + column;
    const int count = past_count + block.length;
    return {{own, stride, count, past_keys + column, past_stride, past_count},
            {own + key_heads * HEAD_SIZE, stride, count, past_values + column, past_stride, past_count}};
}

// The first key that the row at `position`, counted from the first of the past, sees.
__device__ __forceinline__ int first_seen(int position, int window) {
    return WINDOWED ? max(position + 1 - window, 0) : 0;
}

// Queries of one head, from the first of the sequence of `block`.
__device__ __forceinline__ Rows queries_of(const float16* qkv, Block block, int head, int heads, int key_heads) {
    const int stride = (heads + 2 * key_heads) * HEAD_SIZE;
    return {qkv + (long long)block.start * stride + head * HEAD_SIZE, stride, block.length};
}

// The same of a matrix [T, H·D].
__device__ __forceinline__ Rows outputs_of(const float16* output, Block block, int head, int heads) {
    return {output + ((long long)block.start * heads + head) * HEAD_SIZE, heads * HEAD_SIZE, block.length};
}

// Two pieces of C, of neighbouring columns, as the left side of a multiplication: a lane holds the same
// elements of both.
__device__ __forceinline__ void to_left(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_float16(left[0], left[1]);
    a[1] = pack_float16(left[2], left[3]);
    a[2] = pack_float16(right[0], right[1]);
    a[3] = pack_float16(right[2], right[3]);
}

// A soft cap of scores, applied before their scale: cap · tanh(score / cap), where `cap` is the cap of scaled
// scores divided by the scale.
struct Softcap {
    float cap;
    float exponent;  // 2·log2(e) / cap

    __device__ __forceinline__ explicit Softcap(float cap) : cap(cap), exponent(2.0f * LOG2_E / cap) {}

    // tanh(score / cap) = 1 - 2 / (1 + e^(2·score / cap)), within 3e-7. The instruction tanh.approx is off by 5e-4,
    // and so would be a probability by 2% where scores are capped at 50.
    __device__ __forceinline__ float hyperbolic_tangent(float score) const {
        return 1.0f - 2.0f * reciprocal(1.0f + power_of_two(score * exponent));
    }

    // The capped score, and its derivative by the score.
    __device__ __forceinline__ float operator()(float score, float& slope) const {
        const float tangent = hyperbolic_tangent(score);
        slope = 1.0f - tangent * tangent;
        return cap * tangent;
    }

    template <int TILES, int COUNT>
    __device__ __forceinline__ void apply(float (&scores)[TILES][COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int n = 0; n < COUNT; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) scores[i][n][j] = cap * hyperbolic_tangent(scores[i][n][j]);
    }
};

// Running maximum and sum of exponentials of a lane's rows g and g + 8 of TILES tiles of scores
// (Milakov and Gimelshein 2018). The sum is of the lane's own columns until `finish`.
template <int TILES>
struct Softmax {
    float maximum[TILES][2];
    float sum[TILES][2];

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                maximum[i][half] = MINUS_INFINITY;
                sum[i][half] = 0.0f;
            }
    }

    // Turns scores [TILES·16, COUNT] into exponentials relative to the new maximum. What was computed
    // relative to the maximum before is to be multiplied by `correction`. `scale` is the scores' scale
    // times log2(e).
    template <int COUNT>
    __device__ __forceinline__ void add(float (&scores)[TILES][COUNT][4], float (&correction)[TILES][2], float scale) {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = maximum[i][half];
#pragma unroll
                for (int n = 0; n < COUNT; ++n)
                    highest = fmaxf(highest, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
                highest = row_maximum(highest);
                // A row that has seen no key yet has only scores of -inf: any finite base gives 0.
                const float base = highest == MINUS_INFINITY ? 0.0f : highest * scale;
                correction[i][half] = power_of_two(maximum[i][half] * scale - base);
                maximum[i][half] = highest;
                float added = 0.0f;
#pragma unroll
                for (int n = 0; n < COUNT; ++n)
#pragma unroll
                    for (int j = 2 * half; j < 2 * half + 2; ++j) {
                        scores[i][n][j] = power_of_two(scores[i][n][j] * scale - base);
                        added += scores[i][n][j];
                    }
                sum[i][half] = sum[i][half] * correction[i][half] + added;
            }
    }

    // Adds up the lanes' sums.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) sum[i][half] = row_sum(sum[i][half]);
    }
};

// Multiplies the rows of c [TILES·16, D].
template <int TILES>
__device__ __forceinline__ void rescale(float (&c)[TILES][PIECES][4], const float (&factors)[TILES][2]) {
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
        for (int d = 0; d < PIECES; ++d)
#pragma unroll
            for (int j = 0; j < 4; ++j) c[i][d][j] *= factors[i][j / 2];
}

template <int TILES, int COUNT>
__device__ __forceinline__ void clear(float (&c)[TILES][COUNT][4]) {
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
        for (int n = 0; n < COUNT; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) c[i][n][j] = 0.0f;
}

// Stores scale times row g (half 0) or g + 8 (half 1) of c [16, D] to a row of float16.
__device__ __forceinline__ void store_row(float16* row, const float (&c)[PIECES][4], int half, float scale) {
#pragma unroll
    for (int d = 0; d < PIECES; ++d) {
        unsigned* to = (unsigned*)(row + d * 8 + threadIdx.x % 4 * 2);
        *to = pack_float16(c[d][2 * half] * scale, c[d][2 * half + 1] * scale);
    }
}
