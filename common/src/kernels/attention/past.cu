// Row r of keys and of values [rows, columns] from columns of rows `stride` elements apart.
// Grid (rows, 2).
extern "C" __global__ void copy_columns(float16* keys, float16* values, const float16* from_keys, const float16* from_values,
                                        int stride, int columns) {
    float16* to = (blockIdx.y == 0 ? keys : values) + (int64)blockIdx.x * columns;
    const float16* from = (blockIdx.y == 0 ? from_keys : from_values) + (int64)blockIdx.x * stride;
    for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}

// The keys and values of the new tokens of sequences, after those of their pasts, which have room for them.
// Grid (most tokens of a sequence, sequences, 2).
extern "C" __global__ void remember_tokens(
    const float16* qkv,  // [T, (H + 2K)·D]
    const __grid_constant__ Sequences sequences,
    int heads,           // H
    int key_heads) {     // K
    const Continued& sequence = sequences.all[blockIdx.y];
    const int token = blockIdx.x, columns = key_heads * HEAD_SIZE;
    if (token >= sequence.tokens) return;
    const float16* row = qkv + (int64)(sequence.first + token) * (heads + 2 * key_heads) * HEAD_SIZE;
    const float16* from = row + (heads + blockIdx.z * key_heads) * HEAD_SIZE;
    float16* to = (blockIdx.z == 0 ? sequence.keys : sequence.values) + (int64)(sequence.past + token) * columns;
    for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}
