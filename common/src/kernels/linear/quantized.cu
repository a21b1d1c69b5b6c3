// Weights in 4 bits: quantized.cuh says what they are made of.

extern "C" __global__ void __launch_bounds__(256) dequantize(
    float16* weight, const uint8* packed, const float* values, const float* absmax, const uint8* codes, const float* map,
    float offset, int block_shift, int nested_shift, int64 len) {
    const Scales scales = {absmax, codes, map, offset, block_shift, nested_shift};
    dequantize_block(weight, packed, values, scales, len);
}

// Grid (blocks of the largest projection, projections): a stack is one launch.
#define QUANTIZED_ROWS(T, R)                                                                                           \
    extern "C" __global__ void __launch_bounds__(128) quantized_rows_##T(                                              \
        float16* y, int y_stride, const float16* added, const float16* x, int x_stride, const Part* parts,             \
        const float16* bias, int k) {                                                                                  \
        __shared__ float table[16];                                                                                    \
        const Part part = parts[blockIdx.y];                                                                           \
        if (blockIdx.x * (blockDim.x / 32) * R >= part.rows) return;                                                   \
        if (threadIdx.x < 16) table[threadIdx.x] = part.values[threadIdx.x];                                           \
        __syncthreads();                                                                                               \
        multiply_rows<T, R>(y + part.first_column, y_stride, added ? added + part.first_column : nullptr, x, x_stride, \
                            part.packed, table, part.scales, bias ? bias + part.first_column : nullptr, part.rows, k); \
    }

QUANTIZED_ROWS(1, 2)
QUANTIZED_ROWS(2, 1)
