// simt.h: CUDA C++ kernels on the CPU.
//
// Force-include this header before a .cu file that g++ compiles as C++:
//     g++ -x c++ -std=c++17 -include simt.h kernel.cu
// Every CUDA thread is a fibre. The blocks of a grid run one after another on the calling OS thread, in an
// order taken from a seed. Needs no header of the CUDA toolkit.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

struct uint2 {
    unsigned x, y;
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
    return {x, y, z};
}

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#ifdef SIMT_STATIC_SHARED  // sanitizer builds: plain statics get red zones; one block at a time in the whole
                           // process
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber(void);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

namespace simt {

// ---- shared with the emulated driver (same layout in cuemu/src/kernels.rs) ----

enum FaultKind { kNone = 0, kAddress = 1, kSync = 2 };

// What stopped a launch, and the block and thread it happened in.
struct Fault {
    int kind;
    uint64_t addr;
    unsigned block[3], thread[3];
    char what[160];
};

// A kernel the driver can find by name. `pack` copies the launch arguments, `call` runs one thread, `drop`
// frees the copy.
struct Kernel {
    const char* name;
    unsigned nargs;
    const unsigned* sizes;  // of each parameter, in bytes
    void* (*pack)(void** args);
    void (*call)(void* packed);
    void (*drop)(void* packed);
};

enum Order {
    kForward = 0,
    kReverse = 1,
    kRandom = 2
};  // in which threads of a block, and blocks of a grid, are run

// ---- state of the block that is running ----

enum State : uint8_t { kFresh, kReady, kAtBlockBarrier, kAtWarp, kDone };

struct AsyncCopy {
    void* dst;
    const void* src;
    unsigned group;  // how many groups its thread had committed when it was issued
};

struct Thread {
    void* sp = nullptr;
    char* stack = nullptr;
    uint3 tid;
    unsigned id;  // linear index in the block; its low five bits are the lane
    State state;
    int barrier_site;                     // which __syncthreads() it waits at
    unsigned warp_mask;                   // the mask of the warp intrinsic it waits at
    uint64_t warp_value;                  // what it brings to that intrinsic
    uint64_t snapshot[32];                // every lane's value, when the intrinsic completes
    std::vector<AsyncCopy> async_copies;  // cp.async issued and not yet waited for
    unsigned async_groups;                // committed by this thread
    unsigned warp_syncs;                  // intrinsics of its whole warp so far
#ifdef SIMT_TSAN
    void* tsan_fiber = nullptr;
#endif
};

// History of a byte of shared memory, for race.cpp. A phase lies between two barriers; phases are counted over all blocks, so nothing is ever cleared.
struct Shadow {
    uint64_t write_phase = 0, read_phase = 0;
    unsigned writer = 0, write_syncs = 0;                    // thread, and its warp's intrinsics so far
    unsigned reader_warp = 0, reader_lanes = 0, read_syncs = 0;
    bool several_warps = false;
};

struct Block {
    uint3 bid;
    dim3 bdim, gdim;
    const Kernel* kernel;
    void* args;
    void* dynamic_shared;
    size_t dynamic_bytes;
    uint64_t phase = 0;  // barriers passed, and blocks begun
    Fault* fault;
    sigjmp_buf on_fault;
    void* scheduler_sp;
    Thread* current = nullptr;
    std::vector<Thread> threads;
    std::vector<unsigned> ready;
    std::vector<char*> free_stacks;
    std::vector<Shadow> shadows;
    unsigned alive, waiting;
    uint64_t rng;
    int order;
    char barrier_tag;  // the address TSan's barrier annotations hang on
#ifdef SIMT_TSAN
    void* tsan_scheduler = nullptr;
    std::vector<void*> free_fibers;
#endif
};

// The runtime's whole thread-local state is this one variable: every other byte of the library's TLS is
// __shared__ memory, which is how the runtime knows what to poison before each block.
struct Tls {
    Block* running;  // null outside a kernel
    Block* block;
    char* signal_stack;
    char *begin, *end;  // this library's TLS segment
};
inline thread_local Tls tls;

inline Block* running() {
    return tls.running;
}
inline unsigned lane_id() {
    return running()->current->id & 31;
}

[[noreturn]] void fail(Block* b, FaultKind kind, uint64_t addr, const char* what);
#ifdef SIMT_RACECHECK
// race.cpp: an access to shared memory that the compiler's hooks do not see.
void touch(const void* address, size_t size, bool writes, void* code);
#else
inline void touch(const void*, size_t, bool, void*) {}
#endif

void barrier(int site);
// Waits for all lanes in `mask`; returns every lane's value.
const uint64_t* collective(unsigned mask, uint64_t value);

template <class T>
inline uint64_t to_bits(T v) {
    static_assert(sizeof(T) <= 8);
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}
template <class T>
inline T from_bits(uint64_t u) {
    T v;
    memcpy(&v, &u, sizeof v);
    return v;
}

// ---- kernel registry ----

inline std::unordered_map<std::string, Kernel>& registry() {
    static std::unordered_map<std::string, Kernel> kernels;
    return kernels;
}

template <class F>
struct Signature;
template <class... A>
struct Signature<void(A...)> {
    using Packed = std::tuple<std::decay_t<A>...>;
    static constexpr unsigned count = sizeof...(A);
    static inline unsigned sizes[count + 1] = {sizeof(A)...};
    template <size_t... I>
    static Packed* copy(void** args, std::index_sequence<I...>) {
        return new Packed{*static_cast<std::decay_t<A>*>(args[I])...};
    }
    static void* pack(void** args) { return copy(args, std::index_sequence_for<A...>{}); }
    static void drop(void* packed) { delete static_cast<Packed*>(packed); }
    template <void (*f)(A...)>
    static void call(void* packed) {
        std::apply(f, *static_cast<Packed*>(packed));
    }
};

// Makes kernel `f` known to the driver. build_kernels.sh writes one line of this for each `extern "C"
// __global__`.
#define SIMT_KERNEL(f)                                                                                       \
    static const bool simt_registered_##f =                                                                  \
        (simt::registry()[#f] = {#f, simt::Signature<decltype(f)>::count,                                    \
                                 simt::Signature<decltype(f)>::sizes, simt::Signature<decltype(f)>::pack,    \
                                 simt::Signature<decltype(f)>::call<f>, simt::Signature<decltype(f)>::drop}, \
         true);

}  // namespace simt

extern "C" __attribute__((visibility("default"), used)) inline const simt::Kernel* simt_find(
    const char* name) {
    auto found = simt::registry().find(name);
    return found == simt::registry().end() ? nullptr : &found->second;
}

// ---- the vocabulary of device code ----

#define threadIdx (simt::running()->current->tid)
#define blockIdx (simt::running()->bid)
#define blockDim (simt::running()->bdim)
#define gridDim (simt::running()->gdim)
#define warpSize 32

#define __syncthreads() \
    simt::barrier(__COUNTER__)  // the counter tells one barrier in the source from another
#define __syncwarp(...) ((void)simt::collective(0xffffffffu, 0))

template <class T>
inline T __shfl_sync(unsigned mask, T v, int src, int width = 32) {
    auto all = simt::collective(mask, simt::to_bits(v));
    unsigned lane = simt::lane_id();
    return simt::from_bits<T>(all[(lane & ~(width - 1)) | (src & (width - 1))]);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    auto all = simt::collective(mask, simt::to_bits(v));
    unsigned lane = simt::lane_id();
    return (lane & (width - 1)) + delta < (unsigned)width ? simt::from_bits<T>(all[lane + delta]) : v;
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    auto all = simt::collective(mask, simt::to_bits(v));
    unsigned lane = simt::lane_id();
    return (lane & (width - 1)) >= delta ? simt::from_bits<T>(all[lane - delta]) : v;
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int x, int = 32) {
    auto all = simt::collective(mask, simt::to_bits(v));
    return simt::from_bits<T>(all[(simt::lane_id() ^ x) & 31]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    auto all = simt::collective(mask, predicate != 0);
    unsigned result = 0;
    for (unsigned m = mask; m; m &= m - 1) {
        unsigned lane = __builtin_ctz(m);
        if (all[lane] == 1) result |= 1u << lane;
    }
    return result;
}

inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}

using std::max;
using std::min;
template <class T>
inline T __ldg(const T* p) {
    return *p;
}
inline float __expf(float x) {
    return expf(x);
}  // exact here, approximate on the GPU: compare with a tolerance
inline float __logf(float x) {
    return logf(x);
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __clz(int x) {
    return x ? __builtin_clz(x) : 32;
}

inline unsigned __float_as_uint(float x) {
    return simt::to_bits(x);
}
inline float __uint_as_float(unsigned u) {
    return simt::from_bits<float>(u);
}

namespace simt {

// Half precision: gcc's _Float16 rounds to nearest even, as cvt.rn.f16.f32 does.
inline unsigned short half_bits(float x) {
    _Float16 h = (_Float16)x;
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}
inline float half_value(unsigned short bits) {
    _Float16 h;
    memcpy(&h, &bits, 2);
    return (float)h;
}

}  // namespace simt

template <class T>
inline T atomicAdd(T* p, T v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicOr(unsigned* p, unsigned v) {
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicAnd(unsigned* p, unsigned v) {
    return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicExch(T* p, T v) {
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicMax(T* p, T v) {
    T seen = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (seen < v && !__atomic_compare_exchange_n(p, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
inline float atomicAdd(float* p, float v) {
    auto word = reinterpret_cast<uint32_t*>(p);
    uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED), wanted;
    float old;
    do {
        memcpy(&old, &seen, 4);
        float sum = old + v;
        memcpy(&wanted, &sum, 4);
    } while (!__atomic_compare_exchange_n(word, &seen, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
inline int atomicCAS(int* p, int expected, int v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
