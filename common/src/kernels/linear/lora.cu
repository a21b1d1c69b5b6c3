// The 16-bit copies of a stack's adapters that its products read. `rows` is the sum of the ranks, padded
// to a multiple of 8 with zeros.

// a[rows, K] from the stacked A's [ranks, K].
extern "C" __global__ void cast_a(float16* a, const float* parameters, int64 filled, int64 len) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) a[i] = i < filled ? to_float16(parameters[i]) : 0;
}

// Rows [N] of b [sum of N, rows] from one B [N, rank]: scale * B in columns first_rank .., zero in the
// others, so that one product multiplies the whole stack.
extern "C" __global__ void place_b(float16* b, const float* parameters, int n, int rank, int first_rank, int rows,
                                   float scale) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64)n * rows) return;
    int row = i / rows, column = i % rows - first_rank;
    b[i] = column >= 0 && column < rank ? to_float16(scale * parameters[(int64)row * rank + column]) : 0;
}
