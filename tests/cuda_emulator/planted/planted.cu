// Kernels with a bug that an argument switches on: what cuemu/tests/planted.rs shows the rig to find. One block each, unless
// said otherwise.

typedef unsigned int u32;

extern "C" __global__ void write_at(u32* out, u32 index, u32 value) { out[index] = value; }
extern "C" __global__ void read_at(const u32* in, u32 index, u32* out) { out[0] = in[index]; }
extern "C" __global__ void add_one(u32* data, u32 count) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) data[i]++;
}

// Numbers in reverse order through shared memory. bug: nobody waits until they are written.
extern "C" __global__ void reverse(const u32* in, u32* out, u32 bug) {
    __shared__ u32 part[64];
    part[threadIdx.x] = in[threadIdx.x];
    if (!bug) __syncthreads();
    out[threadIdx.x] = part[63 - threadIdx.x];
}

// Twice the same; bug: the second round overwrites what slow threads of the first still read.
extern "C" __global__ void reverse_twice(const u32* in, u32* out, u32 bug) {
    __shared__ u32 part[64];
    for (u32 round = 0; round < 2; round++) {
        part[threadIdx.x] = in[threadIdx.x] + round;
        __syncthreads();
        out[round * 64 + threadIdx.x] = part[63 - threadIdx.x];
        if (!bug) __syncthreads();
    }
}

// Within a warp, where __syncwarp is enough.
extern "C" __global__ void reverse_warp(const u32* in, u32* out, u32 bug) {
    __shared__ u32 part[32];
    part[threadIdx.x] = in[threadIdx.x];
    if (!bug) __syncwarp();
    out[threadIdx.x] = part[31 - threadIdx.x];
}

// bug: the two halves of the block wait at different barriers.
extern "C" __global__ void split_barrier(u32* out, u32 bug) {
    if (bug && threadIdx.x < 32) {
        __syncthreads();
        out[threadIdx.x] = 1;
    } else {
        __syncthreads();
        out[threadIdx.x] = 1;
    }
}

// bug: the mask names lanes that have left, or not the one that calls.
extern "C" __global__ void sum_lanes(u32* out, u32 bug) {
    if (bug == 1 && threadIdx.x >= 16) return;
    u32 mask = bug == 2 ? 0xffff0000u : 0xffffffffu, v = 1;
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(mask, v, d);
    if (threadIdx.x == 0) out[0] = v;
}

// bug: what an asynchronous copy brings is read before it was waited for.
extern "C" __global__ void copy_async(const u32* in, u32* out, u32 bug) {
    __shared__ __align__(16) u32 part[128];
    cp_async16_or_zero(&part[threadIdx.x * 4], in + threadIdx.x * 4, true);
    cp_async_commit();
    if (!bug) cp_async_wait<0>();
    for (u32 i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = part[threadIdx.x * 4 + i];
}

// bug: the index leaves the array.
extern "C" __global__ void shared_at(u32* out, u32 index) {
    __shared__ u32 part[32];
    for (u32 i = threadIdx.x; i < 32; i += blockDim.x) part[i] = i;
    __syncthreads();
    out[threadIdx.x] = part[index];
}

// Lists the indices of all threads. bug: in the order in which they come, which is no order.
extern "C" __global__ void list_indices(u32* count, u32* out, u32 bug) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, at = atomicAdd(count, 1u);
    out[bug ? at : i] = i;
}
