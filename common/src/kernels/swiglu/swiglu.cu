__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// h = silu(gate) * up for gate_up [T, 2F], whose rows hold gate then up. Grid (T * blocks):
// `blocks` neighbouring blocks take a row.
extern "C" __global__ void swiglu_forward(float16* h, const float16* gate_up, int f, int blocks) {
    int t = blockIdx.x / blocks, i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    const float16* row = gate_up + (int64)t * 2 * f;
    Eight gate = load_eight(row + i), up = load_eight(row + f + i);
    for (int j = 0; j < 8; j++) up.values[j] *= gate.values[j] * sigmoid(gate.values[j]);
    store_eight(h + (int64)t * f + i, up);
}

// dgate = dh * up * (sigmoid + silu * (1 - sigmoid)), dup = dh * silu, and h = silu * up once more. The
// outputs may be written over the inputs: dgate_up over gate_up, h over dh. Grid (T * blocks).
extern "C" __global__ void swiglu_backward(float16* dgate_up, float16* h, const float16* dh, const float16* gate_up, int f,
                                           int blocks) {
    int t = blockIdx.x / blocks, i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    int64 row = (int64)t * 2 * f;
    Eight gate = load_eight(gate_up + row + i), up = load_eight(gate_up + row + f + i);
    Eight d = load_eight(dh + (int64)t * f + i);
    for (int j = 0; j < 8; j++) {
        float s = sigmoid(gate.values[j]), silu = gate.values[j] * s;
        float dgate = d.values[j] * up.values[j] * (s + silu * (1.0f - s));
        float hidden = up.values[j] * silu;
        up.values[j] = d.values[j] * silu;
        gate.values[j] = dgate;
        d.values[j] = hidden;
    }
    store_eight(h + (int64)t * f + i, d);
    store_eight(dgate_up + row + i, gate);
    store_eight(dgate_up + row + f + i, up);
}
