// The runtime of simt.h: fibres, barriers, warp intrinsics, faults. x86-64 Linux. Never compiled with a
// sanitizer.
#include "simt.h"
#include <link.h>
#include <sys/mman.h>

// ---- fibre switch: save the callee-saved registers on the old stack, take them from the new one ----

extern "C" void simt_switch(void** save_sp, void* load_sp);
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size simt_switch,.-simt_switch
)");

namespace simt {
namespace {

constexpr size_t kStack = 64 << 10;
constexpr size_t kPage = 4096;

uint64_t random(Block* b) {
    b->rng ^= b->rng << 13;
    b->rng ^= b->rng >> 7;
    b->rng ^= b->rng << 17;
    return b->rng;
}

// ---- TSan: fibres are switched without a happens-before edge: only barriers and warp intrinsics order ----

#ifdef SIMT_TSAN
void order_release(void* tag) {
    __tsan_release(tag);
}
void order_acquire(void* tag) {
    __tsan_acquire(tag);
}
void enter_fiber(Block* b, Thread& t) {
    const bool first = !t.tsan_fiber;
    if (first) {
        if (b->free_fibers.empty()) b->free_fibers.push_back(__tsan_create_fiber(0));
        t.tsan_fiber = b->free_fibers.back();
        b->free_fibers.pop_back();
        __tsan_release(&b->order);
    }
    b->tsan_scheduler = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(t.tsan_fiber, 1);
    if (first) __tsan_acquire(&b->order);  // after what came before the block
}
void leave_fiber(Block* b) {
    __tsan_switch_to_fiber(b->tsan_scheduler, 1);
}
// The end of a block orders its threads before what follows: blocks share their statics, so they are never concurrent.
void join_fibers(Block* b) {
    for (auto& t : b->threads)
        if (t.tsan_fiber) {
            __tsan_switch_to_fiber(t.tsan_fiber, 1);
            __tsan_release(b);
            __tsan_switch_to_fiber(b->tsan_scheduler, 1);
            b->free_fibers.push_back(t.tsan_fiber);
            t.tsan_fiber = nullptr;
        }
    __tsan_acquire(b);
}
#else
void order_release(void*) {}
void order_acquire(void*) {}
void enter_fiber(Block*, Thread&) {}
void leave_fiber(Block*) {}
void join_fibers(Block*) {}
#endif

// ---- faults ----

}  // namespace

void fail(Block* b, FaultKind kind, uint64_t addr, const char* what) {
    Fault* f = b->fault;
    const Thread* t = b->current;
    f->kind = kind;
    f->addr = addr;
    f->block[0] = b->bid.x, f->block[1] = b->bid.y, f->block[2] = b->bid.z;
    f->thread[0] = t ? t->tid.x : 0, f->thread[1] = t ? t->tid.y : 0, f->thread[2] = t ? t->tid.z : 0;
    snprintf(f->what, sizeof f->what, "%s", what);
    siglongjmp(b->on_fault, 1);
}

namespace {

struct sigaction previous_segv;
void on_segv(int signo, siginfo_t* info, void* ucontext) {
    Block* b = running();
    if (b && b->current) fail(b, kAddress, (uint64_t)info->si_addr, "illegal address");
    if (previous_segv.sa_flags & SA_SIGINFO) {
        previous_segv.sa_sigaction(signo, info, ucontext);
    } else {
        signal(signo, SIG_DFL);
        raise(signo);
    }
}

// ---- shared memory: 0xff (NaN, -1) before every block, so that nothing left by an earlier block helps ----

#ifndef SIMT_STATIC_SHARED
void find_tls_segment(char* inside_this_library) {
    tls.begin = inside_this_library;
    dl_iterate_phdr(
        [](dl_phdr_info* lib, size_t, void* p) {
            bool mine = false;
            size_t tls_size = 0;
            for (int i = 0; i < lib->dlpi_phnum; i++) {
                auto& h = lib->dlpi_phdr[i];
                char* at = (char*)lib->dlpi_addr + h.p_vaddr;
                if (h.p_type == PT_LOAD && p >= at && p < at + h.p_memsz) mine = true;
                if (h.p_type == PT_TLS) tls_size = h.p_memsz;
            }
            if (!mine) return 0;
            tls.begin = (char*)lib->dlpi_tls_data;
            tls.end = tls.begin + tls_size;
            return 1;
        },
        inside_this_library);
}
#endif
void poison_shared() {
    if (!tls.end) return;
    char* own = (char*)&tls;
    memset(tls.begin, 0xff, own - tls.begin);
    memset(own + sizeof tls, 0xff, tls.end - (own + sizeof tls));
}

// ---- scheduler ----

void yield(Block* b) {
    leave_fiber(b);
    simt_switch(&b->current->sp, b->scheduler_sp);
}
void thread_main() {
    Block* b = running();
    b->kernel->call(b->args);
    b->current->state = kDone;
    yield(b);
    __builtin_unreachable();
}
void make_ready(Block* b, Thread& t) {
    t.state = kReady;
    b->ready.push_back(t.id);
}
void give_stack(Block* b, Thread& t) {
    if (b->free_stacks.empty()) {
        char* s = (char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        mprotect(s, kPage, PROT_NONE);
        b->free_stacks.push_back(s);
    }
    t.stack = b->free_stacks.back();
    b->free_stacks.pop_back();
    void** top = (void**)(t.stack + kStack) - 1;  // rsp % 16 == 8 at entry, as after a call
    *--top = (void*)thread_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the six registers simt_switch pops
    t.sp = top;
}
Thread& take_ready(Block* b) {
    auto& ready = b->ready;
    size_t at = b->order == kForward ? ready.size() - 1 : b->order == kReverse ? 0 : random(b) % ready.size();
    Thread& t = b->threads[ready[at]];
    if (b->order == kReverse) {
        ready.erase(ready.begin());
    } else {
        ready[at] = ready.back();
        ready.pop_back();
    }
    return t;
}

void release_block_barrier(Block* b) {
    int site = -1;
    for (auto& t : b->threads) {
        if (t.state != kAtBlockBarrier) continue;
        if (site >= 0 && t.barrier_site != site) {
            b->current = &t;
            fail(b, kSync, 0, "threads of one block wait at different __syncthreads()");
        }
        site = t.barrier_site;
    }
    b->waiting = 0;
    b->phase++;
    for (auto& t : b->threads)
        if (t.state == kAtBlockBarrier) make_ready(b, t);
}

void run_block(Block* b) {
    const unsigned n = b->bdim.x * b->bdim.y * b->bdim.z;
    b->ready.clear();
    b->alive = n;
    b->waiting = 0;
    b->phase++;
    for (unsigned i = 0; i < n; i++) {
        Thread& t = b->threads[i];
        t.id = i;
        t.state = kFresh;
        t.async_copies.clear();
        t.async_groups = 0;
        t.warp_syncs = 0;
        t.tid = make_uint3(i % b->bdim.x, i / b->bdim.x % b->bdim.y, i / (b->bdim.x * b->bdim.y));
    }
    for (unsigned i = n; i--;) b->ready.push_back(i);
    while (!b->ready.empty()) {
        Thread& t = take_ready(b);
        if (t.state == kFresh) give_stack(b, t);
        b->current = &t;
        t.state = kReady;
        enter_fiber(b, t);
        simt_switch(&b->scheduler_sp, t.sp);
        b->current = nullptr;
        if (t.state == kDone) {
#ifndef SIMT_TSAN  // to TSan another thread on the same stack is a race: there the whole block keeps its stacks
            b->free_stacks.push_back(t.stack);
#endif
            b->alive--;
            if (b->waiting && b->waiting == b->alive) release_block_barrier(b);
        }
    }
    join_fibers(b);
#ifdef SIMT_TSAN
    for (auto& t : b->threads)
        if (t.state == kDone) b->free_stacks.push_back(t.stack);
#endif
    if (b->alive) {
        for (auto& t : b->threads)
            if (t.state != kDone) {
                b->current = &t;
                break;
            }
        fail(b, kSync, 0, "deadlock: threads wait at a barrier or warp intrinsic that others never reach");
    }
}

unsigned gcd(unsigned a, unsigned b) {
    return b ? gcd(b, a % b) : a;
}

// Runs the blocks in the chosen order; a random order is the affine permutation start + i*step (mod blocks).
void run_grid(Block* b) {
    const unsigned blocks = b->gdim.x * b->gdim.y * b->gdim.z;
    unsigned start = 0, step = 1;
    if (b->order == kRandom) {
        start = random(b) % blocks;
        do step = random(b) % blocks + 1;
        while (gcd(step, blocks) != 1);
    }
    for (unsigned i = 0; i < blocks; i++) {
        unsigned j = b->order == kReverse ? blocks - 1 - i : (start + (uint64_t)i * step) % blocks;
        b->bid = make_uint3(j % b->gdim.x, j / b->gdim.x % b->gdim.y, j / (b->gdim.x * b->gdim.y));
        poison_shared();
        run_block(b);
    }
}

}  // namespace

// ---- __syncthreads and warp intrinsics ----

void barrier(int site) {
    Block* b = running();
    Thread* t = b->current;
    t->state = kAtBlockBarrier;
    t->barrier_site = site;
    order_release(&b->barrier_tag);
    if (++b->waiting == b->alive) release_block_barrier(b);
    yield(b);
    order_acquire(&b->barrier_tag);
}

const uint64_t* collective(unsigned mask, uint64_t value) {
    Block* b = running();
    Thread* t = b->current;
    const unsigned warp = t->id & ~31u, in_block = (unsigned)b->threads.size();
    const unsigned whole = in_block - warp < 32 ? (1u << (in_block - warp)) - 1 : ~0u;
    mask &= whole;  // a last, partial warp
    if (!(mask >> (t->id & 31) & 1)) fail(b, kSync, 0, "warp intrinsic: the calling lane is not in its mask");
    t->state = kAtWarp;
    t->warp_mask = mask;
    t->warp_value = value;
    void* tag = &b->threads[warp];
    order_release(tag);

    bool complete = true;
    for (unsigned m = mask; m && complete; m &= m - 1) {
        Thread& other = b->threads[warp + __builtin_ctz(m)];
        if (other.state == kDone) fail(b, kSync, 0, "warp intrinsic: a lane named in the mask has exited");
        complete = other.state == kAtWarp && other.warp_mask == mask;
    }
    if (complete)
        for (unsigned m = mask; m; m &= m - 1) {
            Thread& other = b->threads[warp + __builtin_ctz(m)];
            for (unsigned q = mask; q; q &= q - 1) {
                unsigned lane = __builtin_ctz(q);
                other.snapshot[lane] = b->threads[warp + lane].warp_value;
            }
            other.warp_syncs += mask == whole;
            make_ready(b, other);
        }
    yield(b);
    order_acquire(tag);
    return t->snapshot;
}

}  // namespace simt

// Runs a whole grid. `dims`: grid x y z, block x y z. Returns the fault's kind, 0 for none.
extern "C" __attribute__((visibility("default"), used)) int simt_run(const simt::Kernel* kernel, void* args,
                                                                     const unsigned* dims,
                                                                     unsigned dynamic_shared, uint64_t seed,
                                                                     int order, simt::Fault* fault) {
    using namespace simt;
    static const bool handler_installed = [] {
        struct sigaction a {};
        a.sa_sigaction = on_segv;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        return sigaction(SIGSEGV, &a, &previous_segv) == 0;
    }();
    (void)handler_installed;
    if (!tls.block) {  // first launch on this OS thread
        tls.block = new Block;
        tls.signal_stack = (char*)malloc(64 << 10);
        stack_t st{};
        st.ss_sp = tls.signal_stack;
        st.ss_size = 64 << 10;
        sigaltstack(&st, nullptr);
#ifndef SIMT_STATIC_SHARED
        find_tls_segment((char*)&simt_run);
#endif
    }
#ifdef SIMT_STATIC_SHARED
    static std::mutex one_block;
    std::lock_guard<std::mutex> hold(one_block);
#endif
    Block* b = tls.block;
    b->gdim = dim3{dims[0], dims[1], dims[2]};
    b->bdim = dim3{dims[3], dims[4], dims[5]};
    b->kernel = kernel;
    b->args = args;
    b->fault = fault;
    b->order = order;
    b->rng = seed * 0x9E3779B97F4A7C15ull + 0x1234567;
    b->threads.resize(dims[3] * dims[4] * dims[5]);
    std::vector<char> dynamic(dynamic_shared + 16, (char)0xff);
    b->dynamic_shared = (void*)(((uintptr_t)dynamic.data() + 15) & ~(uintptr_t)15);
    b->dynamic_bytes = dynamic_shared;
    fault->kind = kNone;
    tls.running = b;
    if (sigsetjmp(b->on_fault, 1) == 0) run_grid(b);
    tls.running = nullptr;
    b->current = nullptr;
    return fault->kind;
}
