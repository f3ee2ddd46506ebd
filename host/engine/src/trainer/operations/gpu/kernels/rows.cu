// Rows picked out of a table, and added to it.

template <int N, class T>
__device__ __forceinline__ void copy_row(T *to, const T *from, unsigned width) {
    for (unsigned i = N * threadIdx.x; i < width; i += N * blockDim.x) {
        float numbers[N];
        load(numbers, from + i);
        store(to + i, numbers);
    }
}

/// A block for each row of `out`.
template <class T>
__device__ __forceinline__ void gather_rows(T *out, const T *table, const unsigned *ids,
                                            unsigned width) {
    T *to = out + (Index)blockIdx.x * width;
    const T *from = table + (Index)ids[blockIdx.x] * width;
    if (wide(out, width) && wide(table, width)) {
        copy_row<Vector<T>::SIZE>(to, from, width);
    } else {
        copy_row<1>(to, from, width);
    }
}

KERNEL gather_rows_f32(float *out, const float *table, const unsigned *ids, unsigned width) {
    gather_rows(out, table, ids, width);
}

KERNEL gather_rows_bf16(Bf16 *out, const Bf16 *table, const unsigned *ids, unsigned width) {
    gather_rows(out, table, ids, width);
}

/// The columns of one thread: side by side where vectors are possible, else as far apart as there are
/// threads.
template <bool WIDE, class T>
struct Columns {
    static constexpr int N = Vector<T>::SIZE;
    unsigned first, width;

    __device__ __forceinline__ Columns(unsigned width)
        : first(blockIdx.y * N * blockDim.x + (WIDE ? N : 1) * threadIdx.x), width(width) {}

    __device__ __forceinline__ void read(float (&to)[N], const T *row) const {
        if constexpr (WIDE) {
            if (first < width) load(to, row + first);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                const unsigned column = first + i * blockDim.x;
                to[i] = column < width ? to_float(row[column]) : 0.0f;
            }
        }
    }

    __device__ __forceinline__ void write(T *row, const float (&from)[N]) const {
        if constexpr (WIDE) {
            if (first < width) store(row + first, from);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                const unsigned column = first + i * blockDim.x;
                if (column < width) from_float(row[column], from[i]);
            }
        }
    }
};

/// What the first thread of every id's first row does for all rows of that id, in their order.
template <bool WIDE, class T>
__device__ __forceinline__ void add_rows(T *table, const unsigned *ids, const T *rows,
                                         unsigned count, unsigned width) {
    const int N = Vector<T>::SIZE;
    unsigned *votes = shared_memory<unsigned>(), *matches = shared_memory<unsigned>(512);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const unsigned row = blockIdx.x, id = ids[row];

    // The block of an id's first row adds all of them; the others have nothing to do.
    bool came_before = false;
    for (unsigned i = threadIdx.x; i < row; i += blockDim.x) came_before |= ids[i] == id;
    const unsigned vote = __ballot_sync(ALL_LANES, came_before);
    if (lane == 0) votes[warp] = vote;
    __syncthreads();
    for (unsigned w = 0; w < warps; w++) {
        if (votes[w] != 0) return;
    }
    __syncthreads();

    const Columns<WIDE, T> columns(width);
    T *to = table + (Index)id * width;
    float sum[N];
    columns.read(sum, to);
    for (unsigned base = row; base < count; base += blockDim.x) {
        const unsigned i = base + threadIdx.x;
        const bool match = i < count && ids[i] == id;
        const unsigned vote = __ballot_sync(ALL_LANES, match);
        if (lane == 0) votes[warp] = vote;
        __syncthreads();
        unsigned before = 0, found = 0;
        for (unsigned w = 0; w < warps; w++) {
            if (w == warp) before = found;
            found += __popc(votes[w]);
        }
        if (match) matches[before + __popc(vote & ((1u << lane) - 1))] = i;
        __syncthreads();
        // Four rows are fetched at once, since a frequent id has hundreds.
        for (unsigned m = 0; m < found; m += 4) {
            float numbers[4][N];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (m + j < found) columns.read(numbers[j], rows + (Index)matches[m + j] * width);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (m + j < found) {
#pragma unroll
                    for (int n = 0; n < N; n++) sum[n] += numbers[j][n];
                }
            }
        }
        __syncthreads();
    }
    columns.write(to, sum);
}

template <class T>
__device__ __forceinline__ void scatter_add_rows(T *table, const unsigned *ids, const T *rows,
                                                 unsigned count, unsigned width) {
    if (wide(table, width) && wide(rows, width)) {
        add_rows<true>(table, ids, rows, count, width);
    } else {
        add_rows<false>(table, ids, rows, count, width);
    }
}

KERNEL scatter_add_rows_f32(float *table, const unsigned *ids, const float *rows, unsigned count,
                            unsigned width) {
    scatter_add_rows(table, ids, rows, count, width);
}

KERNEL scatter_add_rows_bf16(Bf16 *table, const unsigned *ids, const Bf16 *rows, unsigned count,
                             unsigned width) {
    scatter_add_rows(table, ids, rows, count, width);
}
