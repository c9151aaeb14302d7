// The one file that differs between the GPU and the CPU build of the tests: every operation that is not plain C++, with
// its CPU model beside it.

#ifdef __CUDACC__

#define DEV __device__ __forceinline__

DEV float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEV unsigned short half_of(float x) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
DEV float float_of(unsigned short h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}

#if __CUDA_ARCH__ >= 800

// 16 bytes of global memory into shared memory in the background, or zeros.
DEV void cp_async16_or_zero(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(valid ? 16 : 0));
}
// Ends a group of copies; the wait below leaves the last N groups under way. Each thread waits for its own copies: others
// see them after a barrier.
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int N>
DEV void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}
// Four 8x8 matrices of halves: lane l gives the address of row l % 8 of matrix l / 8; r[i] gets two halves of matrix i.
DEV void ldmatrix_x4(unsigned r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
}
// C[16x8] += A[16x16] * B[16x8], halves in, floats out; A row-major, B column-major.
DEV void mma16816(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#define HAS_TENSOR_CORES 1

#endif

#else  // the CPU model

#define DEV inline

// Rounded twice: comparisons of what it feeds have a tolerance.
DEV float multiply_add(float a, float b, float c) { return a * b + c; }
DEV unsigned short half_of(float x) { return simt::half_bits(x); }
DEV float float_of(unsigned short h) { return simt::half_value(h); }

// Nothing is copied before the wait, so that a missing wait, or a barrier before it, is seen. The real copy may come at any
// time from here on: for the race check it is a write now and at the wait.
DEV void cp_async16_or_zero(void* shared, const void* global, bool valid) {
    alignas(16) static const char zeros[16] = {};
    simt::touch(shared, 16, true, __builtin_return_address(0));
    auto* thread = simt::running()->current;
    thread->async_copies.push_back({shared, valid ? global : zeros, thread->async_groups});
}
DEV void cp_async_commit() { simt::running()->current->async_groups++; }
template <int N>
DEV void cp_async_wait() {
    auto* thread = simt::running()->current;
    auto& copies = thread->async_copies;
    size_t left = 0;
    for (auto& copy : copies) {
        if (copy.group + N < thread->async_groups) {
            simt::touch(copy.dst, 16, true, __builtin_return_address(0));
            memcpy(copy.dst, copy.src, 16);
        } else {
            copies[left++] = copy;
        }
    }
    copies.resize(left);
}

DEV void ldmatrix_x4(unsigned r[4], const void* row) {
    auto rows = simt::collective(~0u, (uint64_t)row);
    int l = simt::lane_id();
    for (int i = 0; i < 4; i++) {
        auto* pair = (const char*)rows[8 * i + l / 4] + 4 * (l % 4);
        simt::touch(pair, 4, false, __builtin_return_address(0));
        memcpy(&r[i], pair, 4);
    }
}

// Fragment layout of the PTX ISA for mma.m16n8k16 with .f16: lane l holds rows l / 4 (+ 8), columns 2 * (l % 4) (+ 1, + 8,
// + 9). Lanes show each other where their fragments lie; nobody goes on before all have read.
DEV void mma16816(float c[4], const unsigned a[4], const unsigned b[2]) {
    struct Fragments {
        const unsigned *a, *b;
    } own{a, b};
    const Fragments* of[32];
    auto all = simt::collective(~0u, (uint64_t)&own);
    for (int l = 0; l < 32; l++) of[l] = (const Fragments*)all[l];
    int l = simt::lane_id();
    float A[2][16], B[2][16], sum[4];
    for (int k = 0; k < 16; k += 2) {
        for (int r = 0; r < 2; r++) {
            unsigned pair = of[l / 4 * 4 + k % 8 / 2]->a[r + 2 * (k / 8)];
            A[r][k] = float_of(pair & 0xffff), A[r][k + 1] = float_of(pair >> 16);
        }
        for (int n = 0; n < 2; n++) {
            unsigned pair = of[(2 * (l % 4) + n) * 4 + k % 8 / 2]->b[k / 8];
            B[n][k] = float_of(pair & 0xffff), B[n][k + 1] = float_of(pair >> 16);
        }
    }
    for (int i = 0; i < 4; i++) {
        sum[i] = 0.0f;
        for (int k = 0; k < 16; k++) sum[i] += A[i >> 1][k] * B[i & 1][k];
    }
    simt::collective(~0u, 0);
    for (int i = 0; i < 4; i++) c[i] += sum[i];
}
#define HAS_TENSOR_CORES 1

#endif
