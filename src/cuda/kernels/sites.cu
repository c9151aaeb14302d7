// Active sites of each level and the kernel maps between them. Twins: src/cpu/sites.rs, src/cpu/kernel_map.rs.
// A level is a bitmap, 32 columns a word, rows padded to whole words, and before each word the number of sites in all
// words before it: a neighbour is found in constant time, sites are numbered in row-major order, nothing is cleared.

struct Level {
    const u32 *words, *before;
    u32 row_words, width, height;

    // Index of the site at a row and column, or ABSENT; coordinates outside the level are absent.
    DEV u32 id(int row, int col) const {
        if ((u32)row >= height || (u32)col >= width) return ABSENT;
        u32 index = (u32)row * row_words + (u32)col / 32, word = words[index], bit = 1u << (col % 32);
        return word & bit ? before[index] + __popc(word & (bit - 1)) : ABSENT;
    }
};

// The finest level: pixels of kept lattice positions. Rows and columns beyond the camera are padding.
extern "C" __global__ void mask_words(const u8* kept, u32 lattice_width, const u32* cell_rows, const u32* cell_columns,
                                      u32 width, u32 height, u32 row_words, u32 rows, u32* words) {
    for (u32 i = global_index(); i < row_words * rows; i += global_step()) {
        u32 row = i / row_words, first = i % row_words * 32, word = 0;
        if (row < height) {
            const u8* line = kept + (u64)cell_rows[row] * lattice_width;
            for (u32 b = 0; b < 32 && first + b < width; b++)
                if (line[cell_columns[first + b]]) word |= 1u << b;
        }
        words[i] = word;
    }
}

// 16 coarse columns from 32 fine ones: bit c is the OR of bits 2c, 2c + 1 and 2c + 2; `next` follows `word`.
DEV u32 halve(u32 word, u32 next) {
    u32 bits = (word | word >> 1 | (word >> 2 | next << 30)) & 0x55555555u;
    bits = (bits | bits >> 1) & 0x33333333u;
    bits = (bits | bits >> 2) & 0x0f0f0f0fu;
    bits = (bits | bits >> 4) & 0x00ff00ffu;
    return (bits | bits >> 8) & 0x0000ffffu;
}

// Last active row and column of a level, each plus one, into counters[EXTENTS + 2 * level ..]. One thread per site.
extern "C" __global__ void extent(const u32* sites, u32 capacity, u32* counters, u32 level) {
    u32 rows = 0, columns = 0, count = min(counters[SITES + level], capacity);
    for (u32 i = global_index(); i < count; i += global_step()) {
        rows = max(rows, (sites[i] >> 16) + 1), columns = max(columns, (sites[i] & 0xffffu) + 1);
    }
    for (int d = 16; d; d >>= 1) {
        rows = max(rows, __shfl_xor_sync(0xffffffffu, rows, d));
        columns = max(columns, __shfl_xor_sync(0xffffffffu, columns, d));
    }
    if ((threadIdx.x & 31) == 0 && rows) {
        atomicMax(&counters[EXTENTS + 2 * level], rows);
        atomicMax(&counters[EXTENTS + 2 * level + 1], columns);
    }
}

// A coarse site is active if any of the nine fine ones (2r + 0..3, 2c + 0..3) is. With the `active` bound only up to half
// of the fine level's last active row and column. One thread per word.
extern "C" __global__ void coarsen_words(const u32* fine, u32 fine_row_words, u32 fine_rows, u32* words, u32 row_words,
                                         u32 rows, u32 columns, int active, const u32* counters, u32 fine_level) {
    u32 row_bound = rows, column_bound = columns;
    if (active) {
        u32 last_row = counters[EXTENTS + 2 * fine_level], last_column = counters[EXTENTS + 2 * fine_level + 1];
        row_bound = min(rows, last_row ? (last_row - 1) / 2 : 0);
        column_bound = min(columns, last_column ? (last_column - 1) / 2 : 0);
    }
    for (u32 i = global_index(); i < row_words * rows; i += global_step()) {
        u32 row = i / row_words, index = i % row_words, first = index * 32, word = 0;
        for (u32 dr = 0; dr < 3 && row < row_bound && 2 * row + dr < fine_rows; dr++) {
            const u32* line = fine + (u64)(2 * row + dr) * fine_row_words;
            u32 at[3];
            for (u32 k = 0; k < 3; k++) at[k] = 2 * index + k < fine_row_words ? line[2 * index + k] : 0;
            word |= halve(at[0], at[1]) | halve(at[1], at[2]) << 16;
        }
        if (first + 32 > column_bound) word &= first < column_bound ? (1u << (column_bound - first)) - 1 : 0;
        words[i] = word;
    }
}

// Sites per block of words.
extern "C" __global__ void count_words(const u32* words, u32 count, u32* block_sums) {
    __shared__ u32 part[32];
    u32 i = blockIdx.x * BLOCK + threadIdx.x, total;
    block_exclusive_scan(i < count ? __popc(words[i]) : 0, part, &total);
    if (threadIdx.x == 0) block_sums[blockIdx.x] = total;
}

// Numbers the sites and lists them as row << 16 | column. block_sums: after scan_blocks.
extern "C" __global__ void number_sites(const u32* words, u32 count, u32 row_words, const u32* block_sums, u32* before,
                                        u32* sites, u32 capacity) {
    __shared__ u32 part[32];
    u32 i = blockIdx.x * BLOCK + threadIdx.x, word = i < count ? words[i] : 0, total;
    u32 at = block_sums[blockIdx.x] + block_exclusive_scan(__popc(word), part, &total);
    if (i < count) before[i] = at;
    u32 row = i / row_words, column = i % row_words * 32;
    for (; word; word &= word - 1, at++) {
        if (at < capacity) sites[at] = row << 16 | (column + __ffs(word) - 1);
    }
}

// For every output site the input site of each tap k = dr + 3 * dc: (stride * r + dr - shift, stride * c + dc - shift).
// map: [9][capacity]. Submanifold: stride 1, shift 1; strided: stride 2, shift 0. One thread per site.
extern "C" __global__ void build_nine(const u32* sites, const u32* counters, u32 level, u32 capacity, const u32* words,
                                      const u32* before, u32 row_words, u32 width, u32 height, int stride, int shift,
                                      u32* map) {
    Level inputs{words, before, row_words, width, height};
    u32 count = min(counters[SITES + level], capacity);
    for (u32 i = global_index(); i < count; i += global_step()) {
        int row = stride * (int)(sites[i] >> 16) - shift, column = stride * (int)(sites[i] & 0xffffu) - shift;
        for (int k = 0; k < 9; k++) map[(u64)k * capacity + i] = inputs.id(row + k % 3, column + k / 3);
    }
}

// For every fine site the at most four coarse ones of the transposed convolution. map: [4][capacity], in the order of
// up_taps. An even row r has r/2 with tap row 0 and r/2 - 1 with tap row 2; an odd one (r-1)/2 with tap row 1.
extern "C" __global__ void build_up(const u32* sites, const u32* counters, u32 level, u32 capacity, const u32* words,
                                    const u32* before, u32 row_words, u32 width, u32 height, u32* map) {
    Level inputs{words, before, row_words, width, height};
    u32 count = min(counters[SITES + level], capacity);
    for (u32 i = global_index(); i < count; i += global_step()) {
        int row = (int)(sites[i] >> 16), column = (int)(sites[i] & 0xffffu);
        int rows = row % 2 ? 1 : 2, columns = column % 2 ? 1 : 2;
        for (int slot = 0; slot < 4; slot++) {
            u32 id = ABSENT;
            if (slot < rows * columns) id = inputs.id(row / 2 - slot % rows, column / 2 - slot / rows);
            map[(u64)slot * capacity + i] = id;
        }
    }
}

// 255 where a pixel was refined; `out` was cleared before.
extern "C" __global__ void mark_sites(const u32* sites, const u32* counters, u32 capacity, u8* out, u32 width,
                                      u32 height) {
    u32 count = min(counters[SITES], capacity);
    for (u32 i = global_index(); i < count; i += global_step()) {
        u32 row = sites[i] >> 16, column = sites[i] & 0xffffu;
        if (row < height && column < width) out[(u64)row * width + column] = 255;
    }
}
