// RMSNorm forward over rows of bf16, one block a row, and the reciprocal root kept for the backward.
//
// No header is included: a machine that runs this has NVRTC, but it may have no CUDA headers. So bf16 is
// 16 bits here, the upper half of an f32.

__device__ __forceinline__ float lower(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float upper(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ unsigned packed(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// x, y: [rows, columns]; weight: [columns]; reciprocal_root: [rows]. columns is a multiple of 8 and at most
// 8 * VECTORS * blockDim.x; blockDim.x is a multiple of 32. VECTORS is set by the compiler's option.
extern "C" __global__ void rms_norm_forward(const uint4* __restrict__ x, const uint4* __restrict__ weight,
                                            uint4* __restrict__ y, float* __restrict__ reciprocal_root,
                                            int columns, float epsilon) {
    __shared__ float partial[32];
    const int vectors = columns / 8;
    const size_t row = (size_t)blockIdx.x * vectors;
    uint4 held[VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * blockDim.x;
        held[i] = at < vectors ? x[row + at] : make_uint4(0, 0, 0, 0);
        const unsigned pairs[4] = {held[i].x, held[i].y, held[i].z, held[i].w};
#pragma unroll
        for (int j = 0; j < 4; j++) sum += lower(pairs[j]) * lower(pairs[j]) + upper(pairs[j]) * upper(pairs[j]);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
    const float scale = rsqrtf(sum / columns + epsilon);
    if (threadIdx.x == 0) reciprocal_root[blockIdx.x] = scale;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * blockDim.x;
        if (at >= vectors) continue;
        const uint4 w = weight[at];
        uint4 result;
        result.x = packed(lower(held[i].x) * scale * lower(w.x), upper(held[i].x) * scale * upper(w.x));
        result.y = packed(lower(held[i].y) * scale * lower(w.y), upper(held[i].y) * scale * upper(w.y));
        result.z = packed(lower(held[i].z) * scale * lower(w.z), upper(held[i].z) * scale * upper(w.z));
        result.w = packed(lower(held[i].w) * scale * lower(w.w), upper(held[i].w) * scale * upper(w.w));
        y[row + at] = result;
    }
}
