// What a 4-bit weight [N, K] is made of: see nf4/quantized.rs. Blocks of 1 << block_shift numbers run
// on across rows. With double quantization (map is not null) the absmax of block b is
// map[codes[b]] * absmax[b >> nested_shift] + offset, and absmax[b] otherwise.
struct Scales {
    const float* absmax;
    const uint8* codes;
    const float* map;
    float offset;
    int block_shift;
    int nested_shift;
};

__device__ __forceinline__ float scale_of(const Scales& scales, int64 element) {
    int64 block = element >> scales.block_shift;
    if (!scales.map) return scales.absmax[block];
    return scales.map[scales.codes[block]] * scales.absmax[block >> scales.nested_shift] + scales.offset;
}

// weight[len] in 16 bits from packed[len / 2], the even number of a pair in the high four bits. A thread
// dequantizes four groups of eight numbers, each a 4-byte load and a 16-byte store that its neighbours
// continue, all loads before the first use. Numbers are rounded once, as bitsandbytes rounds them.
#define GROUPS 4
__device__ __forceinline__ void dequantize_block(float16* weight, const uint8* packed, const float* values,
                                                 const Scales& scales, int64 len) {
    __shared__ float table[16];
    if (threadIdx.x < 16) table[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    int64 first = ((int64)blockIdx.x * GROUPS * blockDim.x + threadIdx.x) * 8;
    unsigned bits[GROUPS];
    float scale[GROUPS];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int64 element = first + (int64)g * blockDim.x * 8;
        if (element + 8 > len) continue;
        bits[g] = *reinterpret_cast<const unsigned*>(packed + element / 2);
        scale[g] = scale_of(scales, element);
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int64 element = first + (int64)g * blockDim.x * 8;
        if (element + 8 > len) {
            for (; element < len; element++) {
                int code = packed[element / 2] >> (element % 2 ? 0 : 4) & 15;
                weight[element] = to_float16(table[code] * scale_of(scales, element));
            }
            return;
        }
        Eight v;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            unsigned byte = bits[g] >> (8 * j);
            v.values[2 * j] = table[byte >> 4 & 15] * scale[g];
            v.values[2 * j + 1] = table[byte & 15] * scale[g];
        }
        store_eight(weight + element, v);
    }
}

// A weight in a table of them, as linear/cuda/weight.rs lays it out.
struct Part {
    const uint8* packed;
    const float* values;
    Scales scales;     // 40 bytes
    int rows;          // N
    int first_column;  // of y
};
