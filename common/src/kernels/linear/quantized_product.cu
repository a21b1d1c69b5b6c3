// Products of up to 64 rows with weights in 4 bits, on tensor cores: each packed weight is read once, and dequantized in
// registers, so that a pass takes the time in which the memory gives up the weights.
//
// A thread block takes 128 rows of the weight and a part of its columns, 128 columns at a time; a warp has 32 of the rows.
// In a product of 16 columns, which of them are first is arbitrary, as long as both sides agree: lane t of the four that
// share a row takes the columns 32t to 32t + 31, which are 16 bytes of the weight, of one block, and 64 bytes of x.

constexpr int PRODUCT_THREADS = 128;
constexpr int PRODUCT_ROWS = 128;
constexpr int CHUNK = 128;
// Of a row of x in shared memory. Behind its 256 bytes are 64, so that the two rows that are read at a time lie in
// different banks.
constexpr int X_ROW_BYTES = CHUNK * 2 + 64;

extern "C" __constant__ int quantized_product_threads = PRODUCT_THREADS;
extern "C" __constant__ int quantized_product_rows = PRODUCT_ROWS;
extern "C" __constant__ int quantized_product_columns = CHUNK;
extern "C" __constant__ int quantized_product_row_bytes = 2 * X_ROW_BYTES;

// What a lane loads of the weight for a chunk: of each of its four rows, 32 codes and the parts of their scale.
struct Codes {
    uint4 bits[4];
    float absmax[4];
    uint8 nested[4];
};

// Starts copying columns column .. + CHUNK of x to a stage. Lane t reads eight columns of its 32 at a time, so the pieces
// of eight that the four lanes read together lie side by side.
template <int TOKENS>
__device__ __forceinline__ void copy_x(unsigned stage, const float16* x, int x_stride, int tokens, int k, int column) {
#pragma unroll
    for (int i = threadIdx.x; i < TOKENS * 16; i += PRODUCT_THREADS) {
        const int token = i / 16, piece = i % 16;
        const bool present = token < tokens && column + piece * 8 < k;
        copy_16_bytes(stage + token * X_ROW_BYTES + (piece % 4 * 4 + piece / 4) * 16,
                      x + (present ? (int64)token * x_stride + column + piece * 8 : 0), present);
    }
}

__device__ __forceinline__ void load_codes(Codes& codes, const Part& part, int first, int k, int column) {
    const bool present = column < k;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        // The last rows of a ragged N are read more than once and written once.
        const int64 element = (int64)min(first + r * 8, part.rows - 1) * k + (present ? column : 0);
        codes.bits[r] = __ldcs(reinterpret_cast<const uint4*>(part.packed + element / 2));
        const int64 block = element >> part.scales.block_shift;
        if (part.scales.map) codes.nested[r] = part.scales.codes[block];
        codes.absmax[r] = part.scales.absmax[part.scales.map ? block >> part.scales.nested_shift : block];
    }
}

// partial[split, t, first_column + n] = sum over the split's columns k of x[t, k] * weight[n, k], for T rows of x. A split
// has `chunks_of_split` chunks.
template <int TOKENS>
__device__ __forceinline__ void multiply_packed(float* partial, const float16* x, int x_stride, const Part& part, int tokens,
                                                int k, int columns, int chunks_of_split) {
    __shared__ float values[16];
    __shared__ float map[256];
    constexpr int TILES = TOKENS / 8;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * PRODUCT_ROWS + warp_number() * 32 + g;
    const int begin = blockIdx.z * chunks_of_split * CHUNK, end = min(begin + chunks_of_split * CHUNK, k);
    const unsigned stages = shared_address();
    unsigned stage = 0, next_stage = TOKENS * X_ROW_BYTES;
    if (threadIdx.x < 16) values[threadIdx.x] = part.values[threadIdx.x];
    if (part.scales.map)
        for (int i = threadIdx.x; i < 256; i += PRODUCT_THREADS) map[i] = part.scales.map[i];
    float sums[2][TILES][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[m][n][j] = 0.0f;
    Codes codes;
    copy_x<TOKENS>(stages + stage, x, x_stride, tokens, k, begin);
    load_codes(codes, part, first, k, begin + t * 32);
    for (int column = begin; column < end; column += CHUNK) {
        wait_for_copies();
        __syncthreads();
        Codes next;
        if (column + CHUNK < end) {
            copy_x<TOKENS>(stages + next_stage, x, x_stride, tokens, k, column + CHUNK);
            load_codes(next, part, first, k, column + CHUNK + t * 32);
        }
        float scale[4];
#pragma unroll
        for (int r = 0; r < 4; ++r)
            scale[r] = part.scales.map ? map[codes.nested[r]] * codes.absmax[r] + part.scales.offset : codes.absmax[r];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            // Of 16 rows: the left sides of two products, of four columns of each lane.
            unsigned left[2][2][4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const uint4 bits = codes.bits[r];
                const unsigned word = w == 0 ? bits.x : w == 1 ? bits.y : w == 2 ? bits.z : bits.w;
                const unsigned even = word >> 4 & 0x0f0f0f0fu, odd = word & 0x0f0f0f0fu;
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    left[r / 2][j / 2][r % 2 + j % 2 * 2] = pack_float16(values[__byte_perm(even, 0, 0x4440 + j)] * scale[r],
                                                                         values[__byte_perm(odd, 0, 0x4440 + j)] * scale[r]);
            }
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
                const uint4 right = *reinterpret_cast<const uint4*>(reinterpret_cast<const uint8*>(shared_memory) + stage +
                                                                   (n * 8 + g) * X_ROW_BYTES + (w * 4 + t) * 16);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    multiply(sums[m][n], left[m][0], right.x, right.y);
                    multiply(sums[m][n], left[m][1], right.z, right.w);
                }
            }
        }
        codes = next;
        const unsigned free_stage = stage;
        stage = next_stage;
        next_stage = free_stage;
    }
    float* out = partial + (int64)blockIdx.z * tokens * columns + part.first_column;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int row = first + m * 16 + j / 2 * 8, token = n * 8 + t * 2 + j % 2;
                if (row < part.rows && token < tokens) out[(int64)token * columns + row] = sums[m][n][j];
            }
}

// Grid (blocks of the largest projection, projections, splits): a stack is one launch.
#define QUANTIZED_PRODUCT(T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS) quantized_product_##T(                      \
        float* partial, const float16* x, int x_stride, const Part* parts, int tokens, int k, int columns,    \
        int chunks_of_split) {                                                                                \
        const Part part = parts[blockIdx.y];                                                                  \
        if (blockIdx.x * PRODUCT_ROWS >= part.rows) return;                                                   \
        multiply_packed<T>(partial, x, x_stride, part, tokens, k, columns, chunks_of_split);                  \
    }

QUANTIZED_PRODUCT(16)
QUANTIZED_PRODUCT(32)
QUANTIZED_PRODUCT(64)

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
