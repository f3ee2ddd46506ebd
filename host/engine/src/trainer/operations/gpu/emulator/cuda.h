// What the kernels take from CUDA, on the CPU: the threads of a block are fibers of one thread of the
// system, which run one after another from each point where they wait to the next.
//
// Everything that CUDA leaves undefined is made to show: memory that nobody wrote holds NaN, blocks,
// warps and lanes run in ascending or in descending order, and asynchronous copies are made as late
// as possible in the one and at once in the other. The caller compares the results of both.

#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#define EMULATED
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Bf16;

namespace emulator {

const unsigned WARP = 32;
const size_t STACK_BYTES = 1 << 17;
const size_t GUARD_BYTES = 256;
const unsigned char RUBBISH = 0xff;

/// A launch, as the tests ask for it.
struct Launch {
    unsigned grid[3], block, shared_bytes, descending;
};

/// Where in the source threads wait.
struct Site {
    const char *file;
    int line;

    static Site here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }

    bool operator==(const Site &other) const {
        return line == other.line && (file == other.file || strcmp(file, other.file) == 0);
    }

    std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

enum class State { READY, AT_BARRIER, IN_WARP, DONE };

struct Copy {
    void *to;
    const void *from;
    bool there;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    jmp_buf place;
    bool started = false;
    State state = State::READY;
    Site site = {"", 0};
    dim3 index = {0, 0, 0};
    /// Copies that were asked for and not yet waited for, by group; the last group is open.
    std::vector<std::vector<Copy>> copies;
};

/// What the lanes of a warp give each other. Two turns are kept, since a lane may be one ahead.
struct Warp {
    unsigned arrived = 0, turn = 0;
    Site site = {"", 0};
    alignas(16) unsigned char slots[2][WARP][32];
    alignas(16) unsigned char results[2][WARP][16];
};

struct Device {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    std::function<void()> body;
    Launch launch;
    dim3 block_index, block_size, grid_size;
    unsigned char *shared_start;
    unsigned current;
    jmp_buf scheduler;
    std::string failure;

    Fiber &fiber() { return *fibers[current]; }
    Warp &warp() { return warps[current / WARP]; }
};

/// That of this thread of the system: tests run beside one another.
inline thread_local Device *device_here = nullptr;

inline Device &device() { return *device_here; }

enum { RETURNED = 1, FAILED = 2 };

/// Ends the launch; the fibers are left as they are and made anew for the next.
[[noreturn]] inline void fail(const std::string &what) {
    Device &d = device();
    const dim3 b = d.block_index;
    char where[96];
    snprintf(where, sizeof where, "block (%u, %u, %u), thread %u: ", b.x, b.y, b.z, d.current);
    d.failure = where + what;
    _longjmp(d.scheduler, FAILED);
}

/// Goes back to the scheduler until this fiber's turn comes again.
__attribute__((noinline)) inline void leave() {
    Device &d = device();
    if (_setjmp(d.fiber().place) == 0) _longjmp(d.scheduler, RETURNED);
}

inline void run_fiber() {
    for (;;) {
        Device &d = device();
        d.body();
        Fiber &fiber = d.fiber();
        for (const auto &group : fiber.copies) {
            if (!group.empty()) fail("ends before its asynchronous copies have arrived");
        }
        fiber.state = State::DONE;
        leave();
    }
}

/// Runs a fiber until it waits or ends; false if the launch failed.
__attribute__((noinline)) inline bool resume(unsigned thread) {
    Device &d = device();
    d.current = thread;
    switch (_setjmp(d.scheduler)) {
    case 0:
        break;
    case RETURNED:
        return true;
    default:
        return false;
    }
    Fiber &fiber = *d.fibers[thread];
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    setcontext(&fiber.context);
    return false;
}

inline unsigned ordered(unsigned i, unsigned count) {
    return device().launch.descending ? count - 1 - i : i;
}

inline const char *name(State state) {
    switch (state) {
    case State::AT_BARRIER:
        return "waits at __syncthreads in ";
    case State::IN_WARP:
        return "waits for its warp in ";
    case State::DONE:
        return "has ended";
    default:
        return "runs";
    }
}

/// Why a block in which no thread can go on does not.
inline std::string divergence() {
    Device &d = device();
    std::string text = "threads wait for others that never come:";
    std::string last;
    for (unsigned t = 0; t < d.launch.block; t++) {
        const Fiber &fiber = *d.fibers[t];
        std::string state = name(fiber.state);
        if (fiber.state != State::DONE) state += fiber.site.text();
        if (state != last) text += " from thread " + std::to_string(t) + ": " + state + ";";
        last = state;
    }
    return text;
}

inline bool run_block() {
    Device &d = device();
    const unsigned threads = d.launch.block;
    memset(d.shared.data(), RUBBISH, d.shared.size());
    for (auto &warp : d.warps) {
        warp.arrived = 0;
        memset(warp.slots, RUBBISH, sizeof warp.slots);
    }
    for (unsigned t = 0; t < threads; t++) {
        d.fibers[t]->state = State::READY;
        d.fibers[t]->copies.assign(1, {});
    }
    for (;;) {
        bool progress = false;
        for (unsigned w = 0; w < threads / WARP; w++) {
            const unsigned warp = ordered(w, threads / WARP);
            for (bool again = true; again;) {
                again = false;
                for (unsigned l = 0; l < WARP; l++) {
                    const unsigned thread = warp * WARP + ordered(l, WARP);
                    if (d.fibers[thread]->state != State::READY) continue;
                    if (!resume(thread)) return false;
                    again = progress = true;
                }
            }
        }
        unsigned done = 0, waiting = 0;
        bool together = true;
        for (unsigned t = 0; t < threads; t++) {
            const Fiber &fiber = *d.fibers[t];
            done += fiber.state == State::DONE;
            waiting += fiber.state == State::AT_BARRIER;
            together &= fiber.site == d.fibers[0]->site;
        }
        if (done == threads) break;
        if (waiting == threads && together) {
            for (unsigned t = 0; t < threads; t++) d.fibers[t]->state = State::READY;
        } else if (!progress || waiting + done == threads) {
            d.failure = divergence();
            return false;
        }
    }
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        const size_t behind = d.shared.size() - 1 - i;
        if (d.shared[i] != RUBBISH || d.shared[behind] != RUBBISH) {
            d.failure = "something was written outside the shared memory";
            return false;
        }
    }
    return true;
}

inline bool run_grid() {
    Device &d = device();
    const unsigned *grid = d.launch.grid;
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                d.block_index = {ordered(x, grid[0]), ordered(y, grid[1]), ordered(z, grid[2])};
                if (!run_block()) return false;
            }
        }
    }
    return true;
}

template <class... A, size_t... I>
std::function<void()> call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    return [=] { kernel(*static_cast<A *>(arguments[I])...); };
}

/// Runs a kernel whose arguments are where `arguments` say; what went wrong, or null.
template <class... A>
const char *launch(void (*kernel)(A...), void **arguments, unsigned count, const Launch &launch) {
    static thread_local Device of_thread;
    device_here = &of_thread;
    Device &d = of_thread;
    if (count != sizeof...(A)) {
        d.failure = "expected " + std::to_string(sizeof...(A)) + " arguments, found " +
                    std::to_string(count);
        return d.failure.c_str();
    }
    if (launch.block == 0 || launch.block % WARP != 0 || launch.block > 1024) {
        d.failure = "a block of " + std::to_string(launch.block) + " threads";
        return d.failure.c_str();
    }
    d.launch = launch;
    d.block_size = {launch.block, 1, 1};
    d.grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
    while (d.fibers.size() < launch.block) d.fibers.emplace_back(new Fiber);
    for (unsigned t = 0; t < launch.block; t++) d.fibers[t]->index = {t, 0, 0};
    d.warps.assign(launch.block / WARP, Warp());
    d.shared.resize(2 * GUARD_BYTES + launch.shared_bytes + 64);
    const size_t start = reinterpret_cast<size_t>(d.shared.data()) + GUARD_BYTES;
    d.shared_start = reinterpret_cast<unsigned char *>((start + 15) / 16 * 16);
    d.shared.resize(d.shared_start - d.shared.data() + launch.shared_bytes + GUARD_BYTES);
    d.body = call(kernel, arguments, std::index_sequence_for<A...>());
    const bool whole = run_grid();
    d.body = nullptr;
    if (whole) return nullptr;
    for (auto &fiber : d.fibers) fiber->started = false;
    return d.failure.c_str();
}

inline void *shared_memory() { return device().shared_start; }

inline void expect_aligned(const void *address, size_t bytes) {
    if (reinterpret_cast<size_t>(address) % bytes != 0) {
        fail("an access of " + std::to_string(bytes) + " bytes is not aligned");
    }
}

/// 16 bytes of shared memory, from a multiple of 16 on.
inline void expect_shared(const void *address) {
    Device &d = device();
    const auto *at = static_cast<const unsigned char *>(address);
    if (at < d.shared_start || at + 16 > d.shared_start + d.launch.shared_bytes) {
        fail("an access outside the shared memory");
    }
    expect_aligned(address, 16);
}

inline unsigned nearest_bf16(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

/// Gives `mine` to the other lanes of the warp and waits for theirs. The last to come runs `finish`.
template <class T, class Finish>
unsigned exchange(const T &mine, Site site, Finish finish) {
    static_assert(sizeof(T) <= 32, "it has to fit a slot");
    Device &d = device();
    Warp &warp = d.warp();
    const unsigned turn = warp.turn % 2, first = d.current / WARP * WARP;
    if (warp.arrived == 0) warp.site = site;
    if (!(warp.site == site)) {
        fail("a warp's lanes part: one is in " + site.text() + ", another in " + warp.site.text());
    }
    memcpy(warp.slots[turn][d.current % WARP], &mine, sizeof(T));
    if (++warp.arrived == WARP) {
        finish(warp, turn);
        warp.arrived = 0;
        warp.turn++;
        for (unsigned l = 0; l < WARP; l++) d.fibers[first + l]->state = State::READY;
    } else {
        d.fiber().state = State::IN_WARP;
        d.fiber().site = site;
        leave();
    }
    return turn;
}

template <class T>
unsigned exchange(const T &mine, Site site) {
    return exchange(mine, site, [](Warp &, unsigned) {});
}

template <class T>
T of_lane(unsigned turn, unsigned lane) {
    T value;
    memcpy(&value, device().warp().slots[turn][lane], sizeof(T));
    return value;
}

inline void load_matrices(unsigned (&to)[4], const void *row, bool transposed,
                          Site site = Site::here()) {
    expect_shared(row);
    // The rows are read when all lanes have come: one that goes on may write to them.
    const unsigned turn = exchange(row, site, [](Warp &warp, unsigned turn) {
        for (unsigned l = 0; l < WARP; l++) {
            const void *from;
            memcpy(&from, warp.slots[turn][l], sizeof from);
            memcpy(warp.results[turn][l], from, 16);
        }
    });
    const Device &d = device();
    const unsigned lane = d.current % WARP;
    const auto &rows = d.warps[d.current / WARP].results[turn];
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        unsigned short pair[2];
        for (unsigned i = 0; i < 2; i++) {
            const unsigned along = lane % 4 * 2 + i, across = lane / 4;
            const unsigned r = transposed ? along : across, c = transposed ? across : along;
            memcpy(&pair[i], &rows[8 * matrix + r][2 * c], 2);
        }
        to[matrix] = pair[0] | (unsigned)pair[1] << 16;
    }
}

struct Fragments {
    unsigned a[4], b[2];
};

inline void unpack_bf16(float &low, float &high, unsigned both) {
    const unsigned bits[2] = {both << 16, both & 0xffff0000u};
    memcpy(&low, &bits[0], 4);
    memcpy(&high, &bits[1], 4);
}

/// Fragments as in the PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": lane
/// 4 g + t holds of a (16 x 16) rows g and g + 8, columns 2 t, 2 t + 1 and the same plus 8; of b (16 x 8)
/// column g, rows 2 t, 2 t + 1 and the same plus 8; of the sum (16 x 8) rows g and g + 8, columns 2 t and
/// 2 t + 1.
inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                     Site site = Site::here()) {
    const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned turn = exchange(mine, site, [](Warp &warp, unsigned turn) {
        float left[16][16], right[16][8], product[16][8] = {};
        for (unsigned lane = 0; lane < WARP; lane++) {
            Fragments of_lane;
            memcpy(&of_lane, warp.slots[turn][lane], sizeof of_lane);
            const unsigned g = lane / 4, t = lane % 4 * 2;
            for (unsigned i = 0; i < 4; i++) {
                float *pair = &left[g + i % 2 * 8][t + i / 2 * 8];
                unpack_bf16(pair[0], pair[1], of_lane.a[i]);
            }
            for (unsigned i = 0; i < 2; i++) {
                unpack_bf16(right[t + 8 * i][g], right[t + 8 * i + 1][g], of_lane.b[i]);
            }
        }
        for (unsigned row = 0; row < 16; row++) {
            for (unsigned k = 0; k < 16; k++) {
                for (unsigned c = 0; c < 8; c++) product[row][c] += left[row][k] * right[k][c];
            }
        }
        for (unsigned lane = 0; lane < WARP; lane++) {
            unsigned char *to = warp.results[turn][lane];
            memcpy(to, &product[lane / 4][lane % 4 * 2], 8);
            memcpy(to + 8, &product[lane / 4 + 8][lane % 4 * 2], 8);
        }
    });
    float products[4];
    memcpy(products, device().warp().results[turn][device().current % WARP], sizeof products);
    for (unsigned i = 0; i < 4; i++) sum[i] += products[i];
}

inline void perform(const Copy &copy) {
    if (copy.there) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

inline void copy_later(void *to, const void *from, bool there) {
    expect_shared(to);
    expect_aligned(from, 16);
    Device &d = device();
    const Copy copy = {to, from, there};
    if (d.launch.descending) {
        perform(copy);
    } else {
        memset(to, RUBBISH, 16);
        d.fiber().copies.back().push_back(copy);
    }
}

inline void end_copies() { device().fiber().copies.emplace_back(); }

inline void wait_for_copies(unsigned open) {
    auto &copies = device().fiber().copies;
    while (copies.size() > open + 1) {
        for (const Copy &copy : copies.front()) perform(copy);
        copies.erase(copies.begin());
    }
}

inline void barrier(Site site) {
    Fiber &fiber = device().fiber();
    fiber.state = State::AT_BARRIER;
    fiber.site = site;
    leave();
}

} // namespace emulator

#define threadIdx emulator::device().fiber().index
#define blockIdx emulator::device().block_index
#define blockDim emulator::device().block_size
#define gridDim emulator::device().grid_size

inline void __syncthreads(emulator::Site site = emulator::Site::here()) {
    emulator::barrier(site);
}

inline void __syncwarp(emulator::Site site = emulator::Site::here()) {
    emulator::exchange('.', site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T x, unsigned offset, emulator::Site site = emulator::Site::here()) {
    if (mask != 0xffffffffu) emulator::fail("only whole warps are emulated");
    const unsigned turn = emulator::exchange(x, site);
    return emulator::of_lane<T>(turn, (emulator::device().current ^ offset) % emulator::WARP);
}

inline unsigned __ballot_sync(unsigned mask, bool vote, emulator::Site site = emulator::Site::here()) {
    if (mask != 0xffffffffu) emulator::fail("only whole warps are emulated");
    const unsigned turn = emulator::exchange(vote, site);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < emulator::WARP; lane++) {
        votes |= (unsigned)emulator::of_lane<bool>(turn, lane) << lane;
    }
    return votes;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
