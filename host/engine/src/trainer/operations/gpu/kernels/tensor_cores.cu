// What tensor cores and asynchronous copies offer from compute capability 8.0 on, as PTX has it.

#ifndef EMULATED
/// Where something in shared memory lies there.
__device__ __forceinline__ unsigned shared_address(const void *generic) {
    unsigned address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }"
        : "=r"(address)
        : "l"(generic));
    return address;
}
#endif

/// Four matrices of 8 x 8 numbers. Lane 8 j + r says where row r of matrix j is; of each matrix, a lane
/// is given numbers 2 (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const Bf16 *row) {
#ifdef EMULATED
    emulator::load_matrices(to, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

/// The same of the transposed matrices.
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const Bf16 *row) {
#ifdef EMULATED
    emulator::load_matrices(to, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

/// sum += a b; a is 16 x 16, b 16 x 8, in the fragments of PTX's `mma.m16n8k16`.
__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0,
                                         unsigned b1) {
#ifdef EMULATED
    emulator::multiply(sum, a, b0, b1);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Starts a copy of 16 bytes to shared memory, or of zeros where nothing is to be read.
__device__ __forceinline__ void copy_later(Bf16 *to, const Bf16 *from, bool there) {
#ifdef EMULATED
    emulator::copy_later(to, from, there);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
#endif
}

/// Ends a group of copies.
__device__ __forceinline__ void end_copies() {
#ifdef EMULATED
    emulator::end_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits for this thread's copies, all but those of the last `OPEN` groups.
template <int OPEN>
__device__ __forceinline__ void wait_for_copies() {
#ifdef EMULATED
    emulator::wait_for_copies(OPEN);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#endif
}

/// 2^x.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef EMULATED
    return exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}
