// SwiGLU (Shazeer, arXiv 2002.05202). A row of blocks for each token; the columns are dealt to threads
// as those of `scatter_add_rows` are.

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

template <bool WIDE, class T>
__device__ __forceinline__ void gated(T *out, const T *gate_up, unsigned inner) {
    const Columns<WIDE, T> columns(inner);
    const Index token = blockIdx.x;
    const T *from = gate_up + token * 2 * inner;
    float gate[columns.N], up[columns.N];
    columns.read(gate, from);
    columns.read(up, from + inner);
#pragma unroll
    for (int i = 0; i < columns.N; i++) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
    columns.write(out + token * inner, gate);
}

template <class T>
__device__ __forceinline__ void swiglu(T *out, const T *gate_up, unsigned inner) {
    if (wide(out, inner) && wide(gate_up, inner)) {
        gated<true>(out, gate_up, inner);
    } else {
        gated<false>(out, gate_up, inner);
    }
}

KERNEL swiglu_f32(float *out, const float *gate_up, unsigned inner) {
    swiglu(out, gate_up, inner);
}

KERNEL swiglu_bf16(Bf16 *out, const Bf16 *gate_up, unsigned inner) {
    swiglu(out, gate_up, inner);
}

template <bool WIDE, class T>
__device__ __forceinline__ void gate_gradients(T *d_gate_up, const T *d_out, const T *gate_up,
                                               unsigned inner) {
    const Columns<WIDE, T> columns(inner);
    const Index token = blockIdx.x;
    const T *from = gate_up + token * 2 * inner;
    T *to = d_gate_up + token * 2 * inner;
    float gate[columns.N], up[columns.N], gradient[columns.N];
    columns.read(gate, from);
    columns.read(up, from + inner);
    columns.read(gradient, d_out + token * inner);
#pragma unroll
    for (int i = 0; i < columns.N; i++) {
        const float open = sigmoid(gate[i]);
        const float slope = open * (1.0f + gate[i] * (1.0f - open));
        const float d_gate = gradient[i] * up[i] * slope;
        up[i] = gradient[i] * gate[i] * open;
        gate[i] = d_gate;
    }
    columns.write(to, gate);
    columns.write(to + inner, up);
}

template <class T>
__device__ __forceinline__ void swiglu_backward(T *d_gate_up, const T *d_out, const T *gate_up,
                                                unsigned inner) {
    if (wide(d_gate_up, inner) && wide(d_out, inner) && wide(gate_up, inner)) {
        gate_gradients<true>(d_gate_up, d_out, gate_up, inner);
    } else {
        gate_gradients<false>(d_gate_up, d_out, gate_up, inner);
    }
}

KERNEL swiglu_backward_f32(float *d_gate_up, const float *d_out, const float *gate_up,
                           unsigned inner) {
    swiglu_backward(d_gate_up, d_out, gate_up, inner);
}

KERNEL swiglu_backward_bf16(Bf16 *d_gate_up, const Bf16 *d_out, const Bf16 *gate_up,
                            unsigned inner) {
    swiglu_backward(d_gate_up, d_out, gate_up, inner);
}
