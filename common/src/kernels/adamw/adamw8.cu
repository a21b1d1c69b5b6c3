// One step of AdamW with moments in 8 bits, as adamw/cpu.rs has it and to the bit: no product and sum
// are contracted into a fused one. Codes and absmax are laid out as in adamw/quantized.rs.

// How many of the 255 thresholds lie below the value.
__device__ __forceinline__ int nearest(const float* thresholds, float value) {
    int code = 0;
#pragma unroll
    for (int half = 128; half > 0; half /= 2)
        if (thresholds[code + half - 1] < value) code += half;
    return code;
}

// value * beta + added * (1 - beta)
__device__ __forceinline__ float decayed(float value, float beta, float added) {
    return __fadd_rn(__fmul_rn(value, beta), __fmul_rn(added, 1.0f - beta));
}

// A block of 256 threads takes a block of 256 moments at a time. maps [4, 256]: values and thresholds
// of the signed map, then of the unsigned one.
extern "C" __global__ void __launch_bounds__(256) adamw8_step(
    float* parameters, const float* gradients, uint8* first_codes, float* first_absmax, uint8* second_codes,
    float* second_absmax, const float* maps, int64 len, float scale, float beta1, float beta2, float epsilon,
    float decay, float step_size, float root_correction) {
    __shared__ float map[4][256];
    for (int row = 0; row < 4; row++) map[row][threadIdx.x] = maps[256 * row + threadIdx.x];
    __syncthreads();
    for (int64 block = blockIdx.x; block * 256 < len; block += gridDim.x) {
        int64 i = block * 256 + threadIdx.x;
        float first = 0.0f, second = 0.0f;
        if (i < len) {
            float gradient = gradients[i] * scale;
            first = decayed(map[0][first_codes[i]] * first_absmax[block], beta1, gradient);
            second = decayed(map[2][second_codes[i]] * second_absmax[block], beta2, gradient * gradient);
            float denominator = __fadd_rn(sqrtf(second) / root_correction, epsilon);
            parameters[i] = __fsub_rn(__fmul_rn(parameters[i], decay), __fmul_rn(step_size, first / denominator));
        }
        // After block_max every thread has read the old absmax.
        float first_most = block_max(fabsf(first)), second_most = block_max(fabsf(second));
        if (i < len) {
            const float least = 1.17549435e-38f;
            first_codes[i] = nearest(map[1], first / fmaxf(first_most, least));
            second_codes[i] = nearest(map[3], second / fmaxf(second_most, least));
        }
        if (threadIdx.x == 0) {
            first_absmax[block] = first_most;
            second_absmax[block] = second_most;
        }
    }
}
