// Philox2x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): random words that depend on a key and a counter
// alone.

struct RandomWords {
    unsigned first, second;
};

__device__ __forceinline__ RandomWords random_words(unsigned key, Index counter) {
    unsigned left = (unsigned)counter, right = (unsigned)(counter >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const Index product = (Index)0xd256d193u * left;
        left = (unsigned)(product >> 32) ^ key ^ right;
        right = (unsigned)product;
        key += 0x9e3779b9u;
    }
    return {left, right};
}
