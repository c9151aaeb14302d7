// Every pixel format into packed RGB8, and both resizes. Twins: src/cpu/pixels.rs, src/cpu/resize.rs, src/cpu/bilinear.rs.
// Integers only, up to one division and the normalisation: the same bits as the CPU.

constexpr u32 RGB8 = 0, BGR8 = 1, RGBA8 = 2, BGRA8 = 3, MONO8 = 4, UYVY = 5, YUYV = 6, NV12 = 7, RGGB = 8, BGGR = 9,
              GBRG = 10, GRBG = 11;

DEV u8 level(int x) { return (u8)(x < 0 ? 0 : x > 255 ? 255 : x); }

// ITU-R BT.601, limited range, 8-bit fixed point.
DEV void yuv_to_rgb(int y, int u, int v, u8* out) {
    int c = 298 * (y - 16) + 128, d = u - 128, e = v - 128;
    out[0] = level((c + 409 * e) >> 8);
    out[1] = level((c - 100 * d - 208 * e) >> 8);
    out[2] = level((c + 516 * d) >> 8);
}

// The image is mirrored about its outermost row and column.
DEV int mirror(int i, int n) { return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i; }

DEV void bayer(const u8* raw, u64 pitch, int row, int col, int height, int width, u32 format, u8* out) {
    // Where red is in the 2x2 tile; blue is diagonally opposite.
    int red_row = format == GBRG || format == BGGR, red_col = format == GRBG || format == BGGR;
    bool red = row % 2 == red_row;  // the colour beside green in this row
    bool on = col % 2 == (red ? red_col : 1 - red_col);
    const u8 *above = raw + mirror(row - 1, height) * pitch, *here = raw + row * pitch,
             *below = raw + mirror(row + 1, height) * pitch;
    int left = mirror(col - 1, width), right = mirror(col + 1, width);
    int beside = here[left] + here[right], over = above[col] + below[col];
    int corners = above[left] + above[right] + below[left] + below[right];
    u8 own = on ? here[col] : (beside + 1) >> 1;
    u8 other = on ? (corners + 2) >> 2 : (over + 1) >> 1;
    out[0] = red ? own : other;
    out[1] = on ? (beside + over + 2) >> 2 : here[col];
    out[2] = red ? other : own;
}

// raw: rows of `pitch` bytes as the camera sent them. rgb: width x height x 3. One thread per pixel.
extern "C" __global__ void to_rgb8(const u8* raw, u8* rgb, u32 width, u32 height, u32 pitch, u32 format) {
    for (u32 i = global_index(); i < width * height; i += global_step()) {
        u32 row = i / width, col = i % width;
        const u8* line = raw + (u64)row * pitch;
        u8 out[3];
        if (format <= BGRA8) {
            const u8* p = line + col * (format <= BGR8 ? 3 : 4);
            bool swapped = format == BGR8 || format == BGRA8;
            out[0] = p[swapped ? 2 : 0], out[1] = p[1], out[2] = p[swapped ? 0 : 2];
        } else if (format == MONO8) {
            out[0] = out[1] = out[2] = line[col];
        } else if (format == UYVY) {
            const u8* p = line + (col & ~1u) * 2;
            yuv_to_rgb(p[1 + 2 * (col & 1)], p[0], p[2], out);
        } else if (format == YUYV) {
            const u8* p = line + (col & ~1u) * 2;
            yuv_to_rgb(p[2 * (col & 1)], p[1], p[3], out);
        } else if (format == NV12) {
            const u8* p = raw + (u64)(height + row / 2) * pitch + (col & ~1u);
            yuv_to_rgb(line[col], p[0], p[1], out);
        } else {
            bayer(raw, pitch, (int)row, (int)col, (int)height, (int)width, format, out);
        }
        u8* to = rgb + (u64)i * 3;
        to[0] = out[0], to[1] = out[1], to[2] = out[2];
    }
}

// How the pixels of one axis lie on its cells: cell x covers [x * cell, (x + 1) * cell), pixel c [c * unit, (c + 1) * unit).
struct Overlap {
    u64 start, stop, unit;
    u32 first, end;
    DEV Overlap(u32 index, u32 cell, u32 unit_, u32 camera) {
        start = (u64)index * cell, stop = start + cell, unit = unit_;
        end = (u32)min((stop + unit - 1) / unit, (u64)camera);
        first = (u32)min(start / unit, (u64)end);
    }
    DEV u64 with(u32 pixel) const {
        u64 low = max(start, pixel * unit), high = min(stop, (pixel + 1) * unit);
        return high > low ? high - low : 0;
    }
};

struct Mean3 {
    float level[3];
    bool any;
};

// Exact area mean of one cell over the camera's pixels it covers.
DEV Mean3 area_mean(const u8* rgb, u32 width, const Overlap& rows, const Overlap& columns) {
    u64 total[3] = {0, 0, 0}, height = 0, across = 0;
    for (u32 col = columns.first; col < columns.end; col++) across += columns.with(col);
    for (u32 row = rows.first; row < rows.end; row++) {
        u64 tall = rows.with(row);
        height += tall;
        const u8* p = rgb + ((u64)row * width + columns.first) * 3;
        u64 sum[3] = {0, 0, 0};
        for (u32 col = columns.first; col < columns.end; col++, p += 3) {
            u64 wide = columns.with(col);
            sum[0] += wide * p[0], sum[1] += wide * p[1], sum[2] += wide * p[2];
        }
        for (int c = 0; c < 3; c++) total[c] += tall * sum[c];
    }
    Mean3 mean;
    u64 area = height * across;
    mean.any = area != 0;
    for (int c = 0; c < 3; c++) mean.level[c] = mean.any ? (float)(long long)total[c] / (float)(long long)area : 0.0f;
    return mean;
}

// Three planes of the grid, normalised. `reversed`: the network wants B, G, R. One thread per cell.
// mean and std are in the network's order. A cell of padding is 0.
template <class Store>
DEV void resize_cells(const u8* rgb, Store store, u32 width, u32 height, u32 grid_width, u32 grid_height, u32 cell_x,
                      u32 unit_x, u32 cell_y, u32 unit_y, const float* normalisation, int reversed) {
    for (u32 i = global_index(); i < grid_width * grid_height; i += global_step()) {
        Overlap rows(i / grid_width, cell_y, unit_y, height), columns(i % grid_width, cell_x, unit_x, width);
        Mean3 mean = area_mean(rgb, width, rows, columns);
        for (u32 plane = 0; plane < 3; plane++) {
            float x = mean.level[reversed ? 2 - plane : plane];
            x = mean.any ? (x - normalisation[plane]) / normalisation[3 + plane] : 0.0f;
            store(plane * grid_width * grid_height + i, x);
        }
    }
}

struct StoreF32 {
    float* out;
    DEV void operator()(u32 i, float x) const { out[i] = x; }
};
struct StoreF16 {
    u16* out;
    DEV void operator()(u32 i, float x) const { out[i] = half_of(x); }
};

extern "C" __global__ void area_resize(const u8* rgb, float* out, u32 width, u32 height, u32 grid_width,
                                       u32 grid_height, u32 cell_x, u32 unit_x, u32 cell_y, u32 unit_y,
                                       const float* normalisation, int reversed) {
    resize_cells(rgb, StoreF32{out}, width, height, grid_width, grid_height, cell_x, unit_x, cell_y, unit_y,
                 normalisation, reversed);
}
extern "C" __global__ void area_resize_f16(const u8* rgb, u16* out, u32 width, u32 height, u32 grid_width,
                                           u32 grid_height, u32 cell_x, u32 unit_x, u32 cell_y, u32 unit_y,
                                           const float* normalisation, int reversed) {
    resize_cells(rgb, StoreF16{out}, width, height, grid_width, grid_height, cell_x, unit_x, cell_y, unit_y,
                 normalisation, reversed);
}

// The triangle filter. table: for each output its first input, how many there are, and their weights with `precision` bits
// after the point (src/cuda/triangle.rs); `at(k)` gives the k-th input. Sums are exact, rounded once.
template <class Sample>
DEV u8 filtered(const u32* entry, u32 precision, Sample at) {
    int sum = 1 << (precision - 1);
    for (u32 k = 0; k < entry[1]; k++) sum += (int)at(entry[0] + k) * (int)entry[2 + k];
    return level(sum >> precision);
}

// Down the columns: out[row][byte], rows of `row_bytes`. One thread per byte.
extern "C" __global__ void filter_rows(const u8* rgb, u8* out, u32 row_bytes, u32 rows, const u32* table, u32 pitch,
                                       u32 precision) {
    for (u32 i = global_index(); i < row_bytes * rows; i += global_step()) {
        const u8* column = rgb + i % row_bytes;
        auto at = [=](u32 row) { return column[(u64)row * row_bytes]; };
        out[i] = filtered(table + (u64)(i / row_bytes) * pitch, precision, at);
    }
}

// Along the rows, then normalised into three planes, floats or halves, as resize_cells. One thread per cell.
extern "C" __global__ void filter_columns(const u8* rgb, u32 width, u32 grid_width, u32 grid_height, const u32* table,
                                          u32 pitch, u32 precision, const float* normalisation, int reversed,
                                          float* out, u16* half_out) {
    for (u32 i = global_index(); i < grid_width * grid_height; i += global_step()) {
        const u32* entry = table + (u64)(i % grid_width) * pitch;
        const u8* line = rgb + (u64)(i / grid_width) * width * 3;
        for (u32 plane = 0; plane < 3; plane++) {
            u32 channel = reversed ? 2 - plane : plane, to = plane * grid_width * grid_height + i;
            auto at = [=](u32 column) { return line[column * 3 + channel]; };
            float x = ((float)filtered(entry, precision, at) - normalisation[plane]) / normalisation[3 + plane];
            if (half_out) {
                half_out[to] = half_of(x);
            } else {
                out[to] = x;
            }
        }
    }
}

// Planar maps of the network's logits stretched to the selection grid. Twin: src/cpu/upsample.rs.
// One thread per output.
extern "C" __global__ void upsample(const float* input, float* out, u32 maps, u32 from_width, u32 from_height,
                                    u32 to_width, u32 to_height, const Tap* rows, const Tap* columns) {
    for (u32 i = global_index(); i < maps * to_width * to_height; i += global_step()) {
        u32 column = i % to_width, rest = i / to_width;
        Tap r = rows[rest % to_height], c = columns[column];
        const float* map = input + (u64)(rest / to_height) * from_width * from_height;
        const float *top = map + (u64)r.low * from_width, *bottom = map + (u64)r.high * from_width;
        out[i] = lerp_of(lerp_of(top[c.low], bottom[c.low], r.weight), lerp_of(top[c.high], bottom[c.high], r.weight),
                         c.weight);
    }
}

// Half-precision logits of an engine as floats.
extern "C" __global__ void widen(const u16* input, float* out, u32 count) {
    for (u32 i = global_index(); i < count; i += global_step()) out[i] = float_of(input[i]);
}
