// The sparse U-Net's convolutions as implicit GEMM on tensor cores: halves in, 32-bit sums. Oracle: network.cu.
//
// Rows are sites, columns output channels, depth the taps times the input channels. Rows of neighbours are gathered
// straight into shared memory by asynchronous copies, zeros where there is no neighbour (zero AFTER the normalisation, as
// the network wants it). Each sum belongs to one warp and runs over taps, then channels: no atomics, the same result
// whatever the launch.

constexpr u32 TILE_SITES = 64, TILE_OUTPUTS = 32;  // of a block of 4 warps, 16 sites each
constexpr u32 DEPTH = 32;                          // halves of depth per step of the ring: two chunks of 16
constexpr u32 RING = 3;
constexpr u32 TENSOR_BLOCK = 128;

// Place of a 16-byte piece in a tile whose rows are four pieces: no two of eight neighbouring rows share a bank.
DEV u32 swizzled(u32 row, u32 piece) { return row * DEPTH + (piece ^ (row >> 1 & 3)) * 8; }

// The input site of an output site at a tap, or ABSENT.
DEV u32 source_of(u32 site, u32 tap, const u32* map, u32 map_pitch, const u32* sites, u32 gather) {
    if (gather == GATHER_SAME) return site;
    if (gather == GATHER_NINE) return map[(u64)tap * map_pitch + site];
    u32 dr = tap % 3, dc = tap / 3, odd_row = sites[site] >> 16 & 1, odd_column = sites[site] & 1;
    // An even row reads with tap rows 0 and 2, an odd one with 1.
    if ((dr == 1) != (odd_row == 1) || (dc == 1) != (odd_column == 1)) return ABSENT;
    u32 slot = dr / 2 + dc / 2 * (odd_row ? 1 : 2);
    return map[(u64)slot * map_pitch + site];
}

// input: [site][chunks * 16] halves. weights: [column tile][step][TILE_OUTPUTS][DEPTH] halves, zeros where there is no
// channel. bias: whole column tiles. STORE, ADD: floats [site][outputs]; RELU: halves [site][half_pitch], zeros beyond.
extern "C" __global__ void __launch_bounds__(128)
    conv_f16(const u16* input, u32 chunks, u32 taps, const u32* map, u32 map_pitch, const u32* sites,
             const u32* counters, u32 level, u32 capacity, const u16* weights, const float* bias, float* output,
             u16* half_output, u32 outputs, u32 half_pitch, u32 gather, u32 finish) {
#ifdef HAS_TENSOR_CORES
    __shared__ __align__(16) u16 rows[RING][TILE_SITES * DEPTH];
    __shared__ __align__(16) u16 columns[RING][TILE_OUTPUTS * DEPTH];
    u32 count = min(counters[SITES + level], capacity);
    u32 column_tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    u32 all_chunks = taps * chunks, steps = (all_chunks + 1) / 2;
    u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    u32 tiles = (count + TILE_SITES - 1) / TILE_SITES * column_tiles;

    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        u32 first_site = tile / column_tiles * TILE_SITES, column_tile = tile % column_tiles;
        // This thread copies one chunk of one row, and one piece of the weights, in each step.
        u32 row = thread / 2, site = first_site + row;
        auto load = [&](u32 step) {
            u32 slot = step % RING, chunk = 2 * step + thread % 2;
            u32 from = ABSENT;
            if (chunk < all_chunks && site < count)
                from = source_of(site, chunk / chunks, map, map_pitch, sites, gather);
            bool valid = from != ABSENT;
            const u16* source = input + (valid ? ((u64)from * chunks + chunk % chunks) * 16 : 0);
            for (u32 half = 0; half < 2; half++)
                cp_async16_or_zero(&rows[slot][swizzled(row, thread % 2 * 2 + half)], source + half * 8, valid);
            u32 output_row = thread / 4, piece = thread % 4;
            const u16* weight = weights + (((u64)column_tile * steps + step) * TILE_OUTPUTS + output_row) * DEPTH;
            cp_async16_or_zero(&columns[slot][swizzled(output_row, piece)], weight + piece * 8, true);
        };
        float sums[4][4] = {};
        for (u32 step = 0; step < RING - 1; step++) {
            if (step < steps) load(step);
            cp_async_commit();
        }
        for (u32 step = 0; step < steps; step++) {
            cp_async_wait<RING - 2>();
            __syncthreads();  // everybody's copies of this step are there; the slot of the step before is free
            if (step + RING - 1 < steps) load(step + RING - 1);
            cp_async_commit();
            u32 slot = step % RING;
            for (u32 part = 0; part < 2; part++) {
                unsigned a[4];
                ldmatrix_x4(a, &rows[slot][swizzled(warp * 16 + (lane & 15), part * 2 + (lane >> 4))]);
                for (u32 pair = 0; pair < 2; pair++) {
                    unsigned b[4];
                    u32 n = pair * 16 + (lane >> 4) * 8 + (lane & 7);
                    ldmatrix_x4(b, &columns[slot][swizzled(n, part * 2 + (lane >> 3 & 1))]);
                    mma16816(sums[pair * 2], a, b);
                    mma16816(sums[pair * 2 + 1], a, b + 2);
                }
            }
        }
        __syncthreads();  // before the next tile's copies
        for (u32 n = 0; n < 4; n++)
            for (u32 i = 0; i < 4; i++) {
                u32 to = first_site + warp * 16 + lane / 4 + i / 2 * 8;
                u32 channel = column_tile * TILE_OUTPUTS + n * 8 + lane % 4 * 2 + i % 2;
                if (to >= count) continue;
                float v = sums[n][i] + bias[channel];
                if (finish == RELU) {
                    if (channel < half_pitch) half_output[(u64)to * half_pitch + channel] = half_of(v > 0.0f ? v : 0.0f);
                } else if (channel < outputs) {
                    float* y = output + (u64)to * outputs + channel;
                    *y = finish == ADD ? *y + v : v;
                }
            }
    }
#endif
}

// y = relu(scale * x + shift) in halves, rows of `pitch`, zeros beyond the channels.
extern "C" __global__ void affine_relu_f16(const float* x, u16* y, const u32* counters, u32 level, u32 capacity,
                                           u32 channels, u32 pitch, const float* scale, const float* shift) {
    u64 count = (u64)min(counters[SITES + level], capacity) * pitch;
    for (u64 i = global_index(); i < count; i += global_step()) {
        u32 c = (u32)(i % pitch);
        float v = c < channels ? scale[c] * x[i / pitch * channels + c] + shift[c] : 0.0f;
        y[i] = half_of(v > 0.0f ? v : 0.0f);
    }
}

// Skip and u side by side, the skip first: raw, and normalised and rectified, both in halves, zeros beyond.
extern "C" __global__ void concatenate_f16(const float* skip, const float* u, u16* raw, u16* activated,
                                           const u32* counters, u32 level, u32 capacity, u32 channels, u32 pitch,
                                           const float* scale, const float* shift) {
    u64 count = (u64)min(counters[SITES + level], capacity) * pitch;
    for (u64 i = global_index(); i < count; i += global_step()) {
        u64 site = i / pitch;
        u32 c = (u32)(i % pitch);
        bool inside = c < 2 * channels;
        float x = !inside ? 0.0f : c < channels ? skip[site * channels + c] : u[site * channels + c - channels];
        float v = inside ? scale[c] * x + shift[c] : 0.0f;
        raw[i] = half_of(x);
        activated[i] = half_of(v > 0.0f ? v : 0.0f);
    }
}
