// Causal attention over packed segments and the prefixes that they share, by plain arithmetic: for f32
// and for sizes of heads that the tensor-core kernels do not have. A warp for each row.
//
// Forward as in "Online normalizer calculation for softmax" (Milakov and Gimelshein, arXiv 1805.02867),
// backward from the logarithms of the sums as in FlashAttention (Dao et al., arXiv 2205.14135).

/// Rows of a tile, of queries as of keys.
#define TILE 64u
/// What a lane keeps of a row of up to 256 numbers.
#define LANE_NUMBERS 8

/// Sizes of a launch. Queries are [heads, tokens, head_dim]; `group` query heads share a key head.
struct AttentionShape {
    unsigned tokens, group, head_dim;
    float scale;

    __device__ __forceinline__ Index plane(unsigned head) const {
        return (Index)head * tokens * head_dim;
    }
};

/// A row of the table of query tiles.
struct QueryTile {
    unsigned start, end, segment_start, prefix_start, prefix_end;

    __device__ __forceinline__ static QueryTile of(const unsigned *table) {
        const unsigned *row = table + 5 * blockIdx.x;
        return {row[0], row[1], row[2], row[3], row[4]};
    }

    /// What a query looks at, in order: the prefix, then its segment up to itself. This is how many.
    __device__ __forceinline__ unsigned seen_by(unsigned query) const {
        return prefix_end - prefix_start + query - segment_start + 1;
    }

    /// The token that stands at some place of that order.
    __device__ __forceinline__ unsigned token(unsigned place) const {
        const unsigned prefix = prefix_end - prefix_start;
        return place < prefix ? prefix_start + place : segment_start + place - prefix;
    }
};

/// A row of the table of key tiles, or of their parts.
struct KeyItem {
    unsigned start, end, seen_start, seen_end, query_start, query_end, causal;

    __device__ __forceinline__ static KeyItem of(const unsigned *table) {
        const unsigned *row = table + 7 * blockIdx.x;
        return {row[0], row[1], row[2], row[3], row[4], row[5], row[6]};
    }

    __device__ __forceinline__ bool sees(unsigned query, unsigned key) const {
        return query < query_end && key >= seen_start && key < seen_end &&
               (!causal || key <= query);
    }
};

/// A warp's part of the shared memory of a plain kernel: some rows, and 64 numbers.
__device__ __forceinline__ float *warp_memory(unsigned rows, unsigned head_dim) {
    const unsigned width = (head_dim + 3) / 4 * 4;
    return shared_memory<float>() + threadIdx.x / 32 * (rows * width + 64);
}

template <class T>
__device__ __forceinline__ void read_row(float *to, const T *from, unsigned head_dim) {
    for (unsigned d = threadIdx.x % 32; d < head_dim; d += 32) to[d] = to_float(from[d]);
}

template <class T>
__device__ __forceinline__ float dot(const float *a, const T *b, unsigned head_dim) {
    float sum = 0.0f;
    for (unsigned d = 0; d < head_dim; d++) sum += a[d] * to_float(b[d]);
    return sum;
}

/// A lane's numbers of a row: every 32nd.
struct LaneRow {
    float x[LANE_NUMBERS];
    unsigned lane = threadIdx.x % 32;

    __device__ __forceinline__ void set(float value) {
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) x[i] = value;
    }

    __device__ __forceinline__ void times(float factor) {
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) x[i] *= factor;
    }

    template <class T>
    __device__ __forceinline__ void add(float factor, const T *row, unsigned head_dim) {
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) {
            const unsigned d = lane + 32 * i;
            if (d < head_dim) x[i] += factor * to_float(row[d]);
        }
    }

    template <class T>
    __device__ __forceinline__ void write(T *row, unsigned head_dim) const {
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) {
            const unsigned d = lane + 32 * i;
            if (d < head_dim) from_float(row[d], x[i]);
        }
    }
};

template <class T>
__device__ __forceinline__ void attend(T *out, float *log_sum, const T *q, const T *k, const T *v,
                                       const unsigned *tiles, AttentionShape shape) {
    const QueryTile tile = QueryTile::of(tiles);
    const unsigned head = blockIdx.y, lane = threadIdx.x % 32, head_dim = shape.head_dim;
    float *query = warp_memory(1, head_dim), *weights = query + (head_dim + 3) / 4 * 4;
    const T *keys = k + shape.plane(head / shape.group), *values = v + shape.plane(head / shape.group);
    for (unsigned row = tile.start + threadIdx.x / 32; row < tile.end; row += 4) {
        const Index at = shape.plane(head) + (Index)row * head_dim;
        read_row(query, q + at, head_dim);
        __syncwarp();
        const unsigned seen = tile.seen_by(row);
        float largest = -infinity(), sum = 0.0f;
        LaneRow result;
        result.set(0.0f);
        for (unsigned base = 0; base < seen; base += 32) {
            const unsigned place = base + lane;
            float score = -infinity();
            if (place < seen) {
                const T *key = keys + (Index)tile.token(place) * head_dim;
                score = dot(query, key, head_dim) * shape.scale;
            }
            const float larger = fmaxf(largest, warp_max(score));
            const float weight = expf(score - larger), shrink = expf(largest - larger);
            largest = larger;
            sum = sum * shrink + warp_sum(weight);
            weights[lane] = weight;
            __syncwarp();
            result.times(shrink);
            for (unsigned j = 0; j < 32 && base + j < seen; j++) {
                result.add(weights[j], values + (Index)tile.token(base + j) * head_dim, head_dim);
            }
            __syncwarp();
        }
        result.times(1.0f / sum);
        result.write(out + at, head_dim);
        if (lane == 0) log_sum[(Index)head * shape.tokens + row] = largest + logf(sum);
    }
}

template <class T>
__device__ __forceinline__ void query_gradients(T *dq, const T *q, const T *k, const T *v,
                                                const float *log_sum, const float *delta,
                                                const T *d_out, const unsigned *tiles,
                                                AttentionShape shape) {
    const QueryTile tile = QueryTile::of(tiles);
    const unsigned head = blockIdx.y, lane = threadIdx.x % 32, head_dim = shape.head_dim;
    const unsigned width = (head_dim + 3) / 4 * 4;
    float *query = warp_memory(2, head_dim), *gradient = query + width, *d_scores = gradient + width;
    const T *keys = k + shape.plane(head / shape.group), *values = v + shape.plane(head / shape.group);
    for (unsigned row = tile.start + threadIdx.x / 32; row < tile.end; row += 4) {
        const Index at = shape.plane(head) + (Index)row * head_dim;
        const float of_sum = log_sum[(Index)head * shape.tokens + row];
        const float of_delta = delta[(Index)head * shape.tokens + row];
        read_row(query, q + at, head_dim);
        read_row(gradient, d_out + at, head_dim);
        __syncwarp();
        const unsigned seen = tile.seen_by(row);
        LaneRow result;
        result.set(0.0f);
        for (unsigned base = 0; base < seen; base += 32) {
            const unsigned place = base + lane;
            float d_score = 0.0f;
            if (place < seen) {
                const Index token = (Index)tile.token(place) * head_dim;
                const float score = dot(query, keys + token, head_dim) * shape.scale;
                const float d_weight = dot(gradient, values + token, head_dim);
                d_score = expf(score - of_sum) * (d_weight - of_delta) * shape.scale;
            }
            d_scores[lane] = d_score;
            __syncwarp();
            for (unsigned j = 0; j < 32 && base + j < seen; j++) {
                result.add(d_scores[j], keys + (Index)tile.token(base + j) * head_dim, head_dim);
            }
            __syncwarp();
        }
        result.write(dq + at, head_dim);
    }
}

/// Where a part of a tile's key and value gradients goes: [parts, key heads, 2, TILE, head_dim].
__device__ __forceinline__ float *part_of_sum(float *parts, unsigned part, unsigned head,
                                              unsigned heads, unsigned head_dim) {
    return parts + ((Index)part * heads + head) * 2 * TILE * head_dim;
}

template <class T>
__device__ __forceinline__ void key_gradients(T *dk, T *dv, float *parts, const T *q, const T *k,
                                              const T *v, const float *log_sum, const float *delta,
                                              const T *d_out, const unsigned *items,
                                              AttentionShape shape) {
    const KeyItem item = KeyItem::of(items);
    const unsigned kv_head = blockIdx.y, lane = threadIdx.x % 32, head_dim = shape.head_dim;
    const unsigned width = (head_dim + 3) / 4 * 4;
    float *key = warp_memory(2, head_dim), *value = key + width;
    float *weights = value + width, *d_scores = weights + 32;
    for (unsigned row = item.start + threadIdx.x / 32; row < item.end; row += 4) {
        const Index at = shape.plane(kv_head) + (Index)row * head_dim;
        read_row(key, k + at, head_dim);
        read_row(value, v + at, head_dim);
        __syncwarp();
        LaneRow d_key, d_value;
        d_key.set(0.0f);
        d_value.set(0.0f);
        for (unsigned member = 0; member < shape.group; member++) {
            const unsigned head = kv_head * shape.group + member;
            const T *queries = q + shape.plane(head), *gradients = d_out + shape.plane(head);
            const float *sums = log_sum + (Index)head * shape.tokens;
            const float *deltas = delta + (Index)head * shape.tokens;
            for (unsigned base = item.query_start; base < item.query_end; base += 32) {
                const unsigned query = base + lane;
                float weight = 0.0f, d_score = 0.0f;
                if (item.sees(query, row)) {
                    const Index token = (Index)query * head_dim;
                    const float score = dot(key, queries + token, head_dim) * shape.scale;
                    const float d_weight = dot(value, gradients + token, head_dim);
                    weight = expf(score - sums[query]);
                    d_score = weight * (d_weight - deltas[query]) * shape.scale;
                }
                weights[lane] = weight;
                d_scores[lane] = d_score;
                __syncwarp();
                for (unsigned j = 0; j < 32 && base + j < item.query_end; j++) {
                    const Index token = (Index)(base + j) * head_dim;
                    d_value.add(weights[j], gradients + token, head_dim);
                    d_key.add(d_scores[j], queries + token, head_dim);
                }
                __syncwarp();
            }
        }
        if (parts) {
            float *to = part_of_sum(parts, blockIdx.x, kv_head, gridDim.y, head_dim);
            d_key.write(to + (row - item.start) * head_dim, head_dim);
            d_value.write(to + (TILE + row - item.start) * head_dim, head_dim);
        } else {
            d_key.write(dk + at, head_dim);
            d_value.write(dv + at, head_dim);
        }
    }
}

/// Adds up the parts of a tile, in their order.
template <class T>
__device__ __forceinline__ void key_sums(T *dk, T *dv, float *parts, const unsigned *sums,
                                         unsigned tokens, unsigned head_dim) {
    const unsigned *row = sums + 4 * blockIdx.x;
    const unsigned start = row[0], end = row[1], first = row[2], behind = row[3];
    const unsigned count = (end - start) * head_dim, value = TILE * head_dim;
    const Index at = ((Index)blockIdx.y * tokens + start) * head_dim;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        float d_key = 0.0f, d_value = 0.0f;
        for (unsigned part = first; part < behind; part++) {
            const float *from = part_of_sum(parts, part, blockIdx.y, gridDim.y, head_dim);
            d_key += from[i];
            d_value += from[value + i];
        }
        from_float(dk[at + i], d_key);
        from_float(dv[at + i], d_value);
    }
}

/// Four warps a block, as for those on tensor cores.
#define ATTENTION_KERNEL extern "C" __global__ void __launch_bounds__(128)

#define ATTENTION_KERNELS(FORMAT, T)                                                               \
    ATTENTION_KERNEL attention_##FORMAT(T *out, float *log_sum, const T *q, const T *k, const T *v,\
                              const unsigned *tiles, unsigned tokens, unsigned group,              \
                              unsigned head_dim, float scale) {                                    \
        attend(out, log_sum, q, k, v, tiles, AttentionShape{tokens, group, head_dim, scale});      \
    }                                                                                              \
    ATTENTION_KERNEL attention_query_gradient_##FORMAT(                                            \
        T *dq, const T *q, const T *k, const T *v, const float *log_sum, const float *delta,       \
        const T *d_out, const unsigned *tiles, unsigned tokens, unsigned group, unsigned head_dim, \
        float scale) {                                                                             \
        query_gradients(dq, q, k, v, log_sum, delta, d_out, tiles,                                 \
                        AttentionShape{tokens, group, head_dim, scale});                           \
    }                                                                                              \
    ATTENTION_KERNEL attention_key_gradient_##FORMAT(                                              \
        T *dk, T *dv, float *parts, const T *q, const T *k, const T *v, const float *log_sum,      \
        const float *delta, const T *d_out, const unsigned *items, unsigned tokens,                \
        unsigned group, unsigned head_dim, float scale) {                                          \
        key_gradients(dk, dv, parts, q, k, v, log_sum, delta, d_out, items,                        \
                      AttentionShape{tokens, group, head_dim, scale});                             \
    }                                                                                              \
    KERNEL attention_key_sums_##FORMAT(T *dk, T *dv, float *parts, const unsigned *sums,           \
                                       unsigned tokens, unsigned head_dim) {                       \
        key_sums(dk, dv, parts, sums, tokens, head_dim);                                           \
    }

ATTENTION_KERNELS(f32, float)
ATTENTION_KERNELS(bf16, Bf16)
