//! The refiner as dense convolutions in f64, masked after every step: written from the definitions, shares no code with
//! the sparse one. For tests.

use crate::bundle::refiner::{BatchNorm, Bound, Kernel, RefinerSpec, RefinerWeights, Residual};

/// A dense feature map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// `[channel, row, column]`.
    pub(super) data: Vec<f64>,
}

impl Map {
    pub(super) fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width, data: vec![0.0; channels * height * width] }
    }

    pub(super) fn at(&self, channel: usize, row: usize, col: usize) -> f64 {
        self.data[(channel * self.height + row) * self.width + col]
    }

    fn at_mut(&mut self, channel: usize, row: usize, col: usize) -> &mut f64 {
        &mut self.data[(channel * self.height + row) * self.width + col]
    }

    /// Zero where the mask is not set.
    pub(super) fn masked(mut self, mask: &Mask) -> Self {
        for (index, value) in self.data.iter_mut().enumerate() {
            if !mask.set[index % (self.height * self.width)] {
                *value = 0.0;
            }
        }
        self
    }

    /// Features `[site, channel]` of a mask's sites as a map.
    pub(super) fn scatter(mask: &Mask, channels: usize, features: &[f32]) -> Self {
        let mut map = Self::zeros(channels, mask.height, mask.width);
        for (site, index) in mask.sites().enumerate() {
            for channel in 0..channels {
                map.data[channel * mask.set.len() + index] = f64::from(features[site * channels + channel]);
            }
        }
        map
    }

    /// Values `[site, channel]` at a mask's sites.
    pub(super) fn gather(&self, mask: &Mask) -> Vec<f64> {
        let plane = mask.set.len();
        mask.sites().flat_map(|i| (0..self.channels).map(move |c| self.data[c * plane + i])).collect()
    }
}

/// Which pixels are active.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mask {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) set: Vec<bool>,
}

impl Mask {
    fn sites(&self) -> impl Iterator<Item = usize> {
        (0..self.set.len()).filter(|&i| self.set[i])
    }

    /// The mask of the next coarser level: any of nine, up to METHODS' largest output coordinate B.
    pub(super) fn coarser(&self, bound: Bound) -> Self {
        let (height, width) = (output_size(self.height, 0, 2), output_size(self.width, 0, 2));
        let largest = |axis: fn(usize, usize) -> usize| {
            self.sites().map(|i| axis(i, self.width)).max().map_or(i64::MIN, |m| m as i64)
        };
        let (row_bound, col_bound) = match bound {
            Bound::Image => ((self.height as i64 - 3).div_euclid(2), (self.width as i64 - 3).div_euclid(2)),
            Bound::Active => {
                let (row, col) = (largest(|i, width| i / width), largest(|i, width| i % width));
                (row.saturating_sub(2).div_euclid(2), col.saturating_sub(2).div_euclid(2))
            }
        };
        let set = (0..height * width)
            .map(|i| {
                let (row, col) = (i / width, i % width);
                let any = (0..9).any(|k| self.set[(2 * row + k % 3) * self.width + 2 * col + k / 3]);
                any && row as i64 <= row_bound && col as i64 <= col_bound
            })
            .collect();
        Self { height, width, set }
    }
}

fn output_size(size: usize, pad: usize, stride: usize) -> usize {
    if size + 2 * pad < 3 { 0 } else { (size + 2 * pad - 3) / stride + 1 }
}

/// `Wdense[co, ci, dr, dc] = K[dr + 3*dc, ci, co]`.
fn weight(kernel: &Kernel, co: usize, ci: usize, dr: usize, dc: usize) -> f64 {
    f64::from(kernel.values[((dr + 3 * dc) * kernel.inputs + ci) * kernel.outputs + co])
}

/// Cross-correlation with a 3x3 kernel, as PyTorch's `conv2d`.
pub(super) fn conv2d(x: &Map, kernel: &Kernel, stride: usize, pad: usize) -> Map {
    let (height, width) = (output_size(x.height, pad, stride), output_size(x.width, pad, stride));
    let mut y = Map::zeros(kernel.outputs, height, width);
    for_each_tap(height, width, |row, col, dr, dc| {
        let (r, c) = ((row * stride + dr).wrapping_sub(pad), (col * stride + dc).wrapping_sub(pad));
        if r < x.height && c < x.width {
            for co in 0..kernel.outputs {
                for ci in 0..kernel.inputs {
                    *y.at_mut(co, row, col) += weight(kernel, co, ci, dr, dc) * x.at(ci, r, c);
                }
            }
        }
    });
    y
}

/// PyTorch's `conv_transpose2d`, stride 2, no padding, cut or filled with zeros to a size.
pub(super) fn conv_transpose2d(x: &Map, kernel: &Kernel, height: usize, width: usize) -> Map {
    let mut y = Map::zeros(kernel.outputs, height, width);
    for_each_tap(x.height, x.width, |row, col, dr, dc| {
        let (r, c) = (2 * row + dr, 2 * col + dc);
        if r < height && c < width {
            for co in 0..kernel.outputs {
                for ci in 0..kernel.inputs {
                    *y.at_mut(co, r, c) += weight(kernel, co, ci, dr, dc) * x.at(ci, row, col);
                }
            }
        }
    });
    y
}

fn for_each_tap(height: usize, width: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
    for pixel in 0..height * width {
        for k in 0..9 {
            visit(pixel / width, pixel % width, k % 3, k / 3);
        }
    }
}

fn norm_relu(x: &Map, bn: &BatchNorm) -> Map {
    let mut y = x.clone();
    for (index, value) in y.data.iter_mut().enumerate() {
        let c = index / (x.height * x.width);
        let [gamma, beta, mean, var] =
            [&bn.weight, &bn.bias, &bn.running_mean, &bn.running_var].map(|v| f64::from(v[c]));
        *value = ((*value - mean) / (var + 1e-5).sqrt() * gamma + beta).max(0.0);
    }
    y
}

/// A residual block.
pub(super) fn residual(x: &Map, mask: &Mask, weights: &Residual) -> Map {
    let hidden = conv2d(&norm_relu(x, &weights.bn1).masked(mask), &weights.conv1, 1, 1).masked(mask);
    let hidden = conv2d(&norm_relu(&hidden, &weights.bn2).masked(mask), &weights.conv2, 1, 1).masked(mask);
    let mut y = hidden;
    for row in 0..x.height {
        for col in 0..x.width {
            for co in 0..y.channels {
                *y.at_mut(co, row, col) += match &weights.projection {
                    None => x.at(co, row, col),
                    Some(p) => (0..p.inputs)
                        .map(|ci| x.at(ci, row, col) * f64::from(p.values[ci * p.outputs + co]))
                        .sum(),
                };
            }
        }
    }
    y
}

fn level(x: Map, mask: &Mask, weights: &RefinerWeights, i: usize) -> Map {
    let level = &weights.levels[i];
    let mut x = level.pre.iter().fold(x, |x, block| residual(&x, mask, block));
    if let Some(descent) = &level.descent {
        let coarser = mask.coarser(weights.spec.bound);
        let activated = norm_relu(&x, &descent.down.bn).masked(mask);
        let d = conv2d(&activated, &descent.down.kernel, 2, 0).masked(&coarser);
        let d = self::level(d, &coarser, weights, i + 1);
        let activated = norm_relu(&d, &descent.up.bn).masked(&coarser);
        let u = conv_transpose2d(&activated, &descent.up.kernel, x.height, x.width).masked(mask);
        x.channels *= 2;
        x.data.extend(u.data);
        x = descent.post.iter().fold(x, |x, block| residual(&x, mask, block));
    }
    x
}

/// Refined logits `[site, class]` of features `[site, channel]`.
pub(super) fn refine(weights: &RefinerWeights, mask: &Mask, features: &[f32]) -> Vec<f64> {
    let x = Map::scatter(mask, weights.spec.input_channels(), features);
    let x = level(conv2d(&x, &weights.stem, 1, 1).masked(mask), mask, weights, 0);
    let f = norm_relu(&x, &weights.head).gather(mask);
    let classifier = &weights.classifier;
    f.chunks(classifier.inputs)
        .flat_map(|f| {
            (0..classifier.outputs).map(move |class| {
                let row = &classifier.weight[class * classifier.inputs..][..classifier.inputs];
                f64::from(classifier.bias[class])
                    + row.iter().zip(f).map(|(&w, &x)| f64::from(w) * x).sum::<f64>()
            })
        })
        .collect()
}

/// Reproducible numbers for tests (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in `low..high`.
    pub(super) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        low + (high - low) * (bits as f32 / (1u64 << 24) as f32)
    }

    pub(super) fn vector(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.uniform(low, high)).collect()
    }

    /// A kernel whose outputs stay about as large as its inputs.
    pub(super) fn kernel(&mut self, taps: usize, inputs: usize, outputs: usize) -> Kernel {
        let bound = (3.0 / (taps * inputs) as f32).sqrt();
        Kernel { inputs, outputs, values: self.vector(taps * inputs * outputs, -bound, bound) }
    }

    /// Weights of a refiner with every term at work: no zero mean, bias or shift.
    pub(super) fn weights(&mut self, spec: &RefinerSpec) -> RefinerWeights {
        let Ok(weights) = RefinerWeights::assemble::<std::convert::Infallible>(spec, |name, shape| {
            let len = shape.iter().product();
            let fan_in = match shape {
                [_, inputs, _] => 9 * inputs,
                [_, inputs] => *inputs,
                _ => 1,
            };
            let bound = (3.0 / fan_in as f32).sqrt();
            Ok(if name.ends_with(".running_var") {
                self.vector(len, 0.4, 1.6)
            } else if name.contains("bn") && name.ends_with(".weight") {
                self.vector(len, 0.5, 1.5)
            } else if shape.len() == 1 {
                self.vector(len, -0.3, 0.3)
            } else {
                self.vector(len, -bound, bound)
            })
        });
        weights
    }
}
