// h = silu(gate) * up for gate_up [T, 2F], whose rows hold gate then up. Grid (F / 8 / threads, T).
extern "C" __global__ void swiglu_forward(bf16* h, const bf16* gate_up, int f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    const bf16* row = gate_up + (int64)blockIdx.y * 2 * f;
    Eight gate = load_eight(row + i), up = load_eight(row + f + i);
    for (int j = 0; j < 8; j++) up.values[j] *= gate.values[j] / (1.0f + __expf(-gate.values[j]));
    store_eight(h + (int64)blockIdx.y * f + i, up);
}

// dgate = dh * up * (sigmoid + silu * (1 - sigmoid)), dup = dh * silu.
extern "C" __global__ void swiglu_backward(bf16* dgate_up, const bf16* dh, const bf16* gate_up, int f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    int64 row = (int64)blockIdx.y * 2 * f;
    Eight gate = load_eight(gate_up + row + i), up = load_eight(gate_up + row + f + i);
    Eight d = load_eight(dh + (int64)blockIdx.y * f + i);
    for (int j = 0; j < 8; j++) {
        float sigmoid = 1.0f / (1.0f + __expf(-gate.values[j]));
        float silu = gate.values[j] * sigmoid;
        float dgate = d.values[j] * up.values[j] * (sigmoid + silu * (1.0f - sigmoid));
        up.values[j] = d.values[j] * silu;
        gate.values[j] = dgate;
    }
    store_eight(dgate_up + row + i, gate);
    store_eight(dgate_up + row + f + i, up);
}
