// Dropout (Srivastava et al., Journal of Machine Learning Research 15, 2014). A row of blocks for each
// token; the columns are dealt to threads as those of `scatter_add_rows` are. Every operation is rounded by
// itself, so that the results in f32 are those of a CPU to the bit.

template <bool WIDE, bool ADD, class T>
__device__ __forceinline__ void drop_row(T *out, const T *x, unsigned sequence, unsigned position,
                                         unsigned width, unsigned key, unsigned dropped,
                                         float scale) {
    const Columns<WIDE, T> columns(width);
    const int N = Vector<T>::SIZE;
    const unsigned first = position * ((width + 3) / 4);
    float numbers[N], sum[N];
    columns.read(numbers, x);
    if constexpr (ADD) columns.read(sum, out);
    RandomWords words;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const unsigned column = columns.first + i * (WIDE ? 1 : blockDim.x);
        // Four columns share a call of the generator; those of a vector begin at a multiple of four.
        const unsigned place = (WIDE ? i : column) % 4;
        if (!WIDE || place == 0) {
            words = random_words(key, (Index)sequence << 32 | (first + column / 4));
        }
        const unsigned word = place < 2 ? words.first : words.second;
        const unsigned bits = place % 2 == 0 ? word & 0xffffu : word >> 16;
        const float kept = bits < dropped ? 0.0f : __fmul_rn(numbers[i], scale);
        if constexpr (ADD) {
            numbers[i] = __fadd_rn(sum[i], kept);
        } else {
            numbers[i] = kept;
        }
    }
    columns.write(out, numbers);
}

template <bool ADD, class T>
__device__ __forceinline__ void dropout(T *out, const T *x, const unsigned *sequences,
                                        const unsigned *positions, unsigned width, unsigned key,
                                        unsigned dropped, float scale) {
    const unsigned sequence = sequences[blockIdx.x], position = positions[blockIdx.x];
    const Index row = (Index)blockIdx.x * width;
    if (wide(out, width) && wide(x, width)) {
        drop_row<true, ADD>(out + row, x + row, sequence, position, width, key, dropped, scale);
    } else {
        drop_row<false, ADD>(out + row, x + row, sequence, position, width, key, dropped, scale);
    }
}

#define DROPOUT_KERNEL(NAME, ADD, T)                                                               \
    KERNEL NAME(T *out, const T *x, const unsigned *sequences, const unsigned *positions,          \
                unsigned width, unsigned key, unsigned dropped, float scale) {                     \
        dropout<ADD>(out, x, sequences, positions, width, key, dropped, scale);                    \
    }

DROPOUT_KERNEL(dropout_f32, false, float)
DROPOUT_KERNEL(dropout_bf16, false, Bf16)
DROPOUT_KERNEL(dropout_backward_f32, true, float)
DROPOUT_KERNEL(dropout_backward_bf16, true, Bf16)
