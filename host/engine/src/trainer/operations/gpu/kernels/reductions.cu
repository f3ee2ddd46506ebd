// Sums and maxima over a warp or a block, in an order that does not depend on scheduling.

#define ALL_LANES 0xffffffffu

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

/// The sum over a block, for all of its threads. `shared` has room for a number per warp, and may be
/// used again at once.
template <class T>
__device__ __forceinline__ T block_sum(T x, T *shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? shared[lane] : T(0));
    __syncthreads();
    return x;
}
