// RMSNorm (Zhang and Sennrich, arXiv 1910.07467), forward and backward.

template <int N, class T>
__device__ __forceinline__ void normalise_row(T *y, float *rstd, const T *x, const T *weight,
                                              unsigned width, float eps) {
    float squares = 0.0f;
    for (unsigned i = N * threadIdx.x; i < width; i += N * blockDim.x) {
        float numbers[N];
        load(numbers, x + i);
#pragma unroll
        for (int j = 0; j < N; j++) squares += numbers[j] * numbers[j];
    }
    squares = block_sum(squares, shared_memory<float>());
    const float inverse = 1.0f / sqrtf(squares / (float)width + eps);
    if (threadIdx.x == 0) *rstd = inverse;
    for (unsigned i = N * threadIdx.x; i < width; i += N * blockDim.x) {
        float numbers[N], weights[N];
        load(numbers, x + i);
        load(weights, weight + i);
#pragma unroll
        for (int j = 0; j < N; j++) numbers[j] = numbers[j] * inverse * weights[j];
        store(y + i, numbers);
    }
}

/// A block for each row.
template <class T>
__device__ __forceinline__ void rms_norm(T *y, float *rstd, const T *x, const T *weight,
                                         unsigned width, float eps) {
    const Index start = (Index)blockIdx.x * width;
    if (wide(y, width) && wide(x, width) && wide(weight, width)) {
        normalise_row<Vector<T>::SIZE>(y + start, rstd + blockIdx.x, x + start, weight, width, eps);
    } else {
        normalise_row<1>(y + start, rstd + blockIdx.x, x + start, weight, width, eps);
    }
}

KERNEL rms_norm_f32(float *y, float *rstd, const float *x, const float *weight, unsigned width,
                    float eps) {
    rms_norm(y, rstd, x, weight, width, eps);
}

KERNEL rms_norm_bf16(Bf16 *y, float *rstd, const Bf16 *x, const Bf16 *weight, unsigned width,
                     float eps) {
    rms_norm(y, rstd, x, weight, width, eps);
}

/// Every block takes the rows that are its turn, and keeps their part of the weight's gradient in
/// shared memory: each thread its own columns, so that nothing has to wait for another, and laid out
/// such that neighbouring threads use neighbouring banks.
template <int N, class T>
__device__ __forceinline__ void norm_gradients(T *dx, float *partials, const T *dy, const T *x,
                                               const T *weight, const float *rstd, unsigned rows,
                                               unsigned width) {
    float *sums = shared_memory<float>(512);
    const unsigned vectors = width / N;
    if (partials) {
        for (unsigned i = threadIdx.x; i < vectors; i += blockDim.x) {
#pragma unroll
            for (int j = 0; j < N; j++) sums[j * vectors + i] = 0.0f;
        }
    }
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const Index start = (Index)row * width;
        const float inverse = rstd[row];
        float product = 0.0f;
        for (unsigned i = N * threadIdx.x; i < width; i += N * blockDim.x) {
            float gradients[N], numbers[N], weights[N];
            load(gradients, dy + start + i);
            load(numbers, x + start + i);
            load(weights, weight + i);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float normed = numbers[j] * inverse;
                product += gradients[j] * weights[j] * normed;
                if (partials) sums[j * vectors + i / N] += gradients[j] * normed;
            }
        }
        const float mean = block_sum(product, shared_memory<float>()) / (float)width;
        for (unsigned i = N * threadIdx.x; i < width; i += N * blockDim.x) {
            float gradients[N], numbers[N], weights[N], sum[N];
            load(gradients, dy + start + i);
            load(numbers, x + start + i);
            load(weights, weight + i);
            load(sum, dx + start + i);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float normed = numbers[j] * inverse;
                sum[j] += (gradients[j] * weights[j] - normed * mean) * inverse;
            }
            store(dx + start + i, sum);
        }
    }
    if (partials) {
        float *to = partials + (Index)blockIdx.x * width;
        for (unsigned i = threadIdx.x; i < vectors; i += blockDim.x) {
            float sum[N];
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] = sums[j * vectors + i];
            store(to + N * i, sum);
        }
    }
}

template <class T>
__device__ __forceinline__ void rms_norm_backward(T *dx, float *partials, const T *dy, const T *x,
                                                  const T *weight, const float *rstd, unsigned rows,
                                                  unsigned width) {
    if (wide(dx, width) && wide(dy, width) && wide(x, width) && wide(weight, width)) {
        norm_gradients<Vector<T>::SIZE>(dx, partials, dy, x, weight, rstd, rows, width);
    } else {
        norm_gradients<1>(dx, partials, dy, x, weight, rstd, rows, width);
    }
}

KERNEL rms_norm_backward_f32(float *dx, float *partials, const float *dy, const float *x,
                             const float *weight, const float *rstd, unsigned rows,
                             unsigned width) {
    rms_norm_backward(dx, partials, dy, x, weight, rstd, rows, width);
}

KERNEL rms_norm_backward_bf16(Bf16 *dx, float *partials, const Bf16 *dy, const Bf16 *x,
                              const Bf16 *weight, const float *rstd, unsigned rows,
                              unsigned width) {
    rms_norm_backward(dx, partials, dy, x, weight, rstd, rows, width);
}

/// Adds what the blocks left, 32 columns a block: each warp every eighth part, then the warps in turn.
template <class T>
__device__ __forceinline__ void rms_norm_weight_gradient(T *d_weight, const float *partials,
                                                         unsigned parts, unsigned width) {
    float *sums = shared_memory<float>();
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const unsigned column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 8
        for (unsigned part = warp; part < parts; part += warps) {
            sum += partials[(Index)part * width + column];
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (unsigned w = 1; w < warps; w++) sum += sums[w * 32 + lane];
        from_float(d_weight[column], to_float(d_weight[column]) + sum);
    }
}

KERNEL rms_norm_weight_gradient_f32(float *d_weight, const float *partials, unsigned parts,
                                    unsigned width) {
    rms_norm_weight_gradient(d_weight, partials, parts, width);
}

KERNEL rms_norm_weight_gradient_bf16(Bf16 *d_weight, const float *partials, unsigned parts,
                                     unsigned width) {
    rms_norm_weight_gradient(d_weight, partials, parts, width);
}
