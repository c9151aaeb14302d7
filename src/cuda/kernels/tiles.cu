// The method spatial_sparsity: windows for the fine column, its scores back onto the grid, the fusion, the labels.
// Twins: src/cpu/tiles. The same operations in the same order: the same bits as the CPU.

// Where a kept tile lies, in pixels: the corner of its window, what of the window is used. src/cuda/tiles/launch.rs.
struct TileAt {
    u32 window_x, window_y, x, y, width, height;
};

// Windows of the packed RGB image as normalised planes. Beyond the camera the mean colour, which is 0, and so are the
// windows after `count` that fill the batch up to `size`. `reversed`: B, G, R. One thread per pixel of a window.
extern "C" __global__ void gather_windows(const u8* rgb, u32 camera_width, u32 camera_height, const TileAt* tiles,
                                          u32 count, u32 size, u32 width, u32 height, const float* normalisation,
                                          int reversed, float* out) {
    u32 plane = width * height;
    for (u32 i = global_index(); i < size * plane; i += global_step()) {
        u32 window = i / plane, pixel = i % plane;
        float* to = out + (u64)window * 3 * plane + pixel;
        float value[3] = {0.0f, 0.0f, 0.0f};
        if (window < count) {
            u32 row = tiles[window].window_y + pixel / width, column = tiles[window].window_x + pixel % width;
            if (row < camera_height && column < camera_width) {
                const u8* levels = rgb + ((u64)row * camera_width + column) * 3;
                for (u32 c = 0; c < 3; c++)
                    value[c] = ((float)levels[reversed ? 2 - c : c] - normalisation[c]) / normalisation[3 + c];
            }
        }
        for (u32 c = 0; c < 3; c++) to[(u64)c * plane] = value[c];
    }
}

// The coarse column's features under the windows; `cell` pixels a cell, sizes in cells. One thread per value.
extern "C" __global__ void gather_features(const float* features, u32 channels, u32 grid_width, u32 grid_height,
                                           const TileAt* tiles, u32 count, u32 size, u32 width, u32 height, u32 cell,
                                           float* out) {
    u32 plane = width * height;
    for (u32 i = global_index(); i < size * channels * plane; i += global_step()) {
        u32 window = i / plane / channels, channel = i / plane % channels, at = i % plane;
        float value = 0.0f;
        if (window < count) {
            u32 row = tiles[window].window_y / cell + at / width, column = tiles[window].window_x / cell + at % width;
            value = features[((u64)channel * grid_height + row) * grid_width + column];
        }
        out[i] = value;
    }
}

// The first `classes` of a window's `channels` maps of scores, where its tile lies, onto the grid of maps; `stride`
// pixels a position, sizes in positions. Tiles do not overlap. One thread per value.
extern "C" __global__ void scatter_scores(const float* window_scores, u32 channels, u32 classes, const TileAt* tiles,
                                          u32 count, u32 width, u32 height, u32 stride, float* out, u32 grid_width,
                                          u32 grid_height) {
    u32 plane = width * height;
    for (u32 i = global_index(); i < count * classes * plane; i += global_step()) {
        u32 window = i / plane / classes, cls = i / plane % classes, at = i % plane;
        TileAt tile = tiles[window];
        u32 row = tile.window_y / stride + at / width, column = tile.window_x / stride + at % width;
        bool used = row >= tile.y / stride && row < (tile.y + tile.height) / stride && column >= tile.x / stride &&
                    column < (tile.x + tile.width) / stride;
        if (used)
            out[((u64)cls * grid_height + row) * grid_width + column] =
                window_scores[((u64)window * channels + cls) * plane + at];
    }
}

// s = (1 - g) s + g fine at each position, g being the gate of its cell of `per_cell` x `per_cell` positions; where it
// is shut the coarse scores stay, bit for bit. One thread per position.
extern "C" __global__ void fuse_columns(float* scores, const float* fine, const float* gate, u32 classes, u32 width,
                                        u32 height, u32 cells_width, u32 per_cell) {
    u32 plane = width * height;
    for (u32 i = global_index(); i < plane; i += global_step()) {
        float g = gate[(u64)(i / width / per_cell) * cells_width + i % width / per_cell];
        if (!(g > 0.0f)) continue;
        for (u32 c = 0; c < classes; c++) {
            u64 at = (u64)c * plane + i;
            scores[at] = (1.0f - g) * scores[at] + g * fine[at];
        }
    }
}

// Argmax of the scores interpolated at each camera pixel, ties to the lowest class; UNLABELLED where one is not finite.
// One thread per pixel.
extern "C" __global__ void label_pixels(const float* scores, u32 classes, u32 width, u32 height, const Tap* row_taps,
                                        const Tap* column_taps, const u8* label_of_channel, u8* out, u32 camera_width,
                                        u32 camera_height) {
    CoarseLogits at{scores, width * height, width, 1, nullptr, nullptr, row_taps, column_taps};
    for (u32 i = global_index(); i < camera_width * camera_height; i += global_step()) {
        u32 row = i / camera_width, column = i % camera_width, best = 0;
        float top = __uint_as_float(0xff800000u);
        bool finite = true;
        for (u32 c = 0; c < classes; c++) {
            float score = at.at(row, column, c);
            finite = finite && is_finite(score);
            if (score > top) top = score, best = c;
        }
        out[i] = finite ? label_of_channel[best] : UNLABELLED;
    }
}

// Cells whose weight, or a score of any class, is not finite.
extern "C" __global__ void count_tainted_cells(const float* scores, const float* weights, u32 plane, u32 classes,
                                               u32* count) {
    u32 found = 0;
    for (u32 i = global_index(); i < plane; i += global_step()) {
        bool finite = is_finite(weights[i]);
        for (u32 c = 0; c < classes; c++) finite = finite && is_finite(scores[(u64)c * plane + i]);
        found += !finite;
    }
    found = warp_sum(found);
    if ((threadIdx.x & 31) == 0 && found) atomicAdd(count, found);
}
