// Number formats: f32 and bf16 in memory, f32 in arithmetic.
//
// Everything here is without headers, so that NVRTC needs no include path. The emulator of the tests
// defines EMULATED and gives what CUDA's compiler has built in.

// No launch has more than 512 threads in a block.
#define KERNEL extern "C" __global__ void __launch_bounds__(512)

typedef unsigned long long Index;

/// The upper half of an f32.
struct Bf16 {
    unsigned short bits;
};

#ifdef EMULATED
#define SHARED_MEMORY emulator::shared_memory()
#define EXPECT_ALIGNED(address, bytes) emulator::expect_aligned(address, bytes)
#else
extern __shared__ uint4 dynamic_shared_memory[];
#define SHARED_MEMORY dynamic_shared_memory
#define EXPECT_ALIGNED(address, bytes)
#endif

/// The launch's shared memory from some byte on, a multiple of 16.
template <class T>
__device__ __forceinline__ T *shared_memory(unsigned offset = 0) {
    return reinterpret_cast<T *>(reinterpret_cast<char *>(SHARED_MEMORY) + offset);
}

__device__ __forceinline__ float infinity() {
    return __uint_as_float(0x7f800000u);
}

__device__ __forceinline__ bool is_finite(float x) {
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

__device__ __forceinline__ float to_float(float x) {
    return x;
}

__device__ __forceinline__ float to_float(Bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

/// Two numbers rounded to the nearest bf16, ties to even; the first in the lower half.
__device__ __forceinline__ unsigned pack(float first, float second) {
#ifdef EMULATED
    return emulator::nearest_bf16(first) | emulator::nearest_bf16(second) << 16;
#else
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#endif
}

__device__ __forceinline__ void from_float(float &to, float x) {
    to = x;
}

__device__ __forceinline__ void from_float(Bf16 &to, float x) {
    to.bits = (unsigned short)(pack(x, 0.0f) & 0xffffu);
}

/// How many numbers are 16 bytes.
template <class T>
struct Vector;
template <>
struct Vector<float> {
    static constexpr int SIZE = 4;
};
template <>
struct Vector<Bf16> {
    static constexpr int SIZE = 8;
};

/// Whether 16 bytes may be read at once there, in every row of `width` numbers.
template <class T>
__device__ __forceinline__ bool wide(const T *address, Index width) {
    return ((size_t)address & 15) == 0 && width % Vector<T>::SIZE == 0;
}

// One number, or as many as a vector holds in one access of 16 bytes (8 or 2 x 16, where another
// tensor's format decides how many).

template <class T>
__device__ __forceinline__ void load(float (&to)[1], const T *from) {
    to[0] = to_float(*from);
}

__device__ __forceinline__ void load(float (&to)[4], const float *from) {
    EXPECT_ALIGNED(from, 16);
    const float4 x = *reinterpret_cast<const float4 *>(from);
    to[0] = x.x;
    to[1] = x.y;
    to[2] = x.z;
    to[3] = x.w;
}

__device__ __forceinline__ void unpack(float *to, unsigned both) {
    to[0] = __uint_as_float(both << 16);
    to[1] = __uint_as_float(both & 0xffff0000u);
}

__device__ __forceinline__ void load(float (&to)[4], const Bf16 *from) {
    EXPECT_ALIGNED(from, 8);
    const uint2 x = *reinterpret_cast<const uint2 *>(from);
    unpack(to, x.x);
    unpack(to + 2, x.y);
}

__device__ __forceinline__ void load(float (&to)[8], const float *from) {
    float half[4];
#pragma unroll
    for (int part = 0; part < 2; part++) {
        load(half, from + 4 * part);
#pragma unroll
        for (int i = 0; i < 4; i++) to[4 * part + i] = half[i];
    }
}

__device__ __forceinline__ void load(float (&to)[8], const Bf16 *from) {
    EXPECT_ALIGNED(from, 16);
    const uint4 x = *reinterpret_cast<const uint4 *>(from);
    unpack(to, x.x);
    unpack(to + 2, x.y);
    unpack(to + 4, x.z);
    unpack(to + 6, x.w);
}

template <class T>
__device__ __forceinline__ void store(T *to, const float (&from)[1]) {
    from_float(*to, from[0]);
}

__device__ __forceinline__ void store(float *to, const float (&from)[4]) {
    EXPECT_ALIGNED(to, 16);
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}

__device__ __forceinline__ void store(Bf16 *to, const float (&from)[4]) {
    EXPECT_ALIGNED(to, 8);
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack(from[0], from[1]), pack(from[2], from[3]));
}

__device__ __forceinline__ void store(float *to, const float (&from)[8]) {
    EXPECT_ALIGNED(to, 16);
    float4 *place = reinterpret_cast<float4 *>(to);
    place[0] = make_float4(from[0], from[1], from[2], from[3]);
    place[1] = make_float4(from[4], from[5], from[6], from[7]);
}

__device__ __forceinline__ void store(Bf16 *to, const float (&from)[8]) {
    EXPECT_ALIGNED(to, 16);
    *reinterpret_cast<uint4 *>(to) = make_uint4(pack(from[0], from[1]), pack(from[2], from[3]),
                                                pack(from[4], from[5]), pack(from[6], from[7]));
}
