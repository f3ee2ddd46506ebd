// Attention in bf16 on tensor cores, as FlashAttention-2 (Dao, arXiv 2307.08691) lays it out: a block
// for 64 queries of a head, each of its four warps for 16 of them; scores and weights stay in registers.

#define LOG2_E 1.4426950408889634f

/// 64 rows of `D` numbers in shared memory, padded so that eight rows that a warp reads at once lie in
/// different banks.
template <int D>
struct Tile {
    static constexpr int STRIDE = D + 8;
    static constexpr unsigned BYTES = TILE * STRIDE * 2;

    Bf16 *rows;

    __device__ __forceinline__ explicit Tile(int which)
        : rows(shared_memory<Bf16>(which * BYTES)) {}

    /// Starts to fill `ROWS` rows of the tile from `first` on: the r-th of them from row `token(r)` of
    /// `plane`, those from `count` on with zeros.
    template <int ROWS = TILE, class Token>
    __device__ __forceinline__ void copy_from(const Bf16 *plane, unsigned count, Token token,
                                              unsigned first = 0) const {
#pragma unroll
        for (unsigned i = 0; i < ROWS * D / 8 / 128; i++) {
            const unsigned piece = 128 * i + threadIdx.x;
            const unsigned row = piece / (D / 8), column = piece % (D / 8) * 8;
            const bool there = row < count;
            const Bf16 *from = plane + (there ? (Index)token(row) * D + column : 0);
            copy_later(rows + (first + row) * STRIDE + column, from, there);
        }
    }

    /// As the left operand: 16 rows from `row` on, 16 numbers from `column` on.
    __device__ __forceinline__ void left(unsigned (&a)[4], unsigned row, unsigned column) const {
        const unsigned lane = threadIdx.x % 32;
        load_matrices(a, rows + (row + lane % 16) * STRIDE + column + lane / 16 * 8);
    }

    /// As the right operand, transposed: its columns are 16 rows from `row` on, in two halves.
    __device__ __forceinline__ void right_transposed(unsigned (&b)[4], unsigned row,
                                                     unsigned column) const {
        const unsigned lane = threadIdx.x % 32;
        load_matrices(b, rows + (row + lane % 8 + lane / 16 * 8) * STRIDE + column + lane / 8 % 2 * 8);
    }

    /// As the right operand: 16 rows from `row` on, 16 columns from `column` on, in two halves.
    __device__ __forceinline__ void right(unsigned (&b)[4], unsigned row, unsigned column) const {
        const unsigned lane = threadIdx.x % 32;
        load_transposed(b, rows + (row + lane % 16) * STRIDE + column + lane / 16 * 8);
    }

    /// Writes a warp's 16 rows of sums times a factor for each half of them to `plane`, as far as there
    /// are `count`; through the warp's own rows of the tile, so that 16 bytes are written at once.
    __device__ __forceinline__ void write(Bf16 *plane, unsigned start, unsigned count,
                                          const float (&sums)[D / 8][4],
                                          const float (&factors)[2]) const {
        const unsigned lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
        __syncwarp();
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const unsigned at = (first + lane / 4 + 8 * half) * STRIDE + 8 * n + lane % 4 * 2;
                *reinterpret_cast<unsigned *>(rows + at) =
                    pack(sums[n][2 * half] * factors[half], sums[n][2 * half + 1] * factors[half]);
            }
        }
        __syncwarp();
#pragma unroll
        for (unsigned i = 0; i < 16 * D / 8 / 32; i++) {
            const unsigned piece = 32 * i + lane;
            const unsigned row = first + piece / (D / 8), column = piece % (D / 8) * 8;
            if (row < count) {
                *reinterpret_cast<uint4 *>(plane + (Index)(start + row) * D + column) =
                    *reinterpret_cast<const uint4 *>(rows + row * STRIDE + column);
            }
        }
        __syncwarp();
    }
};

/// Sums of products of 16 rows, all zero.
template <int N>
__device__ __forceinline__ void clear(float (&sums)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
    }
}

/// Sums over 16 rows and 16 columns, rounded, as the left operand of the next product: the fragments
/// of two results side by side are those of an operand.
__device__ __forceinline__ void as_left(unsigned (&a)[4], const float (&left)[4],
                                        const float (&right)[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}

/// Reduces over the four lanes that hold one row's sums.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

template <int D>
__device__ __forceinline__ void attend_mma(Bf16 *out, float *log_sum, const Bf16 *q, const Bf16 *k,
                                           const Bf16 *v, const unsigned *tiles,
                                           AttentionShape shape) {
    const QueryTile tile = QueryTile::of(tiles);
    const unsigned head = blockIdx.y, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const unsigned count = tile.end - tile.start, seen = tile.seen_by(tile.end - 1);
    const Bf16 *key_plane = k + shape.plane(head / shape.group);
    const Bf16 *value_plane = v + shape.plane(head / shape.group);
    const Tile<D> keys(0), values(1);

    const auto copy = [&](const Tile<D> &to, const Bf16 *plane, unsigned base) {
        if (base < seen) {
            to.copy_from(plane, seen - base, [&](unsigned row) { return tile.token(base + row); });
        }
        end_copies();
    };
    // The queries come through the values' tile into registers.
    values.copy_from(q + shape.plane(head), count, [&](unsigned row) { return tile.start + row; });
    end_copies();
    copy(keys, key_plane, 0);
    wait_for_copies<1>();
    __syncthreads();
    unsigned queries[D / 16][4];
#pragma unroll
    for (int c = 0; c < D / 16; c++) values.left(queries[c], warp_row, 16 * c);
    __syncthreads();
    copy(values, value_plane, 0);
    // This lane's two rows, and how many places each of them sees.
    const unsigned row = tile.start + warp_row + lane / 4;
    const unsigned seen_by[2] = {tile.seen_by(row), tile.seen_by(row + 8)};
    const unsigned seen_by_all = tile.seen_by(tile.start + warp_row);
    const float scale = shape.scale * LOG2_E;
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    float result[D / 8][4];
    clear(result);
#pragma unroll 1
    for (unsigned base = 0; base < seen; base += TILE) {
        wait_for_copies<1>();
        __syncthreads();
        float scores[8][4];
        clear(scores);
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                unsigned b[4];
                keys.right_transposed(b, 16 * n, 16 * c);
                multiply(scores[2 * n], queries[c], b[0], b[1]);
                multiply(scores[2 * n + 1], queries[c], b[2], b[3]);
            }
        }
        if (base + TILE > seen_by_all) {
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const unsigned place = base + 8 * n + lane % 4 * 2 + i % 2;
                    if (place >= seen_by[i / 2]) scores[n][i] = -infinity();
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float larger = largest[half];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                larger = fmaxf(larger, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            }
            larger = row_max(larger);
            // Every row sees its first place, which is in the first tile: this is finite from there on.
            const float shrink = power_of_two((largest[half] - larger) * scale);
            largest[half] = larger;
            sum[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                result[n][2 * half] *= shrink;
                result[n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = power_of_two((scores[n][i] - larger) * scale);
                    sum[half] += scores[n][i];
                }
            }
        }
        wait_for_copies<0>();
        __syncthreads();
        // All warps are through with the keys: the next ones come while values are multiplied.
        copy(keys, key_plane, base + TILE);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            unsigned a[4];
            as_left(a, scores[2 * c], scores[2 * c + 1]);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                unsigned b[4];
                values.right(b, 16 * c, 16 * n);
                multiply(result[2 * n], a, b[0], b[1]);
                multiply(result[2 * n + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
        copy(values, value_plane, base + TILE);
    }
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] = row_sum(sum[half]);
        inverse[half] = 1.0f / sum[half];
        if (lane % 4 == 0 && row + 8 * half < tile.end) {
            log_sum[(Index)head * shape.tokens + row + 8 * half] =
                largest[half] * shape.scale + logf(sum[half]);
        }
    }
    keys.write(out + shape.plane(head), tile.start, count, result, inverse);
}

// As many blocks on a multiprocessor as the registers allow without spilling one.
#define ATTENTION_MMA_KERNEL(D)                                                                    \
    extern "C" __global__ void __launch_bounds__(128, D == 64 ? 3 : 2) attention_bf16_##D(         \
        Bf16 *out, float *log_sum, const Bf16 *q, const Bf16 *k, const Bf16 *v,                    \
        const unsigned *tiles, unsigned tokens, unsigned group, unsigned, float scale) {           \
        attend_mma<D>(out, log_sum, q, k, v, tiles, AttentionShape{tokens, group, D, scale});      \
    }

ATTENTION_MMA_KERNEL(64)
ATTENTION_MMA_KERNEL(128)
