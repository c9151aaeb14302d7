// What every kernel uses. No toolkit header is needed: NVRTC compiles all files of this folder as one text.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Threads of a block, unless a kernel says otherwise.
constexpr u32 BLOCK = 256;
// A site that is not active; label of a pixel without a class.
constexpr u32 ABSENT = 0xffffffffu;
constexpr u8 UNLABELLED = 255;

// Counters of a frame, src/cuda/counters.rs.
constexpr u32 SELECTED = 0, NON_FINITE = 1, NON_FINITE_CELLS = 2, KEPT = 3, HIGH = 4, LEFT = 5, THRESHOLD = 6,
              TIES_LEFT = 7, SITES = 8, EXTENTS = 16;

// Grid-stride loops: launches have as many blocks as fit the device, never more than the work could need.
DEV u32 global_index() { return blockIdx.x * BLOCK + threadIdx.x; }
DEV u32 global_step() { return gridDim.x * BLOCK; }

// ---- exp and ln of src/cpu/math.rs: the same rounded operations in the same order (compiled with --fmad=false) ----

DEV float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    float rounded = x * 1.44269504088896340736f + 12582912.0f;
    float n = rounded - 12582912.0f;
    float r = (x - n * 0.693359375f) - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3982e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    float value = (p * (r * r) + r) + 1.0f;
    u32 exponent = __float_as_uint(rounded) - 0x4b400000u + 127u;
    return value * __uint_as_float(exponent << 23);
}

DEV float ln_of(float x) {
    int offset = (int)(__float_as_uint(x) - 0x3f3504f3u) >> 23;
    float e = (float)offset;
    float m = __uint_as_float(__float_as_uint(x) - ((u32)offset << 23)) - 1.0f;
    float p = 7.0376836e-2f;
    p = p * m - 1.151461e-1f;
    p = p * m + 1.1676999e-1f;
    p = p * m - 1.2420141e-1f;
    p = p * m + 1.4249323e-1f;
    p = p * m - 1.6668058e-1f;
    p = p * m + 2.0000714e-1f;
    p = p * m - 2.4999994e-1f;
    p = p * m + 3.333333e-1f;
    float square = m * m;
    float tail = ((p * m) * square + e * -2.1219444e-4f) - 0.5f * square;
    return (m + tail) + e * 0.693359375f;
}

DEV bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// a + f * (b - a), as src/cpu/upsample.rs.
DEV float lerp_of(float a, float b, float f) { return a + f * (b - a); }

// Two inputs of one output position and the share of the second: src/cuda/axis.rs.
struct Tap {
    u32 low, high;
    float weight;
};

// The logits of the selection grid as a pixel sees them: its cell's (nearest), or interpolated (bilinear).
struct CoarseLogits {
    const float* data;
    u32 plane, width;
    int bilinear;
    const u32 *cell_rows, *cell_columns;  // of each camera row and column
    const Tap *row_taps, *column_taps;

    DEV float at(u32 row, u32 column, u32 cls) const {
        const float* map = data + (u64)cls * plane;
        if (!bilinear) return map[(u64)cell_rows[row] * width + cell_columns[column]];
        Tap r = row_taps[row], c = column_taps[column];
        const float *top = map + (u64)r.low * width, *bottom = map + (u64)r.high * width;
        return lerp_of(lerp_of(top[c.low], bottom[c.low], r.weight), lerp_of(top[c.high], bottom[c.high], r.weight),
                       c.weight);
    }
};

struct PixelLogits {
    const CoarseLogits* coarse;
    u32 row, column;
    DEV float operator()(u32 c) const { return coarse->at(row, column, c); }
};

// Tap of a slot of an up map (sites.cu), for a site's parities.
DEV u32 up_tap(u32 site, u32 slot) {
    u32 rows = site >> 16 & 1 ? 1 : 2;
    u32 dr = rows == 1 ? 1 : slot % 2 * 2, dc = site & 1 ? 1 : slot / rows * 2;
    return dr + 3 * dc;
}

// ---- sums over a warp and prefix sums over a block of BLOCK threads ----

DEV u32 warp_sum(u32 v) {
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

DEV u32 warp_inclusive_scan(u32 v) {
    int lane = threadIdx.x & 31;
    for (int d = 1; d < 32; d <<= 1) {
        u32 below = __shfl_up_sync(0xffffffffu, v, d);
        if (lane >= d) v += below;
    }
    return v;
}

// Exclusive prefix sum over the block; `total` gets the sum. `part` holds 32 numbers and may be reused afterwards.
DEV u32 block_exclusive_scan(u32 v, u32* part, u32* total) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = BLOCK >> 5;
    u32 inclusive = warp_inclusive_scan(v);
    if (lane == 31) part[warp] = inclusive;
    __syncthreads();
    if (warp == 0) {
        u32 sum = warp_inclusive_scan(lane < warps ? part[lane] : 0);
        if (lane < warps) part[lane] = sum;
    }
    __syncthreads();
    u32 before = warp ? part[warp - 1] : 0;
    *total = part[warps - 1];
    __syncthreads();
    return before + inclusive - v;
}
