// weights[t] = sigmoid(logits[t])
extern "C" __global__ void sigmoid_forward(float* weights, const float16* logits, int tokens) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < tokens) weights[t] = 1.0f / (1.0f + __expf(-to_float(logits[t])));
}

// dlogits[t] = dweights[t] * sigmoid'(logits[t])
extern "C" __global__ void sigmoid_backward(float16* dlogits, const float* dweights, const float* weights, int tokens) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < tokens) dlogits[t] = to_float16(dweights[t] * weights[t] * (1.0f - weights[t]));
}
