// Weights of experts in 4 bits: a table of parts, `parts_of_expert` for each expert after the other, of which
// first_column is the row of the weights [E·N, K] of all experts that the part begins with.

// weights[E·N, K] in 16 bits. Grid (blocks of the largest part, parts).
extern "C" __global__ void __launch_bounds__(256) dequantize_experts(float16* weights, const Part* parts, int k) {
    const Part part = parts[blockIdx.y];
    dequantize_block(weights + (int64)part.first_column * k, part.packed, part.values, part.scales, (int64)part.rows * k);
}

// y[n] = sum over k of x[k] * weight[n, k], plus what y holds where `adds`: each packed weight is read once and never
// written in 16 bits. A warp takes R rows n, so that more loads are in flight and x is cast to f32 once for all of them; a
// lane takes 32 numbers of each row at a time: 16 bytes, of one block. K is a multiple of 32.
template <int R>
__device__ __forceinline__ void multiply_rows(float16* y, bool adds, const float16* x, const uint8* packed,
                                              const float* table, const Scales& scales, int n, int k) {
    int first = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * R, lane = threadIdx.x % 32;
    if (first >= n) return;
    float sums[R] = {};
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
        float part[R] = {};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const Eight v = load_eight(x + i + w * 8);
#pragma unroll
            for (int r = 0; r < R; r++) {
                unsigned word = w == 0 ? bits[r].x : w == 1 ? bits[r].y : w == 2 ? bits[r].z : bits[r].w;
                // Codes of the even and of the odd numbers, a byte each.
                unsigned even = word >> 4 & 0x0f0f0f0fu, odd = word & 0x0f0f0f0fu;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    part[r] = fmaf(v.values[2 * j], table[__byte_perm(even, 0, 0x4440 + j)], part[r]);
                    part[r] = fmaf(v.values[2 * j + 1], table[__byte_perm(odd, 0, 0x4440 + j)], part[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) sums[r] = fmaf(part[r], scale[r], sums[r]);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        float sum = warp_sum(sums[r]);
        if (lane > 0 || first + r >= n) continue;
        if (adds) sum += to_float(y[first + r]);
        y[first + r] = to_float16(sum);
    }
}

// y[s, n] = sum over k of x[row of s, k] · W[e of s][n, k], plus what y holds where `adds`, for a few slots: only the
// weights of their experts are read, and never written in 16 bits. Grid (blocks of the largest part, parts of an
// expert, slots). K is a multiple of 32.
extern "C" __global__ void __launch_bounds__(128) expert_rows(
    float16* y, const float16* x, const Part* parts, const unsigned* tokens, const unsigned* starts, int experts, int n,
    int k, int adds) {
    __shared__ float table[16];
    const int slot = blockIdx.z, expert = expert_of(starts, experts, slot);
    const Part part = parts[expert * gridDim.y + blockIdx.y];
    if (blockIdx.x * (blockDim.x / 32) * 2 >= part.rows) return;
    if (threadIdx.x < 16) table[threadIdx.x] = part.values[threadIdx.x];
    __syncthreads();
    y += (int64)slot * n + part.first_column - expert * n;
    x += (int64)(tokens ? tokens[slot] : slot) * k;
    multiply_rows<2>(y, adds, x, part.packed, table, part.scales, part.rows, k);
}
