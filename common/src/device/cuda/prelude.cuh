// What every kernel shares. Pasted in front of each source, because kernels include no CUDA header:
// a driver, NVRTC and cuBLASLt are all that a user needs.

typedef unsigned char uint8;
// A number of 16 bits: bf16, or fp16 where FP16 is defined. Sums are in f32 either way.
typedef unsigned short float16;
typedef long long int64;

#ifdef FP16

// As instructions name the type.
#define FLOAT16 "f16"

__device__ __forceinline__ float to_float(float16 value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}

__device__ __forceinline__ float low_float(unsigned packed) { return to_float((float16)packed); }

__device__ __forceinline__ float high_float(unsigned packed) { return to_float((float16)(packed >> 16)); }

#else

#define FLOAT16 "bf16"

__device__ __forceinline__ float to_float(float16 value) { return __uint_as_float((unsigned)value << 16); }

__device__ __forceinline__ float low_float(unsigned packed) { return __uint_as_float(packed << 16); }

__device__ __forceinline__ float high_float(unsigned packed) { return __uint_as_float(packed & 0xffff0000u); }

#endif

// Rounded to nearest even.
__device__ __forceinline__ float16 to_float16(float value) {
    float16 rounded;
    asm("cvt.rn." FLOAT16 ".f32 %0, %1;" : "=h"(rounded) : "f"(value));
    return rounded;
}

// Two values rounded to nearest even, `low` in the low half.
__device__ __forceinline__ unsigned pack_float16(float low, float high) {
    unsigned packed;
    asm("cvt.rn." FLOAT16 "x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Eight neighbouring values, moved as one 16-byte access.
struct Eight {
    float values[8];
};

__device__ __forceinline__ Eight load_eight(const float16* from) {
    uint4 packed = *reinterpret_cast<const uint4*>(from);
    return {low_float(packed.x), high_float(packed.x), low_float(packed.y), high_float(packed.y),
            low_float(packed.z), high_float(packed.z), low_float(packed.w), high_float(packed.w)};
}

__device__ __forceinline__ void store_eight(float16* to, const Eight& eight) {
    const float* v = eight.values;
    *reinterpret_cast<uint4*>(to) = make_uint4(pack_float16(v[0], v[1]), pack_float16(v[2], v[3]),
                                               pack_float16(v[4], v[5]), pack_float16(v[6], v[7]));
}

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

// The sum over a block of up to 1024 threads, in a fixed order, given to every thread.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float partial[32];
    __syncthreads();
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    int warps = (blockDim.x + 31) / 32;
    return warp_sum(threadIdx.x % 32 < warps ? partial[threadIdx.x % 32] : 0.0f);
}

// The maximum over a block, given to every thread.
__device__ __forceinline__ float block_max(float value) {
    __shared__ float partial[32];
    __syncthreads();
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    int warps = (blockDim.x + 31) / 32;
    return warp_max(threadIdx.x % 32 < warps ? partial[threadIdx.x % 32] : -__int_as_float(0x7f800000));
}
