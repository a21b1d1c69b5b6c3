// Which experts tokens go to, and the order of their slots: by expert, then by token. Blocks of TOKENS tokens count
// their choices, one block finds where each expert's slots and each block's begin, and the blocks hand the slots out.
// A thread does this for one expert by going through the choices in order, so that nothing depends on timing.

constexpr int TOKENS = 64, THREADS = 512;
constexpr int MOST_EXPERTS = 512, MOST_CHOSEN = 32;
constexpr int EXPERTS_OF_LANE = MOST_EXPERTS / 32;
static_assert(MOST_EXPERTS <= THREADS, "a thread for each expert");

// Softmax and choice for a row of logits, by a warp: the largest probabilities, of equal ones the first. Lane i gets
// choice i and its weight.
__device__ __forceinline__ void choose(float* row, int experts, int chosen, bool normalized, unsigned& expert, float& weight) {
    const int lane = threadIdx.x % 32;
    float p[EXPERTS_OF_LANE];
    float most = -__int_as_float(0x7f800000), sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EXPERTS_OF_LANE; ++i) {
        p[i] = lane + i * 32 < experts ? row[lane + i * 32] : -__int_as_float(0x7f800000);
        most = fmaxf(most, p[i]);
    }
    most = warp_max(most);
#pragma unroll
    for (int i = 0; i < EXPERTS_OF_LANE; ++i) {
        if (lane + i * 32 >= experts) continue;
        p[i] = expf(p[i] - most);
        sum += p[i];
    }
    sum = warp_sum(sum);
    // Bits order numbers that are not negative, with NaN above all. 0 is none.
    unsigned keys[EXPERTS_OF_LANE];
#pragma unroll
    for (int i = 0; i < EXPERTS_OF_LANE; ++i) {
        keys[i] = 0;
        if (lane + i * 32 >= experts) continue;
        p[i] /= sum;
        row[lane + i * 32] = p[i];
        keys[i] = (__float_as_uint(p[i]) & 0x7fffffffu) + 1;
    }
    float total = 0.0f;
    for (int choice = 0; choice < chosen; ++choice) {
        unsigned best = 0, first = MOST_EXPERTS;
#pragma unroll
        for (int i = 0; i < EXPERTS_OF_LANE; ++i)
            if (keys[i] > best) {
                best = keys[i];
                first = lane + i * 32;
            }
        const unsigned best_of_all = __reduce_max_sync(0xffffffffu, best);
        first = __reduce_min_sync(0xffffffffu, best == best_of_all ? first : MOST_EXPERTS);
#pragma unroll
        for (int i = 0; i < EXPERTS_OF_LANE; ++i)
            if (lane + i * 32 == first) keys[i] = 0;
        const float probability = __uint_as_float(best_of_all - 1);
        total += probability;
        if (lane != choice) continue;
        expert = first;
        weight = probability;
    }
    if (normalized) weight /= total;
}

// Calls `found` for each choice of an expert, in order.
template <typename Found>
__device__ __forceinline__ void for_choices(const unsigned* choices, int count, unsigned expert, const Found& found) {
    for (int i = 0; i < count; i += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(choices + i);
        if (four.x == expert) found(i);
        if (four.y == expert) found(i + 1);
        if (four.z == expert) found(i + 2);
        if (four.w == expert) found(i + 3);
    }
}

// Turns logits into probabilities. Grid (blocks of TOKENS tokens).
extern "C" __global__ void __launch_bounds__(THREADS) choose_experts(
    float* logits,         // [T, E]
    unsigned* choices,     // the experts of each token, [T, chosen]
    float* weights,        // and their weights
    unsigned* counts,      // how often the block chooses each expert, [blocks, E]
    int tokens,            // T
    int experts,           // E
    int chosen,
    int normalized) {
    __shared__ __align__(16) unsigned of_block[TOKENS * MOST_CHOSEN];
    const int lane = threadIdx.x % 32, first = blockIdx.x * TOKENS, count = min(tokens - first, TOKENS);
    for (int token = threadIdx.x / 32; token < TOKENS; token += THREADS / 32) {
        unsigned expert = MOST_EXPERTS;  // of tokens that are not there
        float weight = 0.0f;
        if (token < count) choose(logits + (int64)(first + token) * experts, experts, chosen, normalized, expert, weight);
        if (lane >= chosen) continue;
        of_block[token * chosen + lane] = expert;
        if (token >= count) continue;
        const int64 at = (int64)(first + token) * chosen + lane;
        choices[at] = expert;
        weights[at] = weight;
    }
    __syncthreads();
    if (threadIdx.x >= experts) return;
    unsigned found = 0;
    for_choices(of_block, TOKENS * chosen, threadIdx.x, [&](int) { ++found; });
    counts[(int64)blockIdx.x * experts + threadIdx.x] = found;
}

// The sum of the values of the threads before this one.
__device__ __forceinline__ unsigned sum_before(unsigned value) {
    __shared__ unsigned sums[THREADS];
    __syncthreads();
    sums[threadIdx.x] = value;
    for (int distance = 1; distance < THREADS; distance *= 2) {
        __syncthreads();
        const unsigned before = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
    }
    return sums[threadIdx.x] - value;
}

// One block.
extern "C" __global__ void __launch_bounds__(THREADS) start_experts(
    unsigned* starts,  // the first slot of each expert, the number of slots, and the number of tiles, [E + 2]
    int4* tiles,       // expert, first slot and number of slots of each tile
    unsigned* counts,  // turned into how many slots of an expert blocks before have, [blocks, E]
    int blocks, int experts, int tile_rows) {
    constexpr int AT_ONCE = 8;
    const int expert = threadIdx.x;
    unsigned total = 0;
    if (expert < experts)
        for (int block = 0; block < blocks; block += AT_ONCE) {
            unsigned found[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i)
                found[i] = block + i < blocks ? counts[(int64)(block + i) * experts + expert] : 0;
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                if (block + i < blocks) counts[(int64)(block + i) * experts + expert] = total;
                total += found[i];
            }
        }
    const unsigned own_tiles = (total + tile_rows - 1) / tile_rows;
    const unsigned start = sum_before(total), first_tile = sum_before(own_tiles);
    if (expert >= experts) return;
    starts[expert] = start;
    for (unsigned tile = 0; tile < own_tiles; ++tile) {
        const unsigned before = tile * tile_rows;
        tiles[first_tile + tile] = make_int4(expert, start + before, min(total - before, (unsigned)tile_rows), 0);
    }
    if (expert + 1 < experts) return;
    starts[experts] = start + total;
    starts[experts + 1] = first_tile + own_tiles;
}

// Grid (blocks of TOKENS tokens).
extern "C" __global__ void __launch_bounds__(THREADS) place_slots(
    unsigned* slots,               // of each choice, [T, chosen]
    unsigned* tokens_of_slots,     // [S]
    float* weights,                // of each slot, [S]
    const unsigned* choices,       // [T, chosen]
    const float* choice_weights,   // [T, chosen]
    const unsigned* counts,        // how many slots of an expert blocks before have, [blocks, E]
    const unsigned* starts,        // the first slot of each expert, [E]
    int tokens,                    // T
    int experts,                   // E
    int chosen) {
    __shared__ __align__(16) unsigned of_block[TOKENS * MOST_CHOSEN];
    const int64 first = (int64)blockIdx.x * TOKENS * chosen;
    const int count = min(tokens - (int)blockIdx.x * TOKENS, TOKENS) * chosen;
    for (int i = threadIdx.x; i < TOKENS * chosen; i += THREADS) of_block[i] = i < count ? choices[first + i] : MOST_EXPERTS;
    __syncthreads();
    if (threadIdx.x >= experts) return;
    unsigned next = starts[threadIdx.x] + counts[(int64)blockIdx.x * experts + threadIdx.x];
    for_choices(of_block, TOKENS * chosen, threadIdx.x, [&](int choice) {
        slots[first + choice] = next;
        tokens_of_slots[next] = blockIdx.x * TOKENS + choice / chosen;
        weights[next] = choice_weights[first + choice];
        ++next;
    });
}

// dlogits [T, E] from the gradients of the slots' weights [S], and those of the probabilities [E] of every token where
// the experts' balance counts (null where it does not). Grid (warps of all tokens).
extern "C" __global__ void __launch_bounds__(256) routing_backward(
    float16* dlogits, const float* dweights, const float* balance, const float* probabilities, const unsigned* slots,
    const unsigned* starts, int tokens, int experts, int chosen, int normalized) {
    const int token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    const float* row = probabilities + (int64)token * experts;
    int expert = MOST_EXPERTS;
    float p = 0.0f, dweight = 0.0f;
    if (lane < chosen) {
        const unsigned slot = slots[(int64)token * chosen + lane];
        expert = expert_of(starts, experts, slot);
        p = row[expert];
        dweight = dweights[slot];
    }
    // w = p / Σp, so dp = (dw - Σ w·dw) / Σp.
    float sum = 1.0f, shift = 0.0f;
    if (normalized) {
        sum = warp_sum(p);
        shift = warp_sum(p / sum * dweight);
    }
    const float dp = lane < chosen ? (dweight - shift) / sum : 0.0f;
    float mean = p * dp;
    if (balance)
        for (int own = lane; own < experts; own += 32) mean += row[own] * balance[own];
    mean = warp_sum(mean);
    for (int first = 0; first < experts; first += 32) {
        const int own = first + lane;
        float dchosen = 0.0f;
        for (int choice = 0; choice < chosen; ++choice) {
            const int other = __shfl_sync(0xffffffffu, expert, choice);
            const float dother = __shfl_sync(0xffffffffu, dp, choice);
            if (own == other) dchosen = dother;
        }
        if (own >= experts) continue;
        const float of_balance = balance ? balance[own] : 0.0f;
        dlogits[(int64)token * experts + own] = to_float16(row[own] * (dchosen + of_balance - mean));
    }
}

// y[t] = residual[t] + the sum of x[s] over the slots of token t, in the order of its choices, in f32 and rounded once.
// C is a multiple of 8. Grid (T * blocks): `blocks` neighbouring blocks take a row.
extern "C" __global__ void __launch_bounds__(256) sum_slots(
    float16* y, const float16* x, const unsigned* slots, const float16* residual, int chosen, int c, int blocks) {
    const int token = blockIdx.x / blocks, column = (blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
    if (column >= c) return;
    Eight sum = {};
    for (int choice = 0; choice < chosen; ++choice) {
        const Eight row = load_eight(x + (int64)slots[(int64)token * chosen + choice] * c + column);
        for (int j = 0; j < 8; ++j) sum.values[j] += row.values[j];
    }
    const int64 at = (int64)token * c + column;
    if (residual) {
        const Eight row = load_eight(residual + at);
        for (int j = 0; j < 8; ++j) sum.values[j] += row.values[j];
    }
    store_eight(y + at, sum);
}
