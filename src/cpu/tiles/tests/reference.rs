//! Both columns on whole images, slow and obvious: in f64, one value at a time.

use crate::onnx::fixtures::columns::{CANVAS, CLASSES, Kernels, normalisation};
use crate::types::Size;

const POSITIONS: Size = Size::new(20, 12);

/// Planar maps in f64.
pub(super) struct Maps {
    size: Size,
    pub(super) data: Vec<f64>,
}

impl Maps {
    fn at(&self, channel: usize, row: i64, column: i64) -> f64 {
        let (width, height) = (i64::from(self.size.width), i64::from(self.size.height));
        if row < 0 || column < 0 || row >= height || column >= width {
            return 0.0;
        }
        self.data[channel * self.size.pixels() + (row * width + column) as usize]
    }

    fn convolve(&self, kernel: &[f32], side: i64, stride: i64, pad: i64) -> Self {
        let inputs = self.data.len() / self.size.pixels();
        let taps = inputs * (side * side) as usize;
        let length = |n: u32| ((i64::from(n) + 2 * pad - side) / stride + 1) as u32;
        let size = Size::new(length(self.size.width), length(self.size.height));
        let mut data = Vec::new();
        for kernel in kernel.chunks_exact(taps) {
            for position in 0..size.pixels() as i64 {
                let (row, column) = (position / i64::from(size.width), position % i64::from(size.width));
                let mut sum = 0.0;
                for (tap, &weight) in kernel.iter().enumerate() {
                    let (channel, tap) = (tap / (side * side) as usize, tap as i64 % (side * side));
                    let (r, c) = (row * stride - pad + tap / side, column * stride - pad + tap % side);
                    sum += f64::from(weight) * self.at(channel, r, c);
                }
                data.push(sum);
            }
        }
        Self { size, data }
    }

    fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.data.iter_mut().for_each(|value| *value = f(*value));
        self
    }

    /// Half-pixel bilinear interpolation at output `(row, column)` of `to`.
    pub(super) fn sample(&self, channel: usize, to: Size, row: u32, column: u32) -> f64 {
        let place = |i: u32, n: u32, m: u32| {
            let x = ((f64::from(i) + 0.5) * f64::from(m) / f64::from(n) - 0.5).clamp(0.0, f64::from(m - 1));
            (x.floor() as i64, (x.floor() as i64 + 1).min(i64::from(m) - 1), x.fract())
        };
        let (y0, y1, fy) = place(row, to.height, self.size.height);
        let (x0, x1, fx) = place(column, to.width, self.size.width);
        let line = |y| self.at(channel, y, x0) * (1.0 - fx) + self.at(channel, y, x1) * fx;
        line(y0) * (1.0 - fy) + line(y1) * fy
    }
}

/// Both columns on the whole image.
pub(super) struct Reference {
    coarse: Maps,
    pub(super) weights: Maps,
    fine: Maps,
}

impl Reference {
    pub(super) fn new(kernels: &Kernels, rgb: &[u8], cross_column: bool) -> Self {
        let normalisation = normalisation();
        let mut image = Maps { size: CANVAS, data: vec![0.0; 3 * CANVAS.pixels()] };
        let mut reduced = Maps { size: Size::new(80, 48), data: vec![0.0; 3 * 80 * 48] };
        for plane in 0..3 {
            let level = |row: usize, column: usize| f64::from(rgb[(row * 150 + column) * 3 + 2 - plane]);
            let normal = |level: f64| {
                (level - f64::from(normalisation.mean[plane])) / f64::from(normalisation.std[plane])
            };
            for row in 0..90 {
                for column in 0..150 {
                    image.data[plane * CANVAS.pixels() + row * 160 + column] = normal(level(row, column));
                }
            }
            for row in 0..45 {
                for column in 0..75 {
                    let (r, c) = (2 * row, 2 * column);
                    let mean = (level(r, c) + level(r + 1, c) + level(r, c + 1) + level(r + 1, c + 1)) / 4.0;
                    reduced.data[plane * 80 * 48 + row * 80 + column] = normal(mean);
                }
            }
        }
        let mut fine = image.convolve(&kernels.fine_first, 3, 1, 1).map(|value| value.max(0.0)).convolve(
            &kernels.fine_second,
            8,
            8,
            0,
        );
        if cross_column {
            let features = reduced.convolve(&kernels.features, 8, 8, 0);
            let crossed = features.convolve(&kernels.cross, 1, 1, 0);
            for (index, value) in fine.data.iter_mut().enumerate() {
                let (class, position) = (index / POSITIONS.pixels(), (index % POSITIONS.pixels()) as i64);
                *value += crossed.at(class, position / 20 / 2, position % 20 / 2);
            }
        }
        Self {
            coarse: reduced.convolve(&kernels.scores, 8, 8, 0),
            weights: reduced.convolve(&kernels.weights, 8, 8, 0).map(|x| 1.0 / (1.0 + (-x).exp())),
            fine,
        }
    }

    /// Fused scores where `gate` says how much of the fine column counts in a cell.
    pub(super) fn fused(&self, gate: impl Fn(usize) -> f64) -> Maps {
        let mut data = Vec::new();
        for class in 0..CLASSES {
            for position in 0..POSITIONS.pixels() as u32 {
                let (row, column) = (position / 20, position % 20);
                let g = gate((row / 2 * 10 + column / 2) as usize);
                let fine = self.fine.at(class, i64::from(row), i64::from(column));
                data.push((1.0 - g) * self.coarse.sample(class, POSITIONS, row, column) + g * fine);
            }
        }
        Maps { size: POSITIONS, data }
    }

    /// `m [m > t]`, in cells that hold camera pixels.
    pub(super) fn gate(&self, threshold: f32) -> impl Fn(usize) -> f64 {
        move |cell| {
            let weight = self.weights.data[cell];
            if weight > f64::from(threshold) { weight } else { 0.0 }
        }
    }
}
