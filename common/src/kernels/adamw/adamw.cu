// One step of AdamW with torch's arithmetic, as adamw/cpu.rs has it.
extern "C" __global__ void adamw_step(float* parameters, const float* gradients, float* first, float* second,
                                      int64 len, float scale, float beta1, float beta2, float epsilon, float decay,
                                      float step_size, float root_correction) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (int64)gridDim.x * blockDim.x) {
        float gradient = gradients[i] * scale;
        first[i] = first[i] * beta1 + gradient * (1.0f - beta1);
        second[i] = second[i] * beta2 + gradient * gradient * (1.0f - beta2);
        float denominator = sqrtf(second[i]) / root_correction + epsilon;
        parameters[i] = parameters[i] * decay - step_size * (first[i] / denominator);
    }
}

// sums[block] = the sum of squares of a block's share, in f64 and in a fixed order.
extern "C" __global__ void sum_of_squares(double* sums, const float* values, int64 len) {
    __shared__ double partial[256];
    double sum = 0.0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (int64)gridDim.x * blockDim.x)
        sum += (double)values[i] * values[i];
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];
}
