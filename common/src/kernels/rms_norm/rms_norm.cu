// y = x / rms(x) * weight over rows [rows, C]; one block a row. The row is read once from memory and
// a second time from the cache.
extern "C" __global__ void rms_norm_forward(float16* y, const float16* x, const float* weight, int c, float epsilon) {
    x += (int64)blockIdx.x * c;
    y += (int64)blockIdx.x * c;
    float squares = 0.0f;
    for (int i = threadIdx.x * 8; i < c; i += blockDim.x * 8) {
        Eight v = load_eight(x + i);
        for (int j = 0; j < 8; j++) squares += v.values[j] * v.values[j];
    }
    float scale = rsqrtf(block_sum(squares) / c + epsilon);
    for (int i = threadIdx.x * 8; i < c; i += blockDim.x * 8) {
        Eight v = load_eight(x + i);
        for (int j = 0; j < 8; j++) v.values[j] *= scale * weight[i + j];
        store_eight(y + i, v);
    }
}

// dx = scale * (dy * weight - x * scale^2 * mean(dy * weight * x)), with scale = 1 / rms(x), plus
// `residual` where it is not null: the gradient that goes around the norm. And y once more.
extern "C" __global__ void rms_norm_backward(float16* dx, float16* y, const float16* dy, const float16* x, const float* weight,
                                             const float16* residual, int c, float epsilon) {
    int64 row = (int64)blockIdx.x * c;
    float squares = 0.0f, product = 0.0f;
    for (int i = threadIdx.x * 8; i < c; i += blockDim.x * 8) {
        Eight v = load_eight(x + row + i), d = load_eight(dy + row + i);
        for (int j = 0; j < 8; j++) {
            squares += v.values[j] * v.values[j];
            product += d.values[j] * weight[i + j] * v.values[j];
        }
    }
    squares = block_sum(squares);
    product = block_sum(product);
    float scale = rsqrtf(squares / c + epsilon);
    float along = scale * scale * product / c;
    for (int i = threadIdx.x * 8; i < c; i += blockDim.x * 8) {
        Eight v = load_eight(x + row + i), d = load_eight(dy + row + i), r = {};
        if (residual) r = load_eight(residual + row + i);
        for (int j = 0; j < 8; j++) {
            r.values[j] += scale * (d.values[j] * weight[i + j] - v.values[j] * along);
            v.values[j] *= scale * weight[i + j];
        }
        store_eight(dx + row + i, r);
        store_eight(y + row + i, v);
    }
}

// As rms_norm_forward for each head of D columns of rows [T, width]: head h is normalized by
// weights[h, D]; the columns after the first `heads` heads are copied. Grid (T, width / D), one warp.
extern "C" __global__ void rms_norm_heads_forward(float16* y, const float16* x, const float* weights, int heads, int d,
                                                  int width, float epsilon) {
    int64 at = (int64)blockIdx.x * width + (int64)blockIdx.y * d;
    bool copied = blockIdx.y >= heads;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < d; i += 32) squares += to_float(x[at + i]) * to_float(x[at + i]);
    float scale = rsqrtf(warp_sum(squares) / d + epsilon);
    for (int i = threadIdx.x; i < d; i += 32) {
        float v = to_float(x[at + i]);
        y[at + i] = to_float16(copied ? v : v * scale * weights[blockIdx.y * d + i]);
    }
}

extern "C" __global__ void rms_norm_heads_backward(float16* dx, const float16* dy, const float16* x, const float* weights,
                                                   int heads, int d, int width, float epsilon) {
    int64 at = (int64)blockIdx.x * width + (int64)blockIdx.y * d;
    bool copied = blockIdx.y >= heads;
    const float* weight = weights + (copied ? 0 : blockIdx.y * d);
    float squares = 0.0f, product = 0.0f;
    for (int i = threadIdx.x; i < d; i += 32) {
        float v = to_float(x[at + i]);
        squares += v * v;
        product += to_float(dy[at + i]) * weight[i] * v;
    }
    float scale = rsqrtf(warp_sum(squares) / d + epsilon);
    float along = scale * scale * warp_sum(product) / d;
    for (int i = threadIdx.x; i < d; i += 32) {
        float g = to_float(dy[at + i]);
        dx[at + i] = to_float16(copied ? g : scale * (g * weight[i] - to_float(x[at + i]) * along));
    }
}
