// Gate, fuser, argmax and scatter in one: METHODS 1.1(6-9). Twin: src/cpu/gate.rs.
// One thread per site. The hidden layers live in registers and everything else passes by once, so that any number of
// classes works without shared memory.

constexpr u32 HIDDEN = 64;

struct Softmax {
    float top, sum, scale, log_sum;
};

template <class Sample>
DEV Softmax softmax_of(Sample logits, u32 classes) {
    Softmax s;
    s.top = __uint_as_float(0xff800000u), s.sum = 0.0f;
    for (u32 c = 0; c < classes; c++) {
        float z = logits(c);
        s.top = z > s.top ? z : s.top;
    }
    for (u32 c = 0; c < classes; c++) s.sum += exp_of(logits(c) - s.top);
    s.scale = 1.0f / s.sum, s.log_sum = ln_of(s.sum);
    return s;
}

DEV void add_scaled(float* hidden, const float* row, float x) {
#pragma unroll
    for (u32 j = 0; j < HIDDEN; j += 4) {
        float4 w = *reinterpret_cast<const float4*>(row + j);
        hidden[j] = multiply_add(x, w.x, hidden[j]), hidden[j + 1] = multiply_add(x, w.y, hidden[j + 1]);
        hidden[j + 2] = multiply_add(x, w.z, hidden[j + 2]), hidden[j + 3] = multiply_add(x, w.w, hidden[j + 3]);
    }
}

// bias + row . relu(hidden)
DEV float dot_relu(const float* hidden, const float* row, float bias) {
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < HIDDEN; j++) sum = multiply_add(hidden[j] > 0.0f ? hidden[j] : 0.0f, row[j], sum);
    return sum + bias;
}

// Probabilities times their rows of the first layer, then the entropy times its row. Answers with the next row.
template <class Sample>
DEV const float* believe(Sample logits, u32 classes, const float* row, float* hidden) {
    Softmax s = softmax_of(logits, classes);
    float entropy = 0.0f, least = ln_of(1e-5f);
    for (u32 c = 0; c < classes; c++, row += HIDDEN) {
        float z = logits(c), p = exp_of(z - s.top) * s.scale, log_p = z - s.top - s.log_sum;
        entropy -= p * (log_p > least ? log_p : least);
        add_scaled(hidden, row, p);
    }
    add_scaled(hidden, row, entropy);
    return row + HIDDEN;
}

struct RefinedLogits {
    const float* row;
    DEV float operator()(u32 c) const { return row[c]; }
};

// y2: refined logits [site][classes]. gate0: [2 * classes + 2][HIDDEN], gate2: [2][HIDDEN], fuser0: [classes][HIDDEN],
// fuser2: [classes][HIDDEN]; biases beside them. labels: the image. fused: the fused logits [site][classes], or null.
extern "C" __global__ void __launch_bounds__(128)
    gate_fuse(const u32* sites, const u32* counters, u32 capacity, const float* logits, u32 plane, u32 grid_width,
              int bilinear, const u32* cell_rows, const u32* cell_columns, const Tap* row_taps, const Tap* column_taps,
              const float* y2, u32 classes, const float* gate0, const float* gate0_bias, const float* gate2,
              const float* gate2_bias, const float* fuser0, const float* fuser0_bias, const float* fuser2,
              const float* fuser2_bias, const u8* label_of_channel, u8* labels, u32 width, u32 height, float* fused) {
    CoarseLogits coarse{logits, plane, grid_width, bilinear, cell_rows, cell_columns, row_taps, column_taps};
    u32 count = min(counters[SITES], capacity);
    for (u32 i = blockIdx.x * 128 + threadIdx.x; i < count; i += gridDim.x * 128) {
        u32 row = sites[i] >> 16, column = sites[i] & 0xffffu;
        PixelLogits first{&coarse, row, column};
        RefinedLogits second{y2 + (u64)i * classes};
        float hidden[HIDDEN];
        for (u32 j = 0; j < HIDDEN; j++) hidden[j] = gate0_bias[j];
        believe(second, classes, believe(first, classes, gate0, hidden), hidden);
        float a = dot_relu(hidden, gate2, gate2_bias[0]), b = dot_relu(hidden, gate2 + HIDDEN, gate2_bias[1]);
        // The softmax of two.
        float gap = a - b, smaller = exp_of(gap > 0.0f ? -gap : gap);
        float more = 1.0f / (1.0f + smaller), less = smaller / (1.0f + smaller);
        float w1 = a >= b ? more : less, w2 = a >= b ? less : more;

        for (u32 j = 0; j < HIDDEN; j++) hidden[j] = fuser0_bias[j];
        for (u32 c = 0; c < classes; c++) add_scaled(hidden, fuser0 + c * HIDDEN, w1 * first(c) + w2 * second(c));
        u32 best = 0;
        float highest = 0.0f;
        for (u32 c = 0; c < classes; c++) {
            float y = dot_relu(hidden, fuser2 + c * HIDDEN, fuser2_bias[c]);
            if (fused) fused[(u64)i * classes + c] = y;
            if (c == 0 || y > highest) highest = y, best = c;
        }
        if (row < height && column < width) labels[(u64)row * width + column] = label_of_channel[best];
    }
}
