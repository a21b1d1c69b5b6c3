// Weights in 4 bits: quantized.cuh says what they are made of.

extern "C" __global__ void __launch_bounds__(256) dequantize(
    float16* weight, const uint8* packed, const float* values, const float* absmax, const uint8* codes, const float* map,
    float offset, int block_shift, int nested_shift, int64 len) {
    const Scales scales = {absmax, codes, map, offset, block_shift, nested_shift};
    dequantize_block(weight, packed, values, scales, len);
}
