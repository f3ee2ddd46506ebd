// Flat stretches of memory: cleared and copied.

__device__ __forceinline__ Index flat_thread() {
    return (Index)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ Index flat_threads() {
    return (Index)gridDim.x * blockDim.x;
}

KERNEL zero_bytes(unsigned char *x, Index bytes) {
    Index done = 0;
    if (((size_t)x & 15) == 0) {
        uint4 *pieces = reinterpret_cast<uint4 *>(x);
        for (Index i = flat_thread(); i < bytes / 16; i += flat_threads()) {
            pieces[i] = make_uint4(0, 0, 0, 0);
        }
        done = bytes / 16 * 16;
    }
    for (Index i = done + flat_thread(); i < bytes; i += flat_threads()) x[i] = 0;
}

KERNEL copy_bytes(unsigned char *out, const unsigned char *x, Index bytes) {
    Index done = 0;
    if ((((size_t)x | (size_t)out) & 15) == 0) {
        uint4 *to = reinterpret_cast<uint4 *>(out);
        const uint4 *from = reinterpret_cast<const uint4 *>(x);
        for (Index i = flat_thread(); i < bytes / 16; i += flat_threads()) to[i] = from[i];
        done = bytes / 16 * 16;
    }
    for (Index i = done + flat_thread(); i < bytes; i += flat_threads()) out[i] = x[i];
}
