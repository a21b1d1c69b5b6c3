// Cosines and sines [T, half] of the angles positions[t] * frequencies[d]. Full precision: positions
// reach the hundreds of thousands. Grid (T), `half` threads or fewer.
extern "C" __global__ void rope_angles(float* cosines, float* sines, const unsigned* positions, const float* frequencies,
                                       int half, float scale) {
    for (int d = threadIdx.x; d < half; d += blockDim.x) {
        float angle = (float)positions[blockIdx.x] * frequencies[d];
        float s, c;
        sincosf(angle, &s, &c);
        cosines[(int64)blockIdx.x * half + d] = c * scale;
        sines[(int64)blockIdx.x * half + d] = s * scale;
    }
}

// Rotates the heads of 2 * half columns in the first `columns` columns of rows [T, width]; the others
// are copied. direction = 1 forward, -1 backward. Grid (T); a thread moves pairs of columns.
extern "C" __global__ void rope_rotate(float16* y, const float16* x, const float* cosines, const float* sines, int half,
                                     int columns, int width, float direction) {
    int64 row = (int64)blockIdx.x * width;
    const float* c = cosines + (int64)blockIdx.x * half;
    const float* s = sines + (int64)blockIdx.x * half;
    for (int i = threadIdx.x; i < columns / 4; i += blockDim.x) {
        int head = i / (half / 2), d = i % (half / 2) * 2;
        int64 first = row + (int64)head * 2 * half + d;
        unsigned a = *reinterpret_cast<const unsigned*>(x + first);
        unsigned b = *reinterpret_cast<const unsigned*>(x + first + half);
        float s0 = s[d] * direction, s1 = s[d + 1] * direction;
        *reinterpret_cast<unsigned*>(y + first) = pack_float16(low_float(a) * c[d] - low_float(b) * s0,
                                                            high_float(a) * c[d + 1] - high_float(b) * s1);
        *reinterpret_cast<unsigned*>(y + first + half) = pack_float16(low_float(b) * c[d] + low_float(a) * s0,
                                                                   high_float(b) * c[d + 1] + high_float(a) * s1);
    }
    for (int i = columns + threadIdx.x * 2; i < width; i += blockDim.x * 2)
        *reinterpret_cast<unsigned*>(y + row + i) = *reinterpret_cast<const unsigned*>(x + row + i);
}
