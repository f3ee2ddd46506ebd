// Sums over many numbers in double precision, added to a total on the device.

KERNEL add_sum(double *total, const float *values, Index count) {
    double sum = 0.0;
    for (Index i = threadIdx.x; i < count; i += blockDim.x) sum += values[i];
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) *total += sum;
}

template <int N, class T>
__device__ __forceinline__ double squares(const T *x, Index count) {
    double sum = 0.0;
    const Index step = (Index)N * gridDim.x * blockDim.x;
    for (Index i = N * flat_thread(); i + N <= count; i += step) {
        float numbers[N], part = 0.0f;
        load(numbers, x + i);
        // A few terms in f32 lose nothing that counts; conversions to f64 are what a card is slow at.
#pragma unroll
        for (int j = 0; j < N; j++) part += numbers[j] * numbers[j];
        sum += part;
    }
    return sum;
}

template <class T>
__device__ __forceinline__ void sum_of_squares(double *partials, const T *x, Index count) {
    const int N = Vector<T>::SIZE;
    double sum;
    if (wide(x, N)) {
        sum = squares<N>(x, count);
        const Index tail = count / N * N + flat_thread();
        if (tail < count) {
            const float last = to_float(x[tail]);
            sum += last * last;
        }
    } else {
        sum = squares<1>(x, count);
    }
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

KERNEL sum_of_squares_f32(double *partials, const float *x, Index count) {
    sum_of_squares(partials, x, count);
}

KERNEL sum_of_squares_bf16(double *partials, const Bf16 *x, Index count) {
    sum_of_squares(partials, x, count);
}

KERNEL add_partial_sums(double *total, const double *partials, unsigned count) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) *total += sum;
}

/// As `torch.nn.utils.clip_grad_norm_` has it. NaN where the sum is not finite, with clipping or not.
KERNEL clip_factor(float *factor, const double *sum_of_squares, double max_norm) {
    if (threadIdx.x != 0) return;
    const double norm = sqrt(*sum_of_squares);
    // Infinity minus itself is NaN, and NaN stays.
    const double not_finite = norm - norm;
    double value = 1.0;
    if (max_norm != 0.0) {
        const double ratio = max_norm / (norm + 1e-6);
        if (ratio < 1.0) value = ratio;
    }
    *factor = (float)(value + not_finite);
}
