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

// y[t, n] = sum over k of x[t, k] * weight[n, k], plus bias[n] and added[t, n] where they are given, for T
// rows of x: each packed weight is read once and never written in 16 bits. A warp takes R rows n, so that
// more loads are in flight and x is cast to f32 once for all of them; a lane takes 32 numbers of each row
// at a time: 16 bytes, of one block. K is a multiple of 32.
template <int T, int R>
__device__ __forceinline__ void multiply_rows(float16* y, int y_stride, const float16* added, const float16* x, int x_stride,
                                              const uint8* packed, const float* table, const Scales& scales,
                                              const float16* bias, int n, int k) {
    int first = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * R, lane = threadIdx.x % 32;
    if (first >= n) return;
    float sums[R][T] = {};
    for (int i = lane * 32; i < k; i += 1024) {
        uint4 bits[R];
        float scale[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            // The last rows of a ragged N are read twice and written once.
            int64 start = (int64)min(first + r, n - 1) * k + i;
            bits[r] = __ldcs(reinterpret_cast<const uint4*>(packed + start / 2));
            scale[r] = scale_of(scales, start);
        }
        float part[R][T] = {};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            Eight v[T];
#pragma unroll
            for (int t = 0; t < T; t++) v[t] = load_eight(x + (int64)t * x_stride + i + w * 8);
#pragma unroll
            for (int r = 0; r < R; r++) {
                unsigned word = w == 0 ? bits[r].x : w == 1 ? bits[r].y : w == 2 ? bits[r].z : bits[r].w;
                // Codes of the even and of the odd numbers, a byte each.
                unsigned even = word >> 4 & 0x0f0f0f0fu, odd = word & 0x0f0f0f0fu;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float first_weight = table[__byte_perm(even, 0, 0x4440 + j)];
                    float second_weight = table[__byte_perm(odd, 0, 0x4440 + j)];
#pragma unroll
                    for (int t = 0; t < T; t++) {
                        part[r][t] = fmaf(v[t].values[2 * j], first_weight, part[r][t]);
                        part[r][t] = fmaf(v[t].values[2 * j + 1], second_weight, part[r][t]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int t = 0; t < T; t++) sums[r][t] = fmaf(part[r][t], scale[r], sums[r][t]);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int t = 0; t < T; t++) {
            float sum = warp_sum(sums[r][t]);
            if (lane > 0 || first + r >= n) continue;
            int64 at = (int64)t * y_stride + first + r;
            if (bias) sum += to_float(bias[first + r]);
            if (added) sum += to_float(added[at]);
            y[at] = to_float16(sum);
        }
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
