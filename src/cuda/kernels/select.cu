// Which pixels to refine, and the base labels. Twins: src/cpu/evaluate.rs, src/cpu/select.rs; the results have their bits.
// Everything is decided on a lattice: the segmenter's grid (nearest), or the camera's pixels (bilinear).

struct Belief {
    float entropy;
    u8 label;  // output channel; UNLABELLED where a logit is not finite
};

// z_c = logits(c). METHODS 1.1(2) with one logarithm: src/cpu/evaluate.rs.
template <class Sample>
DEV Belief evaluate(Sample logits, u32 classes) {
    float top = __uint_as_float(0xff800000u);
    u32 best = 0;
    bool finite = true;
    for (u32 c = 0; c < classes; c++) {
        float z = logits(c);
        if (z > top) top = z, best = c;
        finite = finite && is_finite(z);
    }
    if (!finite) return Belief{0.0f, UNLABELLED};
    float total = 0.0f;
    for (u32 c = 0; c < classes; c++) total += exp_of(logits(c) - top);
    float ln_total = ln_of(total), surprise = 0.0f;
    for (u32 c = 0; c < classes; c++) {
        float d = logits(c) - top, nats = ln_total - d;
        surprise += exp_of(d) * (nats < 11.512925f ? nats : 11.512925f);
    }
    return Belief{surprise / total, (u8)best};
}

struct CellLogits {
    const float* cell;
    u32 plane;
    DEV float operator()(u32 c) const { return cell[(u64)c * plane]; }
};

DEV u32 pixels_of(const u32* starts_y, const u32* starts_x, u32 row, u32 column) {
    return (starts_y[row + 1] - starts_y[row]) * (starts_x[column + 1] - starts_x[column]);
}

// Entropy, label and selection of every lattice position. settings: bits of alpha, capacity.
// starts: first camera row (column) of each lattice row (column), then the camera's height (width).
// One thread per position; the sums over positions are integers, so their order does not matter.
extern "C" __global__ void evaluate_lattice(const float* logits, u32 plane, u32 grid_width, int bilinear,
                                            const Tap* row_taps, const Tap* column_taps, u32 classes, u32 lattice_width,
                                            u32 lattice_height, const u32* starts_y, const u32* starts_x,
                                            const u32* settings, float* entropy, u8* labels, u8* kept, u32* counters) {
    float alpha = __uint_as_float(settings[0]);
    CoarseLogits coarse{logits, plane, grid_width, 1, nullptr, nullptr, row_taps, column_taps};
    u32 selected = 0, non_finite = 0;
    for (u32 i = global_index(); i < lattice_width * lattice_height; i += global_step()) {
        u32 row = i / lattice_width, column = i % lattice_width;
        Belief belief = bilinear ? evaluate(PixelLogits{&coarse, row, column}, classes)
                                 : evaluate(CellLogits{logits + i, plane}, classes);
        u32 pixels = pixels_of(starts_y, starts_x, row, column);
        bool finite = belief.label != UNLABELLED;
        // Strict, as in the reference selector; a cell of padding stands for no pixel.
        bool keep = finite && belief.entropy > alpha && pixels > 0;
        entropy[i] = belief.entropy;
        labels[i] = belief.label;
        kept[i] = keep;
        selected += keep ? pixels : 0;
        non_finite += !finite;
    }
    selected = warp_sum(selected), non_finite = warp_sum(non_finite);
    if ((threadIdx.x & 31) == 0) {
        if (selected) atomicAdd(&counters[SELECTED], selected);
        if (non_finite) atomicAdd(&counters[NON_FINITE], non_finite);
    }
}

// Cells of the grid with a NaN or an infinity, for a lattice that is not the grid.
extern "C" __global__ void count_non_finite_cells(const float* logits, u32 plane, u32 classes, u32* counters) {
    u32 found = 0;
    for (u32 i = global_index(); i < plane; i += global_step()) {
        bool finite = true;
        for (u32 c = 0; c < classes; c++) finite = finite && is_finite(logits[(u64)c * plane + i]);
        found += !finite;
    }
    found = warp_sum(found);
    if ((threadIdx.x & 31) == 0 && found) atomicAdd(&counters[NON_FINITE_CELLS], found);
}

// Pixels per key of their entropy, for the selection that exceeds the capacity. The bits of a float that is not negative
// order like its value. `low` = 0: by the upper 16 bits; 1: by the lower ones, where the upper are counters[HIGH].
extern "C" __global__ void histogram(const float* entropy, const u8* kept, u32 lattice_width, u32 lattice_height,
                                     const u32* starts_y, const u32* starts_x, const u32* settings,
                                     const u32* counters, u32 low, u32* bins) {
    if (counters[SELECTED] > settings[1]) {
        for (u32 i = global_index(); i < lattice_width * lattice_height; i += global_step()) {
            u32 bits = __float_as_uint(entropy[i]);
            if (!kept[i] || (low && bits >> 16 != counters[HIGH])) continue;
            u32 pixels = pixels_of(starts_y, starts_x, i / lattice_width, i % lattice_width);
            atomicAdd(&bins[low ? bits & 0xffffu : bits >> 16], pixels);
        }
    }
}

// From the highest key down, the first whose pixels exceed what is left of the capacity. One block.
extern "C" __global__ void find_bucket(const u32* bins, const u32* settings, u32* counters, u32 low) {
    __shared__ u32 part[32];
    constexpr u32 EACH = 65536 / BLOCK;
    u32 top = 65535 - threadIdx.x * EACH, sum = 0, total;
    for (u32 k = 0; k < EACH; k++) sum += bins[top - k];
    u32 before = block_exclusive_scan(sum, part, &total);
    u32 capacity = low ? counters[LEFT] : settings[1];
    if (counters[SELECTED] > settings[1] && before <= capacity && sum > capacity - before) {
        u32 left = capacity - before, key = top;
        while (bins[key] <= left) left -= bins[key--];
        if (low) {
            counters[THRESHOLD] = counters[HIGH] << 16 | key, counters[TIES_LEFT] = left;
        } else {
            counters[HIGH] = key, counters[LEFT] = left;
        }
    }
}

// Lattice positions one block of the two kernels below takes.
constexpr u32 TIES_EACH = 4, TIES_BLOCK = BLOCK * TIES_EACH;

DEV u32 tie_pixels(u32 i, u32 count, u32 width, const float* entropy, const u8* kept, const u32* starts_y,
                   const u32* starts_x, u32 threshold) {
    if (i >= count || !kept[i] || __float_as_uint(entropy[i]) != threshold) return 0;
    return pixels_of(starts_y, starts_x, i / width, i % width);
}

// Pixels at exactly the threshold, per block of positions.
extern "C" __global__ void count_ties(const float* entropy, const u8* kept, u32 lattice_width, u32 lattice_height,
                                      const u32* starts_y, const u32* starts_x, const u32* settings,
                                      const u32* counters, u32* block_sums) {
    __shared__ u32 part[32];
    u32 sum = 0, total, count = lattice_width * lattice_height;
    if (counters[SELECTED] > settings[1]) {
        for (u32 k = 0; k < TIES_EACH; k++)
            sum += tie_pixels(blockIdx.x * TIES_BLOCK + threadIdx.x * TIES_EACH + k, count, lattice_width, entropy,
                              kept, starts_y, starts_x, counters[THRESHOLD]);
    }
    block_exclusive_scan(sum, part, &total);
    if (threadIdx.x == 0) block_sums[blockIdx.x] = total;
}

// One block: numbers become the exclusive prefix sum of themselves; their sum goes to counters[slot].
extern "C" __global__ void scan_blocks(u32* numbers, u32 count, u32* counters, u32 slot) {
    __shared__ u32 part[32];
    u32 carry = 0;
    for (u32 start = 0; start < count; start += BLOCK) {
        u32 i = start + threadIdx.x, total;
        u32 before = block_exclusive_scan(i < count ? numbers[i] : 0, part, &total);
        if (i < count) numbers[i] = carry + before;
        carry += total;
    }
    if (threadIdx.x == 0) counters[slot] = carry;
}

// Keeps what lies above the threshold, and ties in the order of their index until the next one no longer fits: as the
// prefix sum grows with the index, that is where it first exceeds what is left.
extern "C" __global__ void keep_highest(const float* entropy, u8* kept, u32 lattice_width, u32 lattice_height,
                                        const u32* starts_y, const u32* starts_x, const u32* settings,
                                        const u32* counters, const u32* block_sums) {
    __shared__ u32 part[32];
    u32 count = lattice_width * lattice_height, first = blockIdx.x * TIES_BLOCK + threadIdx.x * TIES_EACH;
    u32 pixels[TIES_EACH], sum = 0, total;
    bool over = counters[SELECTED] > settings[1];
    u32 threshold = counters[THRESHOLD];
    for (u32 k = 0; k < TIES_EACH; k++) {
        pixels[k] = over ? tie_pixels(first + k, count, lattice_width, entropy, kept, starts_y, starts_x, threshold) : 0;
        sum += pixels[k];
    }
    u32 before = block_sums[blockIdx.x] + block_exclusive_scan(sum, part, &total);
    for (u32 k = 0; k < TIES_EACH; k++) {
        u32 i = first + k;
        before += pixels[k];
        if (!over || i >= count || !kept[i]) continue;
        u32 bits = __float_as_uint(entropy[i]);
        kept[i] = bits > threshold || (bits == threshold && before <= counters[TIES_LEFT]);
    }
}

// Base label of every camera pixel. cells: lattice row (column) of each camera row (column). One thread per pixel.
extern "C" __global__ void write_labels(const u8* labels, u32 lattice_width, const u32* cell_rows,
                                        const u32* cell_columns, const u8* label_of_channel, u8* out, u32 width,
                                        u32 height) {
    for (u32 i = global_index(); i < width * height; i += global_step()) {
        u8 channel = labels[(u64)cell_rows[i / width] * lattice_width + cell_columns[i % width]];
        out[i] = channel == UNLABELLED ? UNLABELLED : label_of_channel[channel];
    }
}
