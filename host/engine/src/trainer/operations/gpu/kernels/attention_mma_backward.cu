// Gradients of attention in bf16 on tensor cores. Query gradients and key gradients have a kernel each,
// so that nobody adds to what another block adds to, and results do not depend on scheduling.

/// Rows of half a tile.
#define HALF 32u

/// Products of 16 rows of registers with 32 rows of a tile from `row` on, transposed.
template <int D>
__device__ __forceinline__ void row_products(float (&sums)[4][4], const unsigned (&left)[D / 16][4],
                                             const Tile<D> &right, unsigned row) {
    clear(sums);
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            unsigned b[4];
            right.right_transposed(b, row + 16 * n, 16 * c);
            multiply(sums[2 * n], left[c], b[0], b[1]);
            multiply(sums[2 * n + 1], left[c], b[2], b[3]);
        }
    }
}

/// The same, the left operand being 16 rows of a tile.
template <int D>
__device__ __forceinline__ void tile_products(float (&sums)[4][4], const Tile<D> &left,
                                              unsigned left_row, const Tile<D> &right,
                                              unsigned row) {
    clear(sums);
    // Unrolled wholly, it takes more registers than there are for heads of 128.
#pragma unroll 4
    for (int c = 0; c < D / 16; c++) {
        unsigned a[4];
        left.left(a, left_row, 16 * c);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            unsigned b[4];
            right.right_transposed(b, row + 16 * n, 16 * c);
            multiply(sums[2 * n], a, b[0], b[1]);
            multiply(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/// sums += left, 16 x 32, times 32 rows of a tile from `row` on.
template <int D>
__device__ __forceinline__ void add_products(float (&sums)[D / 8][4], const float (&left)[4][4],
                                             const Tile<D> &right, unsigned row) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
        unsigned a[4];
        as_left(a, left[2 * c], left[2 * c + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            unsigned b[4];
            right.right(b, row + 16 * c, 16 * n);
            multiply(sums[2 * n], a, b[0], b[1]);
            multiply(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
__device__ __forceinline__ void query_gradients_mma(Bf16 *dq, const Bf16 *q, const Bf16 *k,
                                                    const Bf16 *v, const float *log_sum,
                                                    const float *delta, const Bf16 *d_out,
                                                    const unsigned *tiles, AttentionShape shape) {
    const QueryTile tile = QueryTile::of(tiles);
    const unsigned head = blockIdx.y, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const unsigned count = tile.end - tile.start, seen = tile.seen_by(tile.end - 1);
    const Bf16 *key_plane = k + shape.plane(head / shape.group);
    const Bf16 *value_plane = v + shape.plane(head / shape.group);
    const Tile<D> keys(0), values(1);

    // Queries and their results' gradients come through the tiles into registers.
    const auto own = [&](unsigned row) { return tile.start + row; };
    keys.copy_from(q + shape.plane(head), count, own);
    values.copy_from(d_out + shape.plane(head), count, own);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    unsigned queries[D / 16][4], gradients[D / 16][4];
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        keys.left(queries[c], warp_row, 16 * c);
        values.left(gradients[c], warp_row, 16 * c);
    }
    const unsigned row = tile.start + warp_row + lane / 4;
    const float *sums = log_sum + (Index)head * shape.tokens;
    const float *deltas = delta + (Index)head * shape.tokens;
    unsigned seen_by[2];
    float of_sum[2], of_delta[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const unsigned query = row + 8 * half;
        const bool there = query < tile.end;
        seen_by[half] = there ? tile.seen_by(query) : 0;
        of_sum[half] = there ? sums[query] * LOG2_E : 0.0f;
        of_delta[half] = there ? deltas[query] : 0.0f;
    }
    const float scale = shape.scale * LOG2_E;
    float result[D / 8][4];
    clear(result);
    // The tiles' halves take turns: one is filled while the other is multiplied.
    const auto copy = [&](unsigned base, unsigned first) {
        const auto place = [&](unsigned row) { return tile.token(base + row); };
        keys.template copy_from<HALF>(key_plane, seen - base, place, first);
        values.template copy_from<HALF>(value_plane, seen - base, place, first);
        end_copies();
    };
    __syncthreads();
    copy(0, 0);
#pragma unroll 1
    for (unsigned base = 0; base < seen; base += HALF) {
        const unsigned first = base % TILE;
        wait_for_copies<0>();
        __syncthreads();
        if (base + HALF < seen) copy(base + HALF, HALF - first);
        float scores[4][4], d_weights[4][4];
        row_products<D>(scores, queries, keys, first);
        row_products<D>(d_weights, gradients, values, first);
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned place = base + 8 * n + lane % 4 * 2 + i % 2;
                const float weight = power_of_two(scores[n][i] * scale - of_sum[i / 2]);
                const float d_score = weight * (d_weights[n][i] - of_delta[i / 2]) * shape.scale;
                scores[n][i] = place < seen_by[i / 2] ? d_score : 0.0f;
            }
        }
        add_products<D>(result, scores, keys, first);
    }
    __syncthreads();
    const float factors[2] = {1.0f, 1.0f};
    keys.write(dq + shape.plane(head), tile.start, count, result, factors);
}

template <int D>
__device__ __forceinline__ void write_part(float *to, const float (&sums)[D / 8][4]) {
    const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned at = (row + 8 * half) * D + 8 * n + lane % 4 * 2;
            *reinterpret_cast<float2 *>(to + at) =
                make_float2(sums[n][2 * half], sums[n][2 * half + 1]);
        }
    }
}

/// Everything is transposed here: a warp's 16 rows are keys, the columns queries.
template <int D>
__device__ __forceinline__ void key_gradients_mma(Bf16 *dk, Bf16 *dv, float *parts, const Bf16 *q,
                                                  const Bf16 *k, const Bf16 *v,
                                                  const float *log_sum, const float *delta,
                                                  const Bf16 *d_out, const unsigned *items,
                                                  AttentionShape shape) {
    const KeyItem item = KeyItem::of(items);
    const unsigned kv_head = blockIdx.y, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    const unsigned count = item.end - item.start;
    const Tile<D> keys(0), values(1), queries(2), gradients(3);
    float *of_sum = shared_memory<float>(4 * Tile<D>::BYTES), *of_delta = of_sum + TILE;

    const auto own = [&](unsigned row) { return item.start + row; };
    keys.copy_from(k + shape.plane(kv_head), count, own);
    values.copy_from(v + shape.plane(kv_head), count, own);
    // The first query that sees each of this lane's two keys; it and all behind it do.
    unsigned first_query[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const unsigned key = item.start + warp_row + lane / 4 + 8 * half;
        const bool seen = key >= item.seen_start && key < item.seen_end;
        first_query[half] = !seen ? item.query_end : item.causal ? key : 0;
    }
    const float scale = shape.scale * LOG2_E;
    float d_keys[D / 8][4], d_values[D / 8][4];
    clear(d_keys);
    clear(d_values);
    // The queries' tiles' halves take turns: one is filled while the other is multiplied.
    const unsigned halves = (item.query_end - item.query_start + HALF - 1) / HALF;
    const unsigned steps = shape.group * halves;
    const auto copy = [&](unsigned step) {
        const unsigned head = kv_head * shape.group + step / halves;
        const unsigned base = item.query_start + step % halves * HALF, first = step % 2 * HALF;
        const unsigned here = item.query_end - base;
        const auto token = [&](unsigned row) { return base + row; };
        queries.template copy_from<HALF>(q + shape.plane(head), here, token, first);
        gradients.template copy_from<HALF>(d_out + shape.plane(head), here, token, first);
        end_copies();
        const unsigned column = threadIdx.x % HALF;
        const bool there = column < here;
        const Index at = (Index)head * shape.tokens + base + column;
        // What is not there is given no weight.
        if (threadIdx.x < HALF) {
            of_sum[first + column] = there ? log_sum[at] * LOG2_E : infinity();
        } else if (threadIdx.x < 2 * HALF) {
            of_delta[first + column] = there ? delta[at] : 0.0f;
        }
    };
    copy(0);
#pragma unroll 1
    for (unsigned step = 0; step < steps; step++) {
        const unsigned base = item.query_start + step % halves * HALF, first = step % 2 * HALF;
        wait_for_copies<0>();
        __syncthreads();
        if (step + 1 < steps) copy(step + 1);
        float weights[4][4], d_scores[4][4];
        tile_products<D>(weights, keys, warp_row, queries, first);
        tile_products<D>(d_scores, values, warp_row, gradients, first);
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned column = 8 * n + lane % 4 * 2 + i % 2;
                const bool sees = base + column >= first_query[i / 2];
                const float weight = power_of_two(weights[n][i] * scale - of_sum[first + column]);
                const float d_score =
                    weight * (d_scores[n][i] - of_delta[first + column]) * shape.scale;
                weights[n][i] = sees ? weight : 0.0f;
                d_scores[n][i] = sees ? d_score : 0.0f;
            }
        }
        add_products<D>(d_values, weights, gradients, first);
        add_products<D>(d_keys, d_scores, queries, first);
    }
    __syncthreads();
    if (parts) {
        float *to = part_of_sum(parts, blockIdx.x, kv_head, gridDim.y, D);
        write_part<D>(to, d_keys);
        write_part<D>(to + TILE * D, d_values);
    } else {
        const float factors[2] = {1.0f, 1.0f};
        keys.write(dk + shape.plane(kv_head), item.start, count, d_keys, factors);
        values.write(dv + shape.plane(kv_head), item.start, count, d_values, factors);
    }
}

#define ATTENTION_MMA_BACKWARD_KERNELS(D)                                                          \
    extern "C" __global__ void __launch_bounds__(128) attention_query_gradient_bf16_##D(           \
        Bf16 *dq, const Bf16 *q, const Bf16 *k, const Bf16 *v, const float *log_sum,               \
        const float *delta, const Bf16 *d_out, const unsigned *tiles, unsigned tokens,             \
        unsigned group, unsigned, float scale) {                                                   \
        query_gradients_mma<D>(dq, q, k, v, log_sum, delta, d_out, tiles,                          \
                               AttentionShape{tokens, group, D, scale});                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) attention_key_gradient_bf16_##D(             \
        Bf16 *dk, Bf16 *dv, float *parts, const Bf16 *q, const Bf16 *k, const Bf16 *v,             \
        const float *log_sum, const float *delta, const Bf16 *d_out, const unsigned *items,        \
        unsigned tokens, unsigned group, unsigned, float scale) {                                  \
        key_gradients_mma<D>(dk, dv, parts, q, k, v, log_sum, delta, d_out, items,                 \
                             AttentionShape{tokens, group, D, scale});                             \
    }

ATTENTION_MMA_BACKWARD_KERNELS(64)
ATTENTION_MMA_BACKWARD_KERNELS(128)
