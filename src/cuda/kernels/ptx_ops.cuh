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

#else  // the CPU model

#define DEV inline

// Rounded twice: comparisons of what it feeds have a tolerance.
DEV float multiply_add(float a, float b, float c) { return a * b + c; }
DEV unsigned short half_of(float x) { return simt::half_bits(x); }
DEV float float_of(unsigned short h) { return simt::half_value(h); }

#endif
