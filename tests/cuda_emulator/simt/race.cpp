// Races on shared memory, found whatever order the threads ran in.
//
// The kernels are compiled with -fsanitize=thread, but not linked with its runtime: its hooks are these. Each byte of shared
// memory remembers who wrote it last and which lanes read it since the last barrier. Two accesses of different threads, one
// of them a write, are a race unless a __syncthreads(), or a warp intrinsic of their whole warp, lies between them. Atomic
// operations are not looked at. Global memory is left to the build with the real runtime (build_kernels.sh).
#include "simt.h"

#ifdef SIMT_RACECHECK

namespace simt {

namespace {

[[noreturn]] void race(Block* b, const char* how, unsigned other, void* code) {
    char text[160];
    snprintf(text, sizeof text, "race on shared memory: thread %u of the block %s and no barrier lies between (code %p)",
             other, how, code);
    fail(b, kSync, 0, text);
}

void read_byte(Block* b, const Thread& t, Shadow& s, void* code) {
    unsigned warp = t.id >> 5, lane = 1u << (t.id & 31);
    if (s.write_phase == b->phase && s.writer != t.id && !(s.writer >> 5 == warp && s.write_syncs != t.warp_syncs))
        race(b, "wrote what this one reads,", s.writer, code);
    if (s.read_phase != b->phase) {
        s.read_phase = b->phase, s.several_warps = false;
        s.reader_warp = warp, s.read_syncs = t.warp_syncs, s.reader_lanes = lane;
    } else if (s.reader_warp != warp) {
        s.several_warps = true;
    } else if (s.read_syncs != t.warp_syncs) {
        s.read_syncs = t.warp_syncs, s.reader_lanes = lane;
    } else {
        s.reader_lanes |= lane;
    }
}

void write_byte(Block* b, const Thread& t, Shadow& s, void* code) {
    unsigned warp = t.id >> 5, lane = 1u << (t.id & 31);
    if (s.write_phase == b->phase && s.writer != t.id && !(s.writer >> 5 == warp && s.write_syncs != t.warp_syncs))
        race(b, "wrote what this one writes,", s.writer, code);
    if (s.read_phase == b->phase) {
        unsigned others = s.read_syncs == t.warp_syncs ? s.reader_lanes & ~lane : 0;
        if (s.several_warps || s.reader_warp != warp || others)
            race(b, "read what this one writes,", others ? s.reader_warp * 32 + __builtin_ctz(others) : s.reader_warp * 32,
                 code);
    }
    s.write_phase = b->phase, s.writer = t.id, s.write_syncs = t.warp_syncs;
}

}  // namespace

// An access of the running thread. Only shared memory is looked at.
void touch(const void* address, size_t size, bool writes, void* code) {
    Block* b = running();
    if (!b || !b->current) return;
    size_t at = (const char*)address - tls.begin, shared = tls.end - tls.begin;
    if (at >= shared) {
        at = (const char*)address - (const char*)b->dynamic_shared;
        if (at >= b->dynamic_bytes) return;
        at += shared;
    }
    if (b->shadows.size() < at + size) b->shadows.resize(at + size + 4096);
    Shadow* s = b->shadows.data() + at;
    for (size_t i = 0; i < size; i++) (writes ? write_byte : read_byte)(b, *b->current, s[i], code);
}

}  // namespace simt

#define HOOK(name, size, writes)                                        \
    extern "C" __attribute__((visibility("hidden"))) void name(void* p) { \
        simt::touch(p, size, writes, __builtin_return_address(0));      \
    }
#define HOOKS(size)                               \
    HOOK(__tsan_read##size, size, false)          \
    HOOK(__tsan_write##size, size, true)          \
    HOOK(__tsan_unaligned_read##size, size, false) \
    HOOK(__tsan_unaligned_write##size, size, true)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)

extern "C" {
#pragma GCC visibility push(hidden)
void __tsan_read_range(void* p, size_t size) { simt::touch(p, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t size) { simt::touch(p, size, true, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
#define ATOMIC(bits, type)                                                                                              \
    type __tsan_atomic##bits##_load(const volatile type* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }       \
    type __tsan_atomic##bits##_exchange(volatile type* p, type v, int) {                                                \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                             \
    }                                                                                                                   \
    type __tsan_atomic##bits##_fetch_add(volatile type* p, type v, int) {                                               \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                              \
    }                                                                                                                   \
    type __tsan_atomic##bits##_fetch_or(volatile type* p, type v, int) {                                                \
        return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                                               \
    }                                                                                                                   \
    type __tsan_atomic##bits##_fetch_and(volatile type* p, type v, int) {                                               \
        return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);                                                              \
    }                                                                                                                   \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* expected, type v, int, int) {             \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
    }                                                                                                                   \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* expected, type v, int, int) {               \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
    }
ATOMIC(8, uint8_t) ATOMIC(32, uint32_t) ATOMIC(64, uint64_t)
#pragma GCC visibility pop
}

#endif
