// losses[n] = -log softmax(logits)[target] for rows of logits [n, V]; one block a row. Where there are
// weights [n], the logits are overwritten with their gradients: weight * (softmax - one_hot).
extern "C" __global__ void cross_entropy(float* losses, float16* logits, const int* targets, int vocabulary,
                                         const float* weights) {
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
        for (int j = 0; j < 8; j++) take(v.values[j]);
    }
    for (int i = whole + threadIdx.x; i < vocabulary; i += blockDim.x) take(to_float(row[i]));
    float target = to_float(row[targets[blockIdx.x]]);
    float maximum = block_max(largest);
    // A thread that saw nothing has sum 0 and largest -inf.
    sum = block_sum(sum == 0.0f ? 0.0f : sum * __expf(largest - maximum));
    if (threadIdx.x == 0) losses[blockIdx.x] = maximum + logf(sum) - target;
    if (weights == nullptr) return;
    const float weight = weights[blockIdx.x], factor = weight / sum;
    for (int i = threadIdx.x * 8; i < whole; i += blockDim.x * 8) {
        Eight v = load_eight(row + i);
        for (int j = 0; j < 8; j++)
            v.values[j] = __expf(v.values[j] - maximum) * factor - (i + j == targets[blockIdx.x] ? weight : 0.0f);
        store_eight(row + i, v);
    }
    for (int i = whole + threadIdx.x; i < vocabulary; i += blockDim.x)
        row[i] = to_float16(__expf(to_float(row[i]) - maximum) * factor - (i == targets[blockIdx.x] ? weight : 0.0f));
}
