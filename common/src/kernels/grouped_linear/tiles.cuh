// Tiles of matrices in shared memory, and the rows of a mixture's experts that they are made of.
//
// A panel is [rows, 64] in 128 bytes a row, and begins at a multiple of 1024 bytes. In a row, the 16 bytes of columns
// 8c .. 8c + 8 are at place c ^ (row % 8), so that eight rows of one column lie in different banks: the "128-byte
// swizzle" of Hopper's tensor cores, which serves mma.sync as well. A tile of more columns is panels one after the
// other.

constexpr int PANEL_COLUMNS = 64;
constexpr int PANEL_ROW_BYTES = 128;
// Pieces of 16 bytes, which are copied at a time.
constexpr int PIECE_COLUMNS = 8, PIECES = PANEL_COLUMNS / PIECE_COLUMNS;

// The byte of a panel at which a piece of a row begins.
__device__ __forceinline__ unsigned place_of(int row, int piece) {
    return row * PANEL_ROW_BYTES + (piece ^ row % 8) * 16;
}

// The row of a matrix that belongs to a slot: that of its token where `tokens` is given.
__device__ __forceinline__ int row_of(const unsigned* tokens, int slot) { return tokens ? (int)tokens[slot] : slot; }

// What one of COPIERS threads copies of panels of ROWS rows: one piece of every AT_ONCE-th row.
template <int ROWS, int COPIERS>
struct Copier {
    static constexpr int AT_ONCE = COPIERS / PIECES, COUNT = ROWS / AT_ONCE;
    static_assert(AT_ONCE % 8 == 0 && ROWS % AT_ONCE == 0, "a thread copies to one place of its rows");

    int row, piece;
    unsigned to;  // the byte of a panel that the first goes to

    __device__ __forceinline__ explicit Copier(int thread) : row(thread / PIECES), piece(thread % PIECES), to(place_of(row, piece)) {}

    // Starts copying a panel of rows that are `stride` numbers apart; those from `rows` on, and pieces of columns from
    // `columns` on, are zeros.
    __device__ __forceinline__ void copy(unsigned panel, const float16* from, int stride, int rows, int columns) const {
        from += (int64)row * stride + piece * PIECE_COLUMNS;
        const bool is_column = piece * PIECE_COLUMNS < columns;
#pragma unroll
        for (int i = 0; i < COUNT; ++i, from += (int64)AT_ONCE * stride)
            copy_16_bytes(panel + to + i * AT_ONCE * PANEL_ROW_BYTES, from, is_column && row + i * AT_ONCE < rows);
    }

    // The rows of a matrix that belong to the slots of a tile; -1 where it has no slot.
    __device__ __forceinline__ void find_rows(int (&rows)[COUNT], const unsigned* tokens, int first, int count) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int slot = row + i * AT_ONCE;
            rows[i] = slot < count ? row_of(tokens, first + slot) : -1;
        }
    }

    // Starts copying a panel of rows that were found.
    __device__ __forceinline__ void copy(unsigned panel, const float16* from, int stride, const int (&rows)[COUNT],
                                         int columns) const {
        from += piece * PIECE_COLUMNS;
        const bool is_column = piece * PIECE_COLUMNS < columns;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            copy_16_bytes(panel + to + i * AT_ONCE * PANEL_ROW_BYTES, from + (int64)max(rows[i], 0) * stride,
                          is_column && rows[i] >= 0);
    }
};

// Stores four neighbouring pieces of C as 32 numbers of row g (half 0) or g + 8 (half 1), of which the first `columns`
// exist. The four lanes that hold a row exchange parts, so that each stores 16 bytes. All lanes of a warp call it.
__device__ __forceinline__ void store_pieces(float16* row, const float (&c)[4][4], int half, bool has_row, int columns) {
    const int lane = threadIdx.x % 4;
    unsigned parts[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) parts[n] = pack_float16(c[n][2 * half], c[n][2 * half + 1]);
    // Lane t ends with what the four lanes hold of piece t, in their order.
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, lane & 1 ? parts[n] : parts[n + 1], 1);
        if (lane & 1)
            parts[n] = got;
        else
            parts[n + 1] = got;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, lane & 2 ? parts[n] : parts[n + 2], 2);
        if (lane & 2)
            parts[n] = got;
        else
            parts[n + 2] = got;
    }
    if (has_row && lane * PIECE_COLUMNS < columns)
        *reinterpret_cast<uint4*>(row + lane * PIECE_COLUMNS) = make_uint4(parts[0], parts[1], parts[2], parts[3]);
}
