// Heads taken out of rows and put back, turned by the rotary embedding (RoPE, Su et al., arXiv
// 2104.09864, in Hugging Face's rotate-half layout).

/// What a launch works on: `heads` is [count, tokens, head_dim], `rows` [tokens, width].
struct HeadShape {
    unsigned tokens, count, head_dim, width, first_column;
};

/// Of each head the numbers i to i + N of the first half with those of the second.
template <int N, bool SPLIT, class T>
__device__ __forceinline__ void move_heads(T *heads, T *rows, const float *cos, const float *sin,
                                           const unsigned *positions, HeadShape shape) {
    const unsigned half = shape.head_dim / 2, vectors = half / N;
    const unsigned pieces = shape.tokens * shape.count * vectors;
    const unsigned step = gridDim.x * blockDim.x;
    for (unsigned piece = (unsigned)flat_thread(); piece < pieces; piece += step) {
        const unsigned i = piece % vectors * N, row_head = piece / vectors;
        const unsigned head = row_head % shape.count, token = row_head / shape.count;
        T *in_row = rows + (Index)token * shape.width + shape.first_column + head * shape.head_dim + i;
        T *in_head = heads + ((Index)head * shape.tokens + token) * shape.head_dim + i;
        const T *from = SPLIT ? in_row : in_head;
        T *to = SPLIT ? in_head : in_row;
        float a[N], b[N];
        load(a, from);
        load(b, from + half);
        if (cos) {
            const Index angle = (Index)positions[token] * half + i;
            float c[N], s[N];
            load(c, cos + angle);
            load(s, sin + angle);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float turn = SPLIT ? s[j] : -s[j];
                const float first = a[j] * c[j] - b[j] * turn;
                b[j] = b[j] * c[j] + a[j] * turn;
                a[j] = first;
            }
        }
        store(to, a);
        store(to + half, b);
    }
}

template <bool SPLIT, class T>
__device__ __forceinline__ void move_heads(T *heads, T *rows, const float *cos, const float *sin,
                                           const unsigned *positions, HeadShape shape) {
    const int N = Vector<T>::SIZE;
    const unsigned half = shape.head_dim / 2;
    const bool angles = wide(cos, N) && wide(sin, N);
    if (wide(heads, half) && wide(rows, half) && wide(rows, shape.width) &&
        shape.first_column % N == 0 && angles) {
        move_heads<N, SPLIT>(heads, rows, cos, sin, positions, shape);
    } else {
        move_heads<1, SPLIT>(heads, rows, cos, sin, positions, shape);
    }
}

#define HEAD_KERNEL(NAME, SPLIT, T)                                                                \
    KERNEL NAME(T *heads, T *rows, const float *cos, const float *sin, const unsigned *positions,  \
                unsigned tokens, unsigned count, unsigned head_dim, unsigned width,                \
                unsigned first_column) {                                                           \
        const HeadShape shape = {tokens, count, head_dim, width, first_column};                    \
        move_heads<SPLIT>(heads, rows, cos, sin, positions, shape);                                \
    }

HEAD_KERNEL(split_heads_f32, true, float)
HEAD_KERNEL(split_heads_bf16, true, Bf16)
HEAD_KERNEL(merge_heads_f32, false, float)
HEAD_KERNEL(merge_heads_bf16, false, Bf16)

template <int N, class T>
__device__ __forceinline__ float part_of_product(const T *a, const T *b, unsigned head_dim,
                                                 unsigned lane, unsigned lanes) {
    float sum = 0.0f;
    for (unsigned i = N * lane; i < head_dim; i += N * lanes) {
        float x[N], y[N];
        load(x, a + i);
        load(y, b + i);
#pragma unroll
        for (int j = 0; j < N; j++) sum += x[j] * y[j];
    }
    return sum;
}

/// `lanes` neighbouring threads, a power of two up to 32, for each head of each token.
template <class T>
__device__ __forceinline__ void head_products(float *products, const T *a, const T *b,
                                              unsigned tokens, unsigned heads, unsigned head_dim,
                                              unsigned lanes) {
    const Index group = flat_thread() / lanes;
    const unsigned lane = threadIdx.x % lanes;
    const bool mine = group < (Index)tokens * heads;
    float sum = 0.0f;
    if (mine) {
        const T *x = a + group * head_dim, *y = b + group * head_dim;
        if (wide(a, head_dim) && wide(b, head_dim)) {
            sum = part_of_product<Vector<T>::SIZE>(x, y, head_dim, lane, lanes);
        } else {
            sum = part_of_product<1>(x, y, head_dim, lane, lanes);
        }
    }
    for (unsigned offset = lanes / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    }
    if (mine && lane == 0) {
        products[group % heads * tokens + group / heads] = sum;
    }
}

KERNEL head_products_f32(float *products, const float *a, const float *b, unsigned tokens,
                         unsigned heads, unsigned head_dim, unsigned lanes) {
    head_products(products, a, b, tokens, heads, head_dim, lanes);
}

KERNEL head_products_bf16(float *products, const Bf16 *a, const Bf16 *b, unsigned tokens,
                          unsigned heads, unsigned head_dim, unsigned lanes) {
    head_products(products, a, b, tokens, heads, head_dim, lanes);
}
