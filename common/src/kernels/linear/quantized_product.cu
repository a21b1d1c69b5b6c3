// Products of up to 64 rows with weights in 4 bits, on tensor cores: each packed weight is read once for 32 of the rows,
// and is in 16 bits in registers only.
//
// A warp takes 16 rows of the weight and a part of its columns, 128 columns at a time; the warps of a thread block share
// the rows of x. In a product of 16 columns, which of them are first is arbitrary, as long as both sides agree: of 64
// columns, lane t of the four that share a row takes columns 16t to 16t + 15, which are 8 bytes of the weight and 32 bytes
// of x.
//
// A byte of two codes becomes two numbers of 16 bits by one look into a table, which is there once for each lane, so that
// no two lanes want the same bank. Columns 64i to 64i + 63 of a row are of one block, so their sum is scaled and not they.

constexpr int PRODUCT_WARPS = 10;
constexpr int PRODUCT_ROWS = 16;
constexpr int STEP = 128;
constexpr int WEIGHT_ROW_BYTES = STEP / 2;
// After the 256 bytes of a row of x are 16 more, so that rows that are read together lie in different banks.
constexpr int X_ROW_BYTES = STEP * 2 + 16;
// Shared memory holds the table, two stages of x, and for each warp its scales and two stages of its weights.
constexpr int TABLE_BYTES = 256 * 32 * 4;
constexpr int SCALES_BYTES = PRODUCT_ROWS * STEP / 64 * 4;
constexpr int WEIGHT_BYTES = PRODUCT_ROWS * WEIGHT_ROW_BYTES;
constexpr int WARP_BYTES = SCALES_BYTES + 2 * WEIGHT_BYTES;

extern "C" __constant__ int quantized_product_warps = PRODUCT_WARPS;
extern "C" __constant__ int quantized_product_rows = PRODUCT_ROWS;
extern "C" __constant__ int quantized_product_step = STEP;
extern "C" __constant__ int quantized_product_table_bytes = TABLE_BYTES;
extern "C" __constant__ int quantized_product_x_row_bytes = 2 * X_ROW_BYTES;
extern "C" __constant__ int quantized_product_warp_bytes = WARP_BYTES;

// Keeps a value in its register. The compiler would save the register and compute the value again in each step.
__device__ __forceinline__ void keep(unsigned& value) { asm volatile("" : "+r"(value)); }

template <typename T>
__device__ __forceinline__ T& shared_at(unsigned byte) {
    return *reinterpret_cast<T*>(reinterpret_cast<uint8*>(shared_memory) + byte);
}

// Copies this lane's pieces of a warp's weights, and this thread's of x, to shared memory, one step after the other.
template <int TOKENS>
struct ProductCopies {
    const uint8* weight;
    const float16* x;
    unsigned to_weight, to_x;
    int bytes_of_row, rows_left, x_stride, tokens;

    __device__ __forceinline__ ProductCopies(const Part& part, const float16* first_x, int x_stride, int tokens, int k, int row,
                                             int column, unsigned weights_at, unsigned x_at)
        : bytes_of_row(k / 2), x_stride(x_stride), tokens(tokens) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, piece = threadIdx.x % 16, token = threadIdx.x / 16;
        rows_left = part.rows - row - g;
        weight = part.packed + (int64)(row + g) * bytes_of_row + column / 2 + t * 16;
        // Pieces of rows that are read together lie in different banks.
        to_weight = shared_address() + weights_at + g * WEIGHT_ROW_BYTES + (t ^ (g & 2)) * 16;
        x = first_x + token * x_stride + column + piece * 8;
        to_x = shared_address() + x_at + token * X_ROW_BYTES + piece * 16;
        keep(to_weight);
        keep(to_x);
    }

    // The last step may have only 64 columns.
    __device__ __forceinline__ void step(int stage, int columns_left) {
        const bool is_weight = columns_left > (threadIdx.x & 2) * 32, is_x = columns_left > (threadIdx.x & 8) * 8;
#pragma unroll
        for (int i = 0; i < PRODUCT_ROWS; i += 8)
            copy_16_bytes(to_weight + stage * WEIGHT_BYTES + i * WEIGHT_ROW_BYTES, weight + (int64)i * bytes_of_row,
                          is_weight && i < rows_left);
        const int at_once = blockDim.x / 16;
        const float16* from = x;
        unsigned to = to_x + stage * TOKENS * X_ROW_BYTES;
        for (int token = threadIdx.x / 16; token < TOKENS; token += at_once) {
            copy_16_bytes(to, from, is_x && token < tokens);
            from += at_once * x_stride;
            to += at_once * X_ROW_BYTES;
        }
        weight += WEIGHT_ROW_BYTES;
        x += STEP;
    }
};

// The scale of 64 columns of a row, read a step before it is used.
struct ProductScale {
    const Scales& scales;
    const float* map;
    unsigned row_group;
    float absmax;
    uint8 code;

    __device__ __forceinline__ ProductScale(const Scales& scales, const float* map, int row, int k)
        : scales(scales), map(map), row_group((unsigned)row * (unsigned)(k / 64)) {}

    // Columns 64 * group to 64 * group + 63.
    __device__ __forceinline__ void load(int group) {
        unsigned block = (row_group + group) >> (scales.block_shift - 6);
        if (scales.map) {
            code = __ldg(scales.codes + block);
            block >>= scales.nested_shift;
        }
        absmax = __ldg(scales.absmax + block);
    }

    __device__ __forceinline__ float value() const {
        return scales.map ? map[code] * absmax + scales.offset : absmax;
    }
};

// Two numbers of 16 bits from byte `byte` of a word of codes.
__device__ __forceinline__ unsigned look_up(unsigned word, int byte, unsigned lane_bytes) {
    const unsigned row = byte == 0 ? word << 7 : word >> (byte * 8 - 7);
    unsigned at;
    // (row & 255 << 7) | lane_bytes, in one instruction.
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(at) : "r"(row), "n"(255 << 7), "r"(lane_bytes));
    return shared_at<unsigned>(at);
}

// sums[t, n] over a split's columns k of x[t, k] * weight[n, k], for TOKENS rows of x. A split takes `steps_of_split` steps
// through the columns. Where there is `partial` [splits, T, columns], sums are written there; otherwise y[t, n] becomes the
// sum with what is added to it.
template <int TOKENS>
__device__ __forceinline__ void multiply_packed(float16* y, int y_stride, const float16* added, const float16* bias,
                                                float* partial, int columns, const float16* x, int x_stride,
                                                const Part& part, int first_of_block, int tokens, int k, int splits,
                                                int steps_of_split) {
    __shared__ float map[256];
    constexpr int TILES = TOKENS / 8;
    // Sums of 32 rows leave no registers for what overlaps.
    constexpr int UNROLLED = TOKENS < 32 ? 2 : 1;
    const int warp = warp_number(), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int rows_of_block = blockDim.x / 32 * PRODUCT_ROWS, first = first_of_block + warp * PRODUCT_ROWS;
    const int split = blockIdx.y % splits, first_token = blockIdx.y / splits * TOKENS;
    const int begin = split * steps_of_split, end = min(begin + steps_of_split, (k + STEP - 1) / STEP);
    const unsigned x_at = TABLE_BYTES, scales_at = x_at + 2 * TOKENS * X_ROW_BYTES + warp * WARP_BYTES;
    const unsigned weights_at = scales_at + SCALES_BYTES;

    ProductCopies<TOKENS> copies(part, x + (int64)first_token * x_stride, x_stride, tokens - first_token, k, first,
                                 begin * STEP, weights_at, x_at);
    copies.step(0, k - begin * STEP);
    // The last rows of a ragged N have the scales of the last.
    ProductScale scale(part.scales, map, min(first + lane % 16, part.rows - 1), k);
    const int last_group = k / 64 - 1;
    scale.load(min(begin * 2 + lane / 16, last_group));
    for (int i = threadIdx.x; i < 256 * 8; i += blockDim.x) {
        const int byte = i / 8;
        const unsigned pair = pack_float16(part.values[byte >> 4], part.values[byte & 15]);
        shared_memory[i] = make_uint4(pair, pair, pair, pair);
    }
    if (part.scales.map)
        for (int i = threadIdx.x; i < 256; i += blockDim.x) map[i] = part.scales.map[i];

    float sums[TILES][4] = {};
    unsigned lane_bytes = lane * 4, from_x = x_at + g * X_ROW_BYTES + t * 32;
    unsigned from_weight = weights_at + g * WEIGHT_ROW_BYTES + ((t / 2) ^ (g & 2)) * 16 + t % 2 * 8;
    unsigned to_scales = scales_at + lane % 16 * 8 + lane / 16 * 4, from_scales = scales_at + g * 8;
    keep(lane_bytes);
    keep(from_x);
    keep(from_weight);
    keep(to_scales);
    keep(from_scales);
    for (int step = begin, stage = 0; step < end; ++step, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (step + 1 < end) copies.step(stage ^ 1, k - (step + 1) * STEP);
        shared_at<float>(to_scales) = scale.value();
        __syncwarp();
        scale.load(min(step * 2 + 2 + lane / 16, last_group));
#pragma unroll UNROLLED
        for (int b = 0; b < 2; ++b) {
            const unsigned weight = (from_weight ^ b * 32) + stage * WEIGHT_BYTES;
            const uint2 codes[2] = {shared_at<uint2>(weight), shared_at<uint2>(weight + 8 * WEIGHT_ROW_BYTES)};
            float block_sums[TILES][4];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                unsigned left[2][4];
#pragma unroll
                for (int q = 0; q < 2; ++q)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        left[q][i] = look_up(h ? codes[i % 2].y : codes[i % 2].x, q * 2 + i / 2, lane_bytes);
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    const uint4 right =
                        shared_at<uint4>(from_x + (stage * TOKENS + n * 8) * X_ROW_BYTES + b * 128 + h * 16);
                    if (h == 0)
                        multiply_first(block_sums[n], left[0], right.x, right.y);
                    else
                        multiply(block_sums[n], left[0], right.x, right.y);
                    multiply(block_sums[n], left[1], right.z, right.w);
                }
            }
            const float scales[2] = {shared_at<float>(from_scales + b * 4), shared_at<float>(from_scales + 64 + b * 4)};
#pragma unroll
            for (int n = 0; n < TILES; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[n][j] = fmaf(block_sums[n][j], scales[j / 2], sums[n][j]);
        }
        __syncwarp();
    }

    // Through shared memory, so that a warp writes 16 neighbouring numbers of a row of y.
    __syncthreads();
    const int row_bytes = (rows_of_block + 4) * 4;
#pragma unroll
    for (int n = 0; n < TILES; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
            shared_at<float>((n * 8 + t * 2 + j % 2) * row_bytes + (warp * PRODUCT_ROWS + j / 2 * 8 + g) * 4) = sums[n][j];
    __syncwarp();
    const int row = first + lane % 16, column = part.first_column + row;
    if (row >= part.rows) return;
    for (int i = lane / 16; i < min(tokens - first_token, TOKENS); i += 2) {
        float sum = shared_at<float>(i * row_bytes + (warp * PRODUCT_ROWS + lane % 16) * 4);
        if (partial) {
            partial[(int64)(split * tokens + first_token + i) * columns + column] = sum;
            continue;
        }
        const int64 at = (int64)(first_token + i) * y_stride + column;
        if (bias) sum += to_float(bias[column]);
        if (added) sum += to_float(added[at]);
        y[at] = to_float16(sum);
    }
}

// The projection that this thread block takes rows of, and the first of the rows. Each projection has blocks of its own.
__device__ __forceinline__ const Part& part_of_block(const Part* parts, int rows_of_block, int& first) {
    int block = blockIdx.x;
    for (;; ++parts) {
        const int blocks = (parts->rows + rows_of_block - 1) / rows_of_block;
        if (block < blocks) break;
        block -= blocks;
    }
    first = block * rows_of_block;
    return *parts;
}

// Grid (blocks of all projections, splits for each TOKENS rows of x): a stack is one launch.
#define QUANTIZED_PRODUCT(TOKENS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(PRODUCT_WARPS * 32, 2) quantized_product_##TOKENS(                 \
        float16* y, int y_stride, const float16* added, const float16* bias, float* partial, int columns,           \
        const float16* x, int x_stride, const Part* parts, int tokens, int k, int splits, int steps_of_split) {     \
        int first;                                                                                                  \
        const Part part = part_of_block(parts, blockDim.x / 32 * PRODUCT_ROWS, first);                              \
        multiply_packed<TOKENS>(y, y_stride, added, bias, partial, columns, x, x_stride, part, first, tokens, k,    \
                                splits, steps_of_split);                                                            \
    }

QUANTIZED_PRODUCT(8)
QUANTIZED_PRODUCT(16)
QUANTIZED_PRODUCT(32)

// y[t, n] = the sum of partial[split, t, n] over the splits, in their order, plus bias[n] and added[t, n] where they are
// given. Grid: a thread for each of the T rows' `columns` numbers.
extern "C" __global__ void __launch_bounds__(256) quantized_product_sum(
    float16* y, int y_stride, const float16* added, const float* partial, const float16* bias, int tokens, int columns,
    int splits) {
    const int i = blockIdx.x * 256 + threadIdx.x, count = tokens * columns;
    if (i >= count) return;
    float sum = 0.0f;
    for (int split = 0; split < splits; ++split) sum += partial[(int64)split * count + i];
    const int column = i % columns;
    const int64 at = (int64)(i / columns) * y_stride + column;
    if (bias) sum += to_float(bias[column]);
    if (added) sum += to_float(added[at]);
    y[at] = to_float16(sum);
}
