// Four random numbers from a counter: Philox4x32-10, as philox.rs has it.
__device__ __forceinline__ uint4 philox(uint4 words, unsigned key_low, unsigned key_high) {
    for (int round = 0; round < 10; round++) {
        unsigned first = __umulhi(0xd2511f53u, words.x), second = __umulhi(0xcd9e8d57u, words.z);
        words = make_uint4(second ^ words.y ^ key_low, 0xcd9e8d57u * words.z,
                           first ^ words.w ^ key_high, 0xd2511f53u * words.x);
        key_low += 0x9e3779b9u;
        key_high += 0xbb67ae85u;
    }
    return words;
}

// y = mask * x * scale for x [T, C], or y += that where `adds` is set. An element is dropped where its
// number is below `threshold`. Grid (T * blocks): `blocks` neighbouring blocks take a row.
extern "C" __global__ void dropout(float16* y, const float16* x, int columns, int blocks, unsigned first_row,
                                   unsigned stream, unsigned step, unsigned key_low, unsigned key_high,
                                   unsigned threshold, float scale, int adds) {
    unsigned t = blockIdx.x / blocks;
    int i = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (i >= columns) return;
    unsigned row = first_row + t, group = i / 4;
    uint4 low = philox(make_uint4(group, row, stream, step), key_low, key_high);
    uint4 high = philox(make_uint4(group + 1, row, stream, step), key_low, key_high);
    unsigned numbers[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    int64 place = (int64)t * columns + i;
    Eight from = load_eight(x + place), to = {};
    if (adds) to = load_eight(y + place);
    for (int j = 0; j < 8; j++) to.values[j] += numbers[j] < threshold ? 0.0f : from.values[j] * scale;
    store_eight(y + place, to);
}
