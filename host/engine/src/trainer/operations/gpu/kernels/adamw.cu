// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with PyTorch's order of operations. Every operation
// is rounded by itself, so that the results are those of a CPU to the bit.

struct AdamWNumbers {
    float decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_root_correction, epsilon;
};

__device__ __forceinline__ void update(float &weight, float gradient, float &m, float &v,
                                       const AdamWNumbers &c) {
    m = __fadd_rn(m, __fmul_rn(__fsub_rn(gradient, m), c.one_minus_beta1));
    const float square = __fmul_rn(__fmul_rn(gradient, gradient), c.one_minus_beta2);
    v = __fadd_rn(__fmul_rn(v, c.beta2), square);
    const float root = __fmul_rn(__fsqrt_rn(v), c.inverse_root_correction);
    const float step = __fmul_rn(c.step_size, __fdiv_rn(m, __fadd_rn(root, c.epsilon)));
    weight = __fsub_rn(__fmul_rn(weight, c.decay), step);
}

/// The bf16 below or above `x`, in f32, by 16 random bits; what is not finite stays so.
__device__ __forceinline__ float rounded_at_random(float x, unsigned random) {
    if (!is_finite(x)) return x;
    return __uint_as_float((__float_as_uint(x) + random) & 0xffff0000u);
}

template <int N>
__device__ __forceinline__ void round_moments(float (&)[N], float (&)[N], float *, unsigned, Index) {}

template <int N>
__device__ __forceinline__ void round_moments(float (&m)[N], float (&v)[N], Bf16 *, unsigned key,
                                              Index first) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const unsigned word = random_words(key, first + i).first;
        m[i] = rounded_at_random(m[i], word & 0xffffu);
        v[i] = rounded_at_random(v[i], word >> 16);
    }
}

/// What a bf16 lacks of an f32, N of them, as they lie in memory.
template <int N>
struct Rest {
    short x[N];
};
template <>
struct alignas(16) Rest<8> {
    short x[8];
};

template <int N>
__device__ __forceinline__ void join(float (&)[N], const short *, Index, float *) {}

template <int N>
__device__ __forceinline__ void join(float (&weights)[N], const short *rest, Index at, Bf16 *) {
    const Rest<N> low = *reinterpret_cast<const Rest<N> *>(rest + at);
#pragma unroll
    for (int i = 0; i < N; i++) {
        weights[i] = __uint_as_float(__float_as_uint(weights[i]) + (unsigned)(int)low.x[i]);
    }
}

template <int N>
__device__ __forceinline__ void split(float (&)[N], short *, Index, float *) {}

/// Leaves the upper halves in `weights`, and stores the rest.
template <int N>
__device__ __forceinline__ void split(float (&weights)[N], short *rest, Index at, Bf16 *) {
    Rest<N> low;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const unsigned bits = __float_as_uint(weights[i]);
        const unsigned high = (bits + 0x8000u) & 0xffff0000u;
        low.x[i] = (short)(unsigned short)(bits - high);
        weights[i] = __uint_as_float(high);
    }
    *reinterpret_cast<Rest<N> *>(rest + at) = low;
}

template <int N, class W, class M>
__device__ __forceinline__ void update_some(W *weights, short *rest, const W *gradients, M *m, M *v,
                                            float factor, Index at, const AdamWNumbers &c,
                                            unsigned key, Index first) {
    float w[N], g[N], a[N], b[N];
    load(w, weights + at);
    load(g, gradients + at);
    load(a, m + at);
    load(b, v + at);
    if (rest) join(w, rest, at, weights);
#pragma unroll
    for (int i = 0; i < N; i++) update(w[i], __fmul_rn(g[i], factor), a[i], b[i], c);
    if (rest) split(w, rest, at, weights);
    store(weights + at, w);
    round_moments(a, b, m, key, first + at);
    store(m + at, a);
    store(v + at, b);
}

template <class W, class M>
__device__ __forceinline__ void adamw(W *weights, short *rest, const W *gradients, M *m, M *v,
                                      float factor, Index count, const AdamWNumbers &c,
                                      unsigned key, Index first) {
    if (!is_finite(factor)) return;
    const int N = Vector<W>::SIZE;
    Index done = 0;
    if (wide(weights, N) && wide(gradients, N) && wide(m, Vector<M>::SIZE) &&
        wide(v, Vector<M>::SIZE) && ((size_t)rest & 15) == 0) {
        done = count / N * N;
        for (Index i = N * flat_thread(); i < done; i += N * flat_threads()) {
            update_some<N>(weights, rest, gradients, m, v, factor, i, c, key, first);
        }
    }
    for (Index i = done + flat_thread(); i < count; i += flat_threads()) {
        update_some<1>(weights, rest, gradients, m, v, factor, i, c, key, first);
    }
}

#define ADAMW_KERNEL(NAME, W, M)                                                                   \
    KERNEL NAME(W *weights, short *rest, const W *gradients, M *m, M *v, const float *factor,      \
                Index count, float decay, float one_minus_beta1, float beta2,                      \
                float one_minus_beta2, float step_size, float inverse_root_correction,             \
                float epsilon, unsigned key, Index first) {                                        \
        const AdamWNumbers c = {decay,     one_minus_beta1,         beta2,  one_minus_beta2,       \
                                step_size, inverse_root_correction, epsilon};                      \
        adamw(weights, rest, gradients, m, v, *factor, count, c, key, first);                      \
    }

ADAMW_KERNEL(adamw_f32_f32, float, float)
ADAMW_KERNEL(adamw_f32_bf16, float, Bf16)
ADAMW_KERNEL(adamw_bf16_f32, Bf16, float)
ADAMW_KERNEL(adamw_bf16_bf16, Bf16, Bf16)
