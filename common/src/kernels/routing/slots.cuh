// The expert that a slot belongs to, from the first slot of each expert [E + 1].
__device__ __forceinline__ int expert_of(const unsigned* starts, int experts, unsigned slot) {
    int low = 0, high = experts;  // starts[low] <= slot < starts[high]
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (starts[middle] <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}
