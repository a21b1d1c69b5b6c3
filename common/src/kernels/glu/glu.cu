__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// An activation and its slope.
struct Activated {
    float value, slope;
};

// x * sigmoid(x)
struct Silu {
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(x); }
    static __device__ __forceinline__ Activated both(float x) {
        float s = sigmoid(x), silu = x * s;
        return {silu, s + silu * (1.0f - s)};
    }
};

// x * (1 + tanh(inner)) / 2 = x * sigmoid(2 * inner), inner = sqrt(2 / pi) * (x + 0.044715 * x^3)
struct GeluTanh {
    static constexpr float ROOT = 0.79788456f, CUBIC = 0.044715f;
    static __device__ __forceinline__ float gate(float x) { return sigmoid(2.0f * ROOT * (x + CUBIC * x * x * x)); }
    static __device__ __forceinline__ float value(float x) { return x * gate(x); }
    static __device__ __forceinline__ Activated both(float x) {
        float s = gate(x), gelu = x * s;
        return {gelu, s + 2.0f * gelu * (1.0f - s) * ROOT * (1.0f + 3.0f * CUBIC * x * x)};
    }
};

template <typename Activation>
__device__ __forceinline__ void forward(float16* h, const float16* gate_up, int f, int blocks) {
    int t = blockIdx.x / blocks, i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    const float16* row = gate_up + (int64)t * 2 * f;
    Eight gate = load_eight(row + i), up = load_eight(row + f + i);
    for (int j = 0; j < 8; j++) up.values[j] *= Activation::value(gate.values[j]);
    store_eight(h + (int64)t * f + i, up);
}

template <typename Activation>
__device__ __forceinline__ void backward(float16* dgate_up, float16* h, const float16* dh, const float16* gate_up, int f,
                                         int blocks) {
    int t = blockIdx.x / blocks, i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    int64 row = (int64)t * 2 * f;
    Eight gate = load_eight(gate_up + row + i), up = load_eight(gate_up + row + f + i);
    Eight d = load_eight(dh + (int64)t * f + i);
    for (int j = 0; j < 8; j++) {
        Activated activated = Activation::both(gate.values[j]);
        float dgate = d.values[j] * up.values[j] * activated.slope;
        float hidden = up.values[j] * activated.value;
        up.values[j] = d.values[j] * activated.value;
        gate.values[j] = dgate;
        d.values[j] = hidden;
    }
    store_eight(h + (int64)t * f + i, d);
    store_eight(dgate_up + row + i, gate);
    store_eight(dgate_up + row + f + i, up);
}

// h = activation(gate) * up for gate_up [T, 2F], whose rows hold gate then up. Grid (T * blocks): `blocks`
// neighbouring blocks take a row.
extern "C" __global__ void swiglu_forward(float16* h, const float16* gate_up, int f, int blocks) {
    forward<Silu>(h, gate_up, f, blocks);
}

extern "C" __global__ void geglu_forward(float16* h, const float16* gate_up, int f, int blocks) {
    forward<GeluTanh>(h, gate_up, f, blocks);
}

// dgate = dh * up * slope, dup = dh * activation, and h = activation * up once more. The outputs may be written
// over the inputs: dgate_up over gate_up, h over dh. Grid (T * blocks).
extern "C" __global__ void swiglu_backward(float16* dgate_up, float16* h, const float16* dh, const float16* gate_up, int f,
                                           int blocks) {
    backward<Silu>(dgate_up, h, dh, gate_up, f, blocks);
}

extern "C" __global__ void geglu_backward(float16* dgate_up, float16* h, const float16* dh, const float16* gate_up, int f,
                                          int blocks) {
    backward<GeluTanh>(dgate_up, h, dh, gate_up, f, blocks);
}

// The same for the experts of a mixture: h = weight · activation(gate) · up with a weight for each row.
template <typename Activation>
__device__ __forceinline__ void forward_weighted(float16* h, const float16* gate_up, const float* weights, int f, int blocks) {
    int t = blockIdx.x / blocks, i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    const float16* row = gate_up + (int64)t * 2 * f;
    const float weight = weights[t];
    Eight gate = load_eight(row + i), up = load_eight(row + f + i);
    // In the order of the backward, which computes the same bits again.
    for (int j = 0; j < 8; j++) up.values[j] = weight * (up.values[j] * Activation::value(gate.values[j]));
    store_eight(h + (int64)t * f + i, up);
}

template <typename Activation>
__device__ __forceinline__ void backward_weighted(float16* dgate_up, float16* h, float* dweights, const float16* dh,
                                                  const float16* gate_up, const float* weights, int f) {
    const int64 t = blockIdx.x, row = t * 2 * f;
    const float weight = weights[t];
    float dweight = 0.0f;
    for (int i = threadIdx.x * 8; i < f; i += blockDim.x * 8) {
        Eight gate = load_eight(gate_up + row + i), up = load_eight(gate_up + row + f + i), d = load_eight(dh + t * f + i);
        for (int j = 0; j < 8; j++) {
            Activated activated = Activation::both(gate.values[j]);
            float hidden = up.values[j] * activated.value, dhidden = weight * d.values[j];
            dweight = fmaf(d.values[j], hidden, dweight);
            gate.values[j] = dhidden * up.values[j] * activated.slope;
            up.values[j] = dhidden * activated.value;
            d.values[j] = weight * hidden;
        }
        store_eight(h + t * f + i, d);
        store_eight(dgate_up + row + i, gate);
        store_eight(dgate_up + row + f + i, up);
    }
    dweight = block_sum(dweight);
    if (threadIdx.x == 0) dweights[t] = dweight;
}

// Grid (T * blocks), as without weights.
extern "C" __global__ void swiglu_forward_weighted(float16* h, const float16* gate_up, const float* weights, int f, int blocks) {
    forward_weighted<Silu>(h, gate_up, weights, f, blocks);
}

extern "C" __global__ void geglu_forward_weighted(float16* h, const float16* gate_up, const float* weights, int f, int blocks) {
    forward_weighted<GeluTanh>(h, gate_up, weights, f, blocks);
}

// dweight = the sum of dh * activation(gate) * up over a row; the other outputs may be written over the inputs as
// without weights. Grid (T).
extern "C" __global__ void swiglu_backward_weighted(float16* dgate_up, float16* h, float* dweights, const float16* dh,
                                                    const float16* gate_up, const float* weights, int f) {
    backward_weighted<Silu>(dgate_up, h, dweights, dh, gate_up, weights, f);
}

extern "C" __global__ void geglu_backward_weighted(float16* dgate_up, float16* h, float* dweights, const float16* dh,
                                                   const float16* gate_up, const float* weights, int f) {
    backward_weighted<GeluTanh>(dgate_up, h, dweights, dh, gate_up, weights, f);
}
