//! Softmax entropy and best class of planar logits, and the logits of single pixels.
//!
//! For a vector `z` of `C` logits: `d_c = z_c - max z`, `q_c = exp(d_c)`, `s = sum q_c`,
//! `e = (sum q_c * min(ln s - d_c, -ln 1e-5)) / s`, sums over `c` in order. That is METHODS 1.1(2),
//! `e = -sum p ln(max(p, 1e-5))`, with one logarithm per vector. The label is the argmax, the lowest class on ties. A
//! vector that holds a NaN or an infinity has entropy 0 and the label [`UNLABELLED`].

use rayon::prelude::*;

use super::math::{LARGEST_SURPRISE, exp, ln};
use super::scratch::with_floats;
use super::simd::{Kernel, run_widest};
use super::sites::Pixel;
use super::upsample::{Tap, lerp};
use crate::bundle::manifest::Upsample;
use crate::plan::Geometry;
use crate::types::{Size, UNLABELLED};

/// Vectors evaluated together: enough to fill the registers, few enough that `C` of them stay in the first cache.
pub(crate) const LANES: usize = 64;

/// Logits `[classes, h, w]` on the selection grid, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    data: &'a [f32],
    size: Size,
    classes: usize,
}

impl<'a> Logits<'a> {
    /// `data` must hold `classes` (1 to 255) maps of `size`.
    pub fn new(data: &'a [f32], size: Size, classes: usize) -> Self {
        assert!((1..=usize::from(UNLABELLED)).contains(&classes), "{classes} classes");
        assert_eq!(data.len(), classes * size.pixels(), "{classes} maps of {size}");
        Self { data, size, classes }
    }

    /// Rows and columns of each map.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Number of maps.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// One row of one map.
    pub(crate) fn row(&self, class: usize, row: u32) -> &'a [f32] {
        let width = self.size.width as usize;
        &self.data[class * self.size.pixels() + row as usize * width..][..width]
    }

    /// Number of cells with a NaN or an infinity in any class.
    pub(crate) fn non_finite_cells(&self) -> u32 {
        let plane = self.size.pixels();
        let tainted = |cell: usize| (0..self.classes).any(|c| !self.data[c * plane + cell].is_finite());
        (0..plane).into_par_iter().filter(|&cell| tainted(cell)).count() as u32
    }
}

/// Entropy and label of every cell of a row of the grid.
pub(crate) fn cells_of_row(logits: &Logits<'_>, row: u32, entropy: &mut [f32], labels: &mut [u8]) {
    let plane = logits.size.pixels();
    let start = row as usize * logits.size.width as usize;
    with_floats(logits.classes * LANES, |exponentials| {
        let blocks = entropy.chunks_mut(LANES).zip(labels.chunks_mut(LANES)).enumerate();
        for (block, (entropy, labels)) in blocks {
            let logits = &logits.data[start + block * LANES..];
            run_widest(Evaluate { logits, stride: plane, exponentials, entropy, labels });
        }
    });
}

/// Entropy and label of the pixels of a camera row, from logits interpolated at each pixel.
///
/// `row` and `columns` say where the pixels lie on the grid; one column tap per pixel.
pub(crate) fn pixels_of_row(
    logits: &Logits<'_>,
    row: Tap,
    columns: &[Tap],
    entropy: &mut [f32],
    labels: &mut [u8],
) {
    let classes = logits.classes;
    // As many pixels as read at most LANES + 2 neighbouring cells.
    let (first, last) = (columns[0].low as usize, columns[columns.len() - 1].high as usize);
    let block = (LANES * columns.len() / (last + 1 - first).max(columns.len())).max(1);
    with_floats(classes * LANES * 2, |floats| {
        let (exponentials, sampled) = floats.split_at_mut(classes * LANES);
        let blocks = columns.chunks(block).zip(entropy.chunks_mut(block)).zip(labels.chunks_mut(block));
        for ((columns, entropy), labels) in blocks {
            let left = columns[0].low as usize;
            let right = columns[columns.len() - 1].high as usize;
            for (class, sampled) in sampled.chunks_exact_mut(LANES).enumerate() {
                let top = &logits.row(class, row.low)[left..=right];
                let bottom = &logits.row(class, row.high)[left..=right];
                let mut line = [0.0; 2 * LANES];
                for ((value, &a), &b) in line.iter_mut().zip(top).zip(bottom) {
                    *value = lerp(a, b, row.weight);
                }
                for (value, tap) in sampled.iter_mut().zip(columns) {
                    let [low, high] = [tap.low, tap.high].map(|x| line[x as usize - left]);
                    *value = lerp(low, high, tap.weight);
                }
            }
            run_widest(Evaluate { logits: sampled, stride: LANES, exponentials, entropy, labels });
        }
    });
}

/// The formula above for up to [`LANES`] neighbouring vectors; class `c` starts at `logits[c * stride]`.
struct Evaluate<'a> {
    logits: &'a [f32],
    stride: usize,
    /// Work memory, `LANES` per class.
    exponentials: &'a mut [f32],
    entropy: &'a mut [f32],
    labels: &'a mut [u8],
}

impl Kernel for Evaluate<'_> {
    #[inline(always)]
    fn run(self) {
        let lanes = self.entropy.len();
        let vectors = |class: usize| &self.logits[class * self.stride..][..lanes];

        let mut top = [f32::NEG_INFINITY; LANES];
        let mut best = [0_u32; LANES];
        // Stays 0 while everything is finite: NaN * 0 and infinity * 0 are NaN, and remain.
        let mut taint = [0.0_f32; LANES];
        for class in 0..self.exponentials.len() / LANES {
            for (((&z, top), best), taint) in
                vectors(class).iter().zip(&mut top).zip(&mut best).zip(&mut taint)
            {
                let better = z > *top;
                *top = if better { z } else { *top };
                *best = if better { class as u32 } else { *best };
                *taint += z * 0.0;
            }
        }
        let mut total = [0.0_f32; LANES];
        for (class, exponentials) in self.exponentials.chunks_exact_mut(LANES).enumerate() {
            for (((&z, q), &top), total) in vectors(class).iter().zip(exponentials).zip(&top).zip(&mut total)
            {
                *q = exp(z - top);
                *total += *q;
            }
        }
        let mut ln_total = [0.0_f32; LANES];
        for (ln_total, &total) in ln_total.iter_mut().zip(&total) {
            *ln_total = ln(total);
        }
        let mut surprise = [0.0_f32; LANES];
        for (class, exponentials) in self.exponentials.chunks_exact(LANES).enumerate() {
            let lanes = vectors(class).iter().zip(exponentials).zip(&top).zip(&ln_total).zip(&mut surprise);
            for ((((&z, &q), &top), &ln_total), surprise) in lanes {
                let nats = ln_total - (z - top);
                *surprise += q * if nats < LARGEST_SURPRISE { nats } else { LARGEST_SURPRISE };
            }
        }
        for lane in 0..lanes {
            let finite = taint[lane] == 0.0;
            self.entropy[lane] = if finite { surprise[lane] / total[lane] } else { 0.0 };
            self.labels[lane] = if finite { best[lane] as u8 } else { UNLABELLED };
        }
    }
}

/// Fills `out`, `[sites, classes]`, with the coarse logits `y1` at camera pixels.
pub fn gather_logits(
    logits: &Logits<'_>,
    geometry: &Geometry,
    upsample: Upsample,
    sites: &[Pixel],
    out: &mut [f32],
) {
    assert_eq!(out.len(), sites.len() * logits.classes);
    let canvas = geometry.canvas;
    out.par_chunks_mut(logits.classes).zip(sites).with_min_len(1024).for_each(
        |(out, &Pixel { row, col })| {
            let (row, column) = (u32::from(row), u32::from(col));
            match upsample {
                Upsample::Nearest => {
                    let (row, column) = (geometry.cell_row(row), geometry.cell_column(column));
                    for (class, out) in out.iter_mut().enumerate() {
                        *out = logits.row(class, row)[column as usize];
                    }
                }
                Upsample::Bilinear => {
                    let row = Tap::new(row, canvas.height, logits.size.height);
                    let column = Tap::new(column, canvas.width, logits.size.width);
                    for (class, out) in out.iter_mut().enumerate() {
                        let (top, bottom) = (logits.row(class, row.low), logits.row(class, row.high));
                        let [low, high] = [column.low, column.high]
                            .map(|x| lerp(top[x as usize], bottom[x as usize], row.weight));
                        *out = lerp(low, high, column.weight);
                    }
                }
            }
        },
    );
}

/// The formula above for one vector, step by step: the reference the fast version must equal bit for bit.
#[cfg(test)]
pub(crate) fn reference(logits: &[f32]) -> (f32, u8) {
    if logits.iter().any(|z| !z.is_finite()) {
        return (0.0, UNLABELLED);
    }
    let mut best = 0;
    for class in 1..logits.len() {
        if logits[class] > logits[best] {
            best = class;
        }
    }
    let total = logits.iter().fold(0.0, |total, &z| total + exp(z - logits[best]));
    let surprise = logits.iter().fold(0.0, |sum, &z| {
        sum + exp(z - logits[best]) * (ln(total) - (z - logits[best])).min(LARGEST_SURPRISE)
    });
    (surprise / total, best as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate_row(logits: &[f32], width: u32, classes: usize) -> (Vec<f32>, Vec<u8>) {
        let logits = Logits::new(logits, Size::new(width, 1), classes);
        let (mut entropy, mut labels) = (vec![f32::NAN; width as usize], vec![77; width as usize]);
        cells_of_row(&logits, 0, &mut entropy, &mut labels);
        (entropy, labels)
    }

    #[test]
    fn uniform_logits_have_entropy_ln_c_and_the_lowest_label() {
        for classes in [1, 2, 13, 19, 255] {
            let (entropy, labels) = evaluate_row(&vec![3.5; classes], 1, classes);
            assert!(
                (f64::from(entropy[0]) - (classes as f64).ln()).abs() < 5e-6,
                "{classes}: {}",
                entropy[0]
            );
            assert_eq!(labels, [0]);
        }
        assert!((f64::from(evaluate_row(&[0.0; 19], 1, 19).0[0]) - 2.9444).abs() < 1e-4);
    }

    #[test]
    fn the_clamp_is_inside_the_logarithm() {
        // p = e^-20 counts with 11.51 nats, not 20: without the clamp this is 4.3e-8, with it 2.4e-8.
        let (entropy, _) = evaluate_row(&[20.0, 0.0], 1, 2);
        let p = (-20.0_f64).exp();
        assert!((f64::from(entropy[0]) - p * 1e5_f64.ln()).abs() < 1e-9, "{}", entropy[0]);
        let (entropy, labels) = evaluate_row(&[0.0, 1000.0, 0.0], 1, 3);
        assert!(entropy[0] >= 0.0 && entropy[0] < 1e-30);
        assert_eq!(labels, [1]);
    }

    #[test]
    fn entropy_is_close_to_the_exact_formula() {
        for seed in 0..200_u32 {
            let logits: Vec<f32> = (0..19_u32)
                .map(|c| ((seed * 31 + c).wrapping_mul(2_654_435_761) >> 8) as f32 / 2_097_152.0 - 4.0)
                .collect();
            let total: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
            let exact: f64 =
                logits.iter().map(|&z| f64::from(z).exp() / total).map(|p| -p * p.max(1e-5).ln()).sum();
            let (entropy, _) = evaluate_row(&logits, 1, 19);
            assert!((f64::from(entropy[0]) - exact).abs() < 2e-6, "seed {seed}: {} {exact}", entropy[0]);
        }
    }

    #[test]
    fn non_finite_and_enormous_logits() {
        let nan = f32::NAN;
        let inf = f32::INFINITY;
        // Planar: class 0 of five cells, then class 1.
        let logits = [nan, inf, 1.0, 3e38, -inf, 0.0, 0.0, -inf, -3e38, 1.0];
        let (entropy, labels) = evaluate_row(&logits, 5, 2);
        assert_eq!(labels, [UNLABELLED, UNLABELLED, UNLABELLED, 0, UNLABELLED]);
        assert!(entropy.iter().all(|&e| (0.0..1e-30).contains(&e)), "{entropy:?}");
        assert_eq!(Logits::new(&logits, Size::new(5, 1), 2).non_finite_cells(), 4);
    }

    #[test]
    fn blocks_equal_the_vector_formula_bit_for_bit() {
        let (width, classes) = (150, 7);
        let logits: Vec<f32> = (0..width * classes)
            .map(|i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / 2e8 - 10.0)
            .collect();
        let (entropy, labels) = evaluate_row(&logits, width as u32, classes);
        for cell in 0..width {
            let vector: Vec<f32> = (0..classes).map(|c| logits[c * width + cell]).collect();
            assert_eq!((entropy[cell], labels[cell]), reference(&vector), "cell {cell}");
        }
    }
}
