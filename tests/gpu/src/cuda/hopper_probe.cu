// Uses an instruction of compute capability 9.0a only (wgmma). If this compiles, loads and runs, kernels
// for Hopper's matrix units can be compiled at run time.
extern "C" __global__ void hopper_probe(float* seen) {
    asm volatile("wgmma.fence.sync.aligned;\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;");
    seen[threadIdx.x] = threadIdx.x + 1.0f;
}
