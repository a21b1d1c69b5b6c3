// Weights of experts in 4 bits: a table of parts, `parts_of_expert` for each expert after the other, of which
// first_column is the row of the weights [E·N, K] of all experts that the part begins with.

// weights[E·N, K] in 16 bits. Grid (blocks of the largest part, parts).
extern "C" __global__ void __launch_bounds__(256) dequantize_experts(float16* weights, const Part* parts, int k) {
    const Part part = parts[blockIdx.y];
    dequantize_block(weights + (int64)part.first_column * k, part.packed, part.values, part.scales, (int64)part.rows * k);
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
    multiply_rows<1, 2>(y, 0, adds ? y : nullptr, x, 0, part.packed, table, part.scales, nullptr, part.rows, k);
}
