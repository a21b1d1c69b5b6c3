// Row r of keys and of values [rows, columns] from columns of rows `stride` elements apart.
// Grid (rows, 2).
extern "C" __global__ void copy_columns(bf16* keys, bf16* values, const bf16* from_keys, const bf16* from_values,
                                        int stride, int columns) {
    bf16* to = (blockIdx.y == 0 ? keys : values) + (int64)blockIdx.x * columns;
    const bf16* from = (blockIdx.y == 0 ? from_keys : from_values) + (int64)blockIdx.x * stride;
    for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}
