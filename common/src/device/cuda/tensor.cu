// y = a + b, elementwise.
extern "C" __global__ void add(float16* y, const float16* a, const float16* b, int64 len) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= len) {
        Eight v = load_eight(a + i), w = load_eight(b + i);
        for (int j = 0; j < 8; j++) v.values[j] += w.values[j];
        store_eight(y + i, v);
    } else {
        for (; i < len; i++) y[i] = to_float16(to_float(a[i]) + to_float(b[i]));
    }
}

// y = factor * x, elementwise.
extern "C" __global__ void scale(float16* y, const float16* x, float factor, int64 len) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= len) {
        Eight v = load_eight(x + i);
        for (int j = 0; j < 8; j++) v.values[j] *= factor;
        store_eight(y + i, v);
    } else {
        for (; i < len; i++) y[i] = to_float16(to_float(x[i]) * factor);
    }
}

// Row i of y [n, C] is row indices[i] of x. Grid (n).
extern "C" __global__ void gather_rows(float16* y, const float16* x, const unsigned* indices, int c) {
    y += (int64)blockIdx.x * c;
    x += (int64)indices[blockIdx.x] * c;
    for (int i = threadIdx.x; i < c; i += blockDim.x) y[i] = x[i];
}

// Row indices[i] of y is row i of x [n, C]; the indices differ. Grid (n).
extern "C" __global__ void scatter_rows(float16* y, const float16* x, const unsigned* indices, int c) {
    x += (int64)blockIdx.x * c;
    y += (int64)indices[blockIdx.x] * c;
    for (int i = threadIdx.x; i < c; i += blockDim.x) y[i] = x[i];
}

// y[len] in f32 from x[len].
extern "C" __global__ void cast_to_f32(float* y, const float16* x, int64 len) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) y[i] = to_float(x[i]);
}
