// Cross-entropy of rows of logits, and their gradient in place: two passes over a row, which the
// second finds in the cache. Maximum and sum of the softmax come in one pass (Milakov and Gimelshein,
// arXiv 1805.02867).

/// The largest of some numbers, and the sum of the exponentials of all less the largest.
struct Softmax {
    float largest, sum;

    __device__ __forceinline__ void move_to(float larger) {
        // Nothing was seen so far: zero times anything is zero, but infinity less itself is not.
        sum = sum == 0.0f ? 0.0f : sum * expf(largest - larger);
        largest = larger;
    }

    template <int N>
    __device__ __forceinline__ void add(const float (&x)[N]) {
        float larger = x[0];
#pragma unroll
        for (int i = 1; i < N; i++) larger = fmaxf(larger, x[i]);
        if (larger == -infinity()) return;
        if (larger > largest) move_to(larger);
#pragma unroll
        for (int i = 0; i < N; i++) sum += expf(x[i] - largest);
    }

    /// That of the numbers of a whole block, for all of its threads.
    __device__ __forceinline__ void join_block() {
        float *shared = shared_memory<float>();
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
        const float of_warp = warp_max(largest);
        if (lane == 0) shared[warp] = of_warp;
        __syncthreads();
        const float of_block = warp_max(lane < warps ? shared[lane] : -infinity());
        __syncthreads();
        move_to(of_block);
        sum = block_sum(sum, shared);
    }
};

/// Calls `visit` on all numbers of a row, in vectors as far as its address allows.
template <class T, class Visit>
__device__ __forceinline__ void visit_row(T *row, unsigned width, Visit visit) {
    const int N = Vector<T>::SIZE;
    const unsigned behind = (unsigned)((size_t)row & 15) / sizeof(T);
    const unsigned head = behind == 0 ? 0 : min(width, N - behind);
    const unsigned vectors = (width - head) / N;
    float one[1];
    float several[N];
    for (unsigned i = threadIdx.x; i < head; i += blockDim.x) {
        load(one, row + i);
        visit(one, i);
    }
    for (unsigned i = threadIdx.x; i < vectors; i += blockDim.x) {
        load(several, row + head + N * i);
        visit(several, head + N * i);
    }
    for (unsigned i = head + N * vectors + threadIdx.x; i < width; i += blockDim.x) {
        load(one, row + i);
        visit(one, i);
    }
}

// NVRTC takes generic lambdas for functions of the host, so these are structures.

struct AddToSoftmax {
    Softmax &softmax;

    template <int N>
    __device__ __forceinline__ void operator()(const float (&numbers)[N], unsigned) const {
        softmax.add(numbers);
    }
};

template <class T>
struct WriteGradient {
    T *row;
    float largest, inverse, scale;
    unsigned target;

    template <int N>
    __device__ __forceinline__ void operator()(float (&numbers)[N], unsigned first) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float probability = expf(numbers[i] - largest) * inverse;
            numbers[i] = (probability - (first + i == target ? 1.0f : 0.0f)) * scale;
        }
        store(row + first, numbers);
    }
};

/// A block for each row.
template <class T>
__device__ __forceinline__ void cross_entropy(float *losses, T *logits, const unsigned *targets,
                                              unsigned words, unsigned wants_gradient,
                                              float scale) {
    T *row = logits + (Index)blockIdx.x * words;
    const unsigned target = targets[blockIdx.x];
    const float of_target = to_float(row[target]);
    Softmax softmax = {-infinity(), 0.0f};
    visit_row(row, words, AddToSoftmax{softmax});
    softmax.join_block();
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = logf(softmax.sum) - (of_target - softmax.largest);
    }
    if (!wants_gradient) return;
    const float inverse = 1.0f / softmax.sum;
    visit_row(row, words, WriteGradient<T>{row, softmax.largest, inverse, scale, target});
}

KERNEL cross_entropy_f32(float *losses, float *logits, const unsigned *targets, unsigned words,
                         unsigned wants_gradient, float scale) {
    cross_entropy(losses, logits, targets, words, wants_gradient, scale);
}

KERNEL cross_entropy_bf16(float *losses, Bf16 *logits, const unsigned *targets, unsigned words,
                          unsigned wants_gradient, float scale) {
    cross_entropy(losses, logits, targets, words, wants_gradient, scale);
}
