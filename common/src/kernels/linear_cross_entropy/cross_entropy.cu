// losses[n] = -log softmax(logits)[target] for rows of logits [n, V]; one block a row. Where there are
// weights [n], the logits are overwritten with their gradients: weight * (softmax - one_hot).
// With a soft-cap c, the softmax is that of c * tanh(logits / c).
template <bool CAPPED>
__device__ __forceinline__ void losses_and_gradients(float* losses, float16* logits, const int* targets, int vocabulary,
                                                     const float* weights, float cap) {
    auto capped = [&](float v) { return CAPPED ? cap * tanhf(v / cap) : v; };
    auto slope = [&](float v) { return CAPPED ? 1.0f - v / cap * (v / cap) : 1.0f; };
    float16* row = logits + (int64)blockIdx.x * vocabulary;
    int whole = vocabulary % 8 == 0 ? vocabulary : 0;
    float largest = -__int_as_float(0x7f800000), sum = 0.0f;
    // NaN logits must reach the loss: fmaxf drops them, the sum keeps them.
    auto take = [&](float v) {
        if (v > largest) {
            sum *= __expf(largest - v);
            largest = v;
        }
        sum += __expf(v - largest);
    };
    for (int i = threadIdx.x * 8; i < whole; i += blockDim.x * 8) {
        Eight v = load_eight(row + i);
        for (int j = 0; j < 8; j++) take(capped(v.values[j]));
    }
    for (int i = whole + threadIdx.x; i < vocabulary; i += blockDim.x) take(capped(to_float(row[i])));
    float target = capped(to_float(row[targets[blockIdx.x]]));
    float maximum = block_max(largest);
    // A thread that saw nothing has sum 0 and largest -inf.
    sum = block_sum(sum == 0.0f ? 0.0f : sum * __expf(largest - maximum));
    if (threadIdx.x == 0) losses[blockIdx.x] = maximum + logf(sum) - target;
    if (weights == nullptr) return;
    const float weight = weights[blockIdx.x], factor = weight / sum;
    auto gradient = [&](float v, int i) {
        v = capped(v);
        return (__expf(v - maximum) * factor - (i == targets[blockIdx.x] ? weight : 0.0f)) * slope(v);
    };
    for (int i = threadIdx.x * 8; i < whole; i += blockDim.x * 8) {
        Eight v = load_eight(row + i);
        for (int j = 0; j < 8; j++) v.values[j] = gradient(v.values[j], i + j);
        store_eight(row + i, v);
    }
    for (int i = whole + threadIdx.x; i < vocabulary; i += blockDim.x) row[i] = to_float16(gradient(to_float(row[i]), i));
}

extern "C" __global__ void cross_entropy(float* losses, float16* logits, const int* targets, int vocabulary,
                                         const float* weights, float cap) {
    losses_and_gradients<false>(losses, logits, targets, vocabulary, weights, cap);
}

extern "C" __global__ void cross_entropy_of_capped(float* losses, float16* logits, const int* targets, int vocabulary,
                                                   const float* weights, float cap) {
    losses_and_gradients<true>(losses, logits, targets, vocabulary, weights, cap);
}
