// The instructions of sm_90a that Hopper's kernels are made of.
//
// A warpgroup, four warps in a row, multiplies A [64, 16] from shared memory or registers with B [16, N] from
// shared memory, while its threads do something else (wgmma). Warp w of the four holds rows 16w .. of A and of
// C [64, N], a lane what it holds of mma.sync's A and C (instructions.cuh). Where a matrix lies in shared
// memory is said by 64 bits: see `matrix`.

#define PIECE(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define EIGHT_PIECES(c, n) \
    PIECE(c, n), PIECE(c, n + 1), PIECE(c, n + 2), PIECE(c, n + 3), PIECE(c, n + 4), PIECE(c, n + 5), PIECE(c, n + 6), PIECE(c, n + 7)
#define REGISTERS_0_TO_31 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_32_TO_63 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_64_TO_95 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_96_TO_127 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA(shape) "wgmma.mma_async.sync.aligned." shape ".f32." FLOAT16 "." FLOAT16

// Where a matrix lies: in panels of PANEL_ROWS rows of 128 bytes that are swizzled, at `address`, a multiple of 32
// bytes after a multiple of 1024. The second number is the distance of panels, which only a B whose columns lie in a
// row crosses; the third is the distance of eight rows.
template <int PANEL_ROWS>
__device__ __forceinline__ unsigned long long matrix(unsigned address) {
    constexpr unsigned long long PANEL = PANEL_ROWS * 128 / 16, EIGHT_ROWS = 8 * 128 / 16, SWIZZLED = 1;
    return (address & 0x3ffff) / 16 | PANEL << 16 | EIGHT_ROWS << 32 | SWIZZLED << 62;
}

// Starts c [64, N] = a [64, 16] · b [N, 16]ᵀ + c, or without c where not `add`.
__device__ __forceinline__ void start_product_transposed(float (&c)[8][4], unsigned long long a, unsigned long long b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n" WGMMA("m64n64k16")
                 " {" REGISTERS_0_TO_31 "}, %32, %33, add, 1, 1, 0, 0;\n}"
                 : EIGHT_PIECES(c, 0)
                 : "l"(a), "l"(b), "r"((int)add));
}

__device__ __forceinline__ void start_product_transposed(float (&c)[16][4], unsigned long long a, unsigned long long b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n" WGMMA("m64n128k16")
                 " {" REGISTERS_0_TO_31 ", " REGISTERS_32_TO_63 "}, %64, %65, add, 1, 1, 0, 0;\n}"
                 : EIGHT_PIECES(c, 0), EIGHT_PIECES(c, 8)
                 : "l"(a), "l"(b), "r"((int)add));
}

// Starts c [64, N] += a [64, 16] · b [16, N] with a in registers, which must not change before the product ends.
__device__ __forceinline__ void start_product(float (&c)[8][4], const unsigned (&a)[4], unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n" WGMMA("m64n64k16")
                 " {" REGISTERS_0_TO_31 "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;\n}"
                 : EIGHT_PIECES(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void start_product(float (&c)[16][4], const unsigned (&a)[4], unsigned long long b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n" WGMMA("m64n128k16")
                 " {" REGISTERS_0_TO_31 ", " REGISTERS_32_TO_63 "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n}"
                 : EIGHT_PIECES(c, 0), EIGHT_PIECES(c, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Starts c [64, 256] = a [64, 16] · b [256, 16]ᵀ + c, or a · b [16, 256] + c where b is TRANSPOSED, which lies in memory
// with its columns in a row; without c where not `add`.
template <bool TRANSPOSED>
__device__ __forceinline__ void start_wide_product(float (&c)[32][4], unsigned long long a, unsigned long long b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n" WGMMA("m64n256k16")
                 " {" REGISTERS_0_TO_31 ", " REGISTERS_32_TO_63 ", " REGISTERS_64_TO_95 ", " REGISTERS_96_TO_127
                 "}, %128, %129, add, 1, 1, 0, %131;\n}"
                 : EIGHT_PIECES(c, 0), EIGHT_PIECES(c, 8), EIGHT_PIECES(c, 16), EIGHT_PIECES(c, 24)
                 : "l"(a), "l"(b), "r"((int)add), "n"(TRANSPOSED ? 1 : 0));
}

// Before the first product, and before one whose registers were written since.
__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// The products started since the last call are a group.
__device__ __forceinline__ void close_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the last `PENDING` groups have ended, whose result is in c.
template <int PENDING, int COUNT>
__device__ __forceinline__ void wait_for_group(float (&c)[COUNT][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
    for (int n = 0; n < COUNT; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(c[n][j])::"memory");
}

// Waits until all but the last `PENDING` groups have ended, whose results are not read yet.
template <int PENDING>
__device__ __forceinline__ void wait_for_groups() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Gives registers of this warpgroup's threads away until each has COUNT, or takes them.
template <int COUNT>
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT>
__device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

// Makes what this thread has written to shared memory visible to the tensor cores.
__device__ __forceinline__ void publish_to_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barriers in shared memory that threads arrive at, and wait for in turns: the turn of parity 0, then 1, ...

__device__ __forceinline__ void make_barrier(unsigned barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(unsigned barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

// Arrives when all copies that this thread has started so far have ended.
__device__ __forceinline__ void arrive_after_copies(unsigned barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait_for_barrier(unsigned barrier, int parity) {
    int ended;
    do {
        asm volatile("{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared.b64 ended, [%1], %2;\nselp.s32 %0, 1, 0, ended;\n}"
                     : "=r"(ended)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!ended);
}

// Two warpgroups take turns: each waits for the other's word before it continues.
__device__ __forceinline__ void wait_for_turn(int warpgroup) { asm volatile("bar.sync %0, 256;" ::"r"(1 + warpgroup) : "memory"); }
__device__ __forceinline__ void give_turn_to(int warpgroup) { asm volatile("bar.arrive %0, 256;" ::"r"(1 + warpgroup) : "memory"); }
