// Row r of to [rows, columns] from columns of rows `stride` elements apart. Grid (rows).
extern "C" __global__ void copy_columns(bf16* to, const bf16* from, int stride, int columns) {
    to += (int64)blockIdx.x * columns;
    from += (int64)blockIdx.x * stride;
    for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}
