// Columns that a product takes at a time.
constexpr int STEP_COLUMNS = 16, STEPS = PANEL_COLUMNS / STEP_COLUMNS;
// Rows of a tile, as ../routing/cuda.rs has it.
constexpr int TILE_ROWS = 128;

// Rows of one expert: slots first .. first + count.
struct RowTile {
    int expert, first, count;
};

__device__ __forceinline__ RowTile row_tile_of(const int4* tiles, int number) {
    const int4 tile = tiles[number];
    return {tile.x, tile.y, tile.z};
}

// The factors of a product with the weights of experts, and how their common dimension is cut into panels: first the
// columns of x, then the ranks of an adapter, so that both are one sum.
//
// A weight of an expert lies as [N, K], and an adapter's beside it as [N, R]; where the product is TRANSPOSED they lie
// as [K, N] and [R, N]. K, N and R are multiples of PIECE_COLUMNS.
struct Factors {
    const float16* x;           // [rows, K], null where K is 0
    const float16* weights;     // [E, N, K] or [E, K, N]
    const float16* hidden;      // [S, R], null where R is 0
    const float16* adapters;    // [E, N, R] or [E, R, N]
    const unsigned* tokens;     // [S], or null where the rows of x are slots
    int x_columns;              // K
    int ranks;                  // R
    int columns;                // N

    __device__ __forceinline__ int x_panels() const { return (x_columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS; }
    __device__ __forceinline__ int panels() const { return x_panels() + (ranks + PANEL_COLUMNS - 1) / PANEL_COLUMNS; }

    // Steps of a panel that are not zeros throughout.
    __device__ __forceinline__ int steps(int panel) const {
        const int of_x = x_panels();
        const int left = panel < of_x ? x_columns - panel * PANEL_COLUMNS : ranks - (panel - of_x) * PANEL_COLUMNS;
        return min((left + STEP_COLUMNS - 1) / STEP_COLUMNS, STEPS);
    }
};

// Copies the panels of a tile of rows and of COLUMNS columns of the weights.
template <int COLUMNS, int COPIERS, bool TRANSPOSED>
struct FactorCopier {
    using Left = Copier<TILE_ROWS, COPIERS>;
    using Right = Copier<TRANSPOSED ? PANEL_COLUMNS : COLUMNS, COPIERS>;
    static constexpr int LEFT_BYTES = TILE_ROWS * PANEL_ROW_BYTES, RIGHT_BYTES = COLUMNS * PANEL_ROW_BYTES;

    const Factors& factors;
    Left left;
    Right right;
    RowTile tile;
    int first_column;
    int rows[Left::COUNT];

    __device__ __forceinline__ FactorCopier(const Factors& factors, int thread) : factors(factors), left(thread), right(thread) {}

    __device__ __forceinline__ void begin(RowTile of, int column) {
        tile = of;
        first_column = column;
        left.find_rows(rows, factors.tokens, of.first, of.count);
    }

    // Starts copying a panel: [TILE_ROWS, 64] of the left side, then of the right side [COLUMNS, 64], or
    // COLUMNS / 64 times [64, 64] where it is transposed.
    __device__ __forceinline__ void copy(unsigned to, int panel) const {
        const int of_x = factors.x_panels();
        if (panel < of_x) {
            const int first = panel * PANEL_COLUMNS;
            left.copy(to, factors.x + first, factors.x_columns, rows, factors.x_columns - first);
            copy_right(to + LEFT_BYTES, factors.weights, factors.x_columns, first);
        } else {
            const int first = (panel - of_x) * PANEL_COLUMNS;
            left.copy(to, factors.hidden + (int64)tile.first * factors.ranks + first, factors.ranks, tile.count,
                      factors.ranks - first);
            copy_right(to + LEFT_BYTES, factors.adapters, factors.ranks, first);
        }
    }

    // `depth` is K or R.
    __device__ __forceinline__ void copy_right(unsigned to, const float16* of_experts, int depth, int first) const {
        const float16* from = of_experts + (int64)tile.expert * factors.columns * depth;
        const int columns = factors.columns - first_column;
        if (!TRANSPOSED) {
            right.copy(to, from + (int64)first_column * depth + first, depth, columns, depth - first);
            return;
        }
        from += (int64)first * factors.columns + first_column;
#pragma unroll
        for (int column = 0; column < COLUMNS; column += PANEL_COLUMNS)
            right.copy(to + column * PANEL_ROW_BYTES, from + column, factors.columns, depth - first, columns - column);
    }
};
