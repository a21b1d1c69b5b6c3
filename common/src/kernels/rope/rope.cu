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

// Copies what is not rotated of a row: the elements of each head after the first 2 * half, and the columns after
// the heads.
__device__ __forceinline__ void copy_rest(float16* y, const float16* x, int half, int heads, int size, int width) {
    int rest = size / 2 - half;
    for (int i = threadIdx.x; i < heads * rest; i += blockDim.x) {
        int column = i / rest * size + 2 * half + i % rest * 2;
        *reinterpret_cast<unsigned*>(y + column) = *reinterpret_cast<const unsigned*>(x + column);
    }
    for (int i = heads * size + threadIdx.x * 2; i < width; i += blockDim.x * 2)
        *reinterpret_cast<unsigned*>(y + i) = *reinterpret_cast<const unsigned*>(x + i);
}

// Rotates the first 2 * half of the D elements of each head in rows [T, width], element d with element d + half.
// direction = 1 forward, -1 backward. Grid (T); a thread moves pairs of columns.
extern "C" __global__ void rope_rotate_halves(float16* y, const float16* x, const float* cosines, const float* sines, int half,
                                            int heads, int size, int width, float direction) {
    x += (int64)blockIdx.x * width;
    y += (int64)blockIdx.x * width;
    const float* c = cosines + (int64)blockIdx.x * half;
    const float* s = sines + (int64)blockIdx.x * half;
    for (int i = threadIdx.x; i < heads * half / 2; i += blockDim.x) {
        int d = i % (half / 2) * 2, first = i / (half / 2) * size + d;
        unsigned a = *reinterpret_cast<const unsigned*>(x + first);
        unsigned b = *reinterpret_cast<const unsigned*>(x + first + half);
        float s0 = s[d] * direction, s1 = s[d + 1] * direction;
        *reinterpret_cast<unsigned*>(y + first) = pack_float16(low_float(a) * c[d] - low_float(b) * s0,
                                                            high_float(a) * c[d + 1] - high_float(b) * s1);
        *reinterpret_cast<unsigned*>(y + first + half) = pack_float16(low_float(b) * c[d] + low_float(a) * s0,
                                                                   high_float(b) * c[d + 1] + high_float(a) * s1);
    }
    copy_rest(y, x, half, heads, size, width);
}

// The same, element 2d with element 2d + 1.
extern "C" __global__ void rope_rotate_neighbours(float16* y, const float16* x, const float* cosines, const float* sines,
                                                int half, int heads, int size, int width, float direction) {
    x += (int64)blockIdx.x * width;
    y += (int64)blockIdx.x * width;
    const float* c = cosines + (int64)blockIdx.x * half;
    const float* s = sines + (int64)blockIdx.x * half;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        int d = i % half, first = i / half * size + 2 * d;
        unsigned pair = *reinterpret_cast<const unsigned*>(x + first);
        float a = low_float(pair), b = high_float(pair), sine = s[d] * direction;
        *reinterpret_cast<unsigned*>(y + first) = pack_float16(a * c[d] - b * sine, b * c[d] + a * sine);
    }
    copy_rest(y, x, half, heads, size, width);
}
