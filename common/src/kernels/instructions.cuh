// The instructions of sm_80 and later that kernels of matrix products are made of.
//
// A warp multiplies matrices in pieces held by its 32 lanes. With g = lane / 4 and t = lane % 4,
// and two float16 of neighbouring columns (A) or rows (B) in each register, a lane holds
//   of A [16, 16]: a0 = A[g][2t, 2t + 1], a1 = A[g + 8][2t, ..], a2 = A[g][2t + 8, ..], a3 = A[g + 8][2t + 8, ..]
//   of B [16, 8]:  b0 = B[2t, 2t + 1][g], b1 = B[2t + 8, 2t + 9][g]
//   of C [16, 8]:  c0, c1 = C[g][2t, 2t + 1], c2, c3 = C[g + 8][2t, 2t + 1], in f32

extern __shared__ __align__(1024) uint4 shared_memory[];

// The address of the kernel's dynamic shared memory in bytes, as the instructions below take it.
__device__ __forceinline__ unsigned shared_address() { return (unsigned)__cvta_generic_to_shared(shared_memory); }

// c += a · b
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." FLOAT16 "." FLOAT16 ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a · b
__device__ __forceinline__ void multiply_first(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." FLOAT16 "." FLOAT16 ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// Four matrices [8, 8]. Lane 8i + j gives the address of row j of matrix i; every lane gets
// elements [g][2t, 2t + 1] of matrix i in registers[i].
__device__ __forceinline__ void load_matrices(unsigned (&registers)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address));
}

// The same, with elements [2t, 2t + 1][g] of matrix i in registers[i].
__device__ __forceinline__ void load_matrices_transposed(unsigned (&registers)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address));
}

// Starts a copy of 16 bytes from global to shared memory; zeros if the source is not `present`,
// whose memory is then not read.
__device__ __forceinline__ void copy_16_bytes(unsigned to, const void* from, bool present) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0)
                 : "memory");
}

// The same for 4 bytes.
__device__ __forceinline__ void copy_4_bytes(unsigned to, const void* from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(present ? 4 : 0) : "memory");
}

// The copies that this thread has started since the last call are a group.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last `PENDING` groups of copies of this thread have ended.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Waits for all copies that this thread started.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ void store_shared(unsigned address, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ float load_shared(unsigned address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// Two neighbouring values.
__device__ __forceinline__ float2 load_shared_pair(unsigned address) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address) : "memory");
    return pair;
}

// Four neighbouring values, at a multiple of 16 bytes.
__device__ __forceinline__ void store_shared_four(unsigned address, const float (&values)[4]) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(values[0]), "f"(values[1]), "f"(values[2]),
                 "f"(values[3])
                 : "memory");
}

__device__ __forceinline__ void load_shared_four(float (&values)[4], unsigned address) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
                 : "r"(address)
                 : "memory");
}

// Waits for the other of warps 2·pair and 2·pair + 1, and for what it has stored.
__device__ __forceinline__ void wait_for_pair(int pair) { asm volatile("bar.sync %0, 64;" ::"r"(1 + pair) : "memory"); }

// This warp's number in the thread block, the same in all lanes for the compiler too.
__device__ __forceinline__ int warp_number() { return __shfl_sync(0xffffffff, threadIdx.x / 32, 0); }

// 1 / x; 0 for infinity.
__device__ __forceinline__ float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// 2^x; 0 for -inf.
__device__ __forceinline__ float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// The largest and the sum over the four lanes that hold one row of C.
__device__ __forceinline__ float row_maximum(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}

__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffff, value, 1);
    return value + __shfl_xor_sync(0xffffffff, value, 2);
}
