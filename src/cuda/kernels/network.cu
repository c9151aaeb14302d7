// The sparse U-Net in 32-bit floats: the oracle of the tensor-core path, and what runs where that cannot.
// Twins: src/cpu/features.rs, src/cpu/sparse_conv.rs. Feature rows are [site][channel].

// Channels of a site: three normalised colours, then (classes > 0) the softmax of its coarse logits; zeros up to `pitch`.
template <class Store>
DEV void features_of(u32 i, u32 site, const u8* rgb, u32 width, const float* normalisation, int reversed,
                     const CoarseLogits& coarse, u32 classes, u32 pitch, Store store) {
    u32 row = site >> 16, column = site & 0xffffu;
    const u8* p = rgb + ((u64)row * width + column) * 3;
    u64 to = (u64)i * pitch;
    for (u32 k = 0; k < 3; k++)
        store(to + k, ((float)p[reversed ? 2 - k : k] - normalisation[k]) / normalisation[3 + k]);
    if (classes) {
        float top = __uint_as_float(0xff800000u), total = 0.0f;
        for (u32 c = 0; c < classes; c++) {
            float z = coarse.at(row, column, c);
            top = z > top ? z : top;
        }
        for (u32 c = 0; c < classes; c++) total += exp_of(coarse.at(row, column, c) - top);
        for (u32 c = 0; c < classes; c++) store(to + 3 + c, exp_of(coarse.at(row, column, c) - top) / total);
    }
    for (u32 k = 3 + classes; k < pitch; k++) store(to + k, 0.0f);
}

struct RowsF32 {
    float* out;
    DEV void operator()(u64 i, float x) const { out[i] = x; }
};
struct RowsF16 {
    u16* out;
    DEV void operator()(u64 i, float x) const { out[i] = half_of(x); }
};

extern "C" __global__ void site_features(const u32* sites, const u32* counters, u32 capacity, const u8* rgb, u32 width,
                                         const float* normalisation, int reversed, const float* logits, u32 plane,
                                         u32 grid_width, int bilinear, const u32* cell_rows, const u32* cell_columns,
                                         const Tap* row_taps, const Tap* column_taps, u32 classes, u32 pitch,
                                         float* out, u16* half_out) {
    CoarseLogits coarse{logits, plane, grid_width, bilinear, cell_rows, cell_columns, row_taps, column_taps};
    u32 count = min(counters[SITES], capacity);
    for (u32 i = global_index(); i < count; i += global_step()) {
        if (half_out) {
            features_of(i, sites[i], rgb, width, normalisation, reversed, coarse, classes, pitch, RowsF16{half_out});
        } else {
            features_of(i, sites[i], rgb, width, normalisation, reversed, coarse, classes, pitch, RowsF32{out});
        }
    }
}

// y = relu(scale * x + shift), rows of `channels`. One thread per value.
extern "C" __global__ void affine_relu(const float* x, float* y, const u32* counters, u32 level, u32 capacity,
                                       u32 channels, const float* scale, const float* shift) {
    u64 count = (u64)min(counters[SITES + level], capacity) * channels;
    for (u64 i = global_index(); i < count; i += global_step()) {
        u32 c = (u32)(i % channels);
        float v = scale[c] * x[i] + shift[c];
        y[i] = v > 0.0f ? v : 0.0f;
    }
}

// Rows of the skip and of u side by side, the skip first.
extern "C" __global__ void concatenate(const float* skip, const float* u, float* out, const u32* counters, u32 level,
                                       u32 capacity, u32 channels) {
    u64 count = (u64)min(counters[SITES + level], capacity) * 2 * channels;
    for (u64 i = global_index(); i < count; i += global_step()) {
        u64 site = i / (2 * channels);
        u32 c = (u32)(i % (2 * channels));
        out[i] = c < channels ? skip[site * channels + c] : u[site * channels + c - channels];
    }
}

// Where the inputs of an output site are, and what happens to a sum once the bias is in: src/cuda/convolution.rs.
constexpr u32 GATHER_SAME = 0, GATHER_NINE = 1, GATHER_UP = 2;
constexpr u32 STORE = 0, RELU = 1, ADD = 2;
constexpr u32 GROUP = 8;  // output channels of one thread

// Every convolution and linear layer over sites. weights: [tap][in][padded], padded = outputs rounded up to GROUP; bias:
// [padded]. One thread per site and group of channels; neighbouring threads have neighbouring sites, so that they read
// the same weights. A site's sum runs over taps, then inputs, whatever the launch.
extern "C" __global__ void conv_f32(const float* input, const u32* map, u32 map_pitch, const u32* sites,
                                    const u32* counters, u32 level, u32 capacity, const float* weights,
                                    const float* bias, float* output, u32 inputs, u32 outputs, u32 gather,
                                    u32 finish) {
    u32 count = min(counters[SITES + level], capacity), padded = (outputs + GROUP - 1) / GROUP * GROUP;
    u64 work = (u64)count * (padded / GROUP);
    u32 slots = gather == GATHER_SAME ? 1 : gather == GATHER_NINE ? 9 : 4;
    for (u64 i = global_index(); i < work; i += global_step()) {
        u32 site = (u32)(i % count), group = (u32)(i / count) * GROUP;
        float sum[GROUP] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (u32 slot = 0; slot < slots; slot++) {
            u32 from = gather == GATHER_SAME ? site : map[(u64)slot * map_pitch + site];
            if (from == ABSENT) continue;
            u32 tap = gather == GATHER_UP ? up_tap(sites[site], slot) : slot;
            const float* x = input + (u64)from * inputs;
            const float* w = weights + (u64)tap * inputs * padded + group;
            for (u32 k = 0; k < inputs; k++, w += padded) {
                float v = x[k];
                float4 low = *reinterpret_cast<const float4*>(w), high = *reinterpret_cast<const float4*>(w + 4);
                sum[0] = multiply_add(v, low.x, sum[0]), sum[1] = multiply_add(v, low.y, sum[1]);
                sum[2] = multiply_add(v, low.z, sum[2]), sum[3] = multiply_add(v, low.w, sum[3]);
                sum[4] = multiply_add(v, high.x, sum[4]), sum[5] = multiply_add(v, high.y, sum[5]);
                sum[6] = multiply_add(v, high.z, sum[6]), sum[7] = multiply_add(v, high.w, sum[7]);
            }
        }
        float* y = output + (u64)site * outputs + group;
        for (u32 j = 0; j < GROUP && group + j < outputs; j++) {
            float v = sum[j] + bias[group + j];
            y[j] = finish == ADD ? y[j] + v : finish == RELU && v < 0.0f ? 0.0f : v;
        }
    }
}
