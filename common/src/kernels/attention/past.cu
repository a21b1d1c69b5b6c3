// Row r of keys and of values [rows, columns] from columns of rows `stride` elements apart.
// Grid (rows, 2).
extern "C" __global__ void copy_columns(float16* keys, float16* values, const float16* from_keys, const float16* from_values,
                                        int stride, int columns) {
    float16* to = (blockIdx.y == 0 ? keys : values) + (int64)blockIdx.x * columns;
    const float16* from = (blockIdx.y == 0 ? from_keys : from_values) + (int64)blockIdx.x * stride;
    for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}
