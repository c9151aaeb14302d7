//! Cells in which `bilinear` selection is decided by the corners, so that none of their pixels has to be evaluated.
//!
//! Inside a cell the logits are convex combinations of those at its four corners. If class `k` leads at all of them, and
//! `m_c < 0` is the largest `z_c - z_k` there, then inside `q_c = p_c / p_k <= r_c = exp(m_c)`, and the entropy is
//! `H = ln(1 + sum q) + p_k sum(-q_c ln q_c) <= ln(1 + sum r) + sum g(r_c)`, sums over `c != k`, where `g(r)`, the largest
//! `-q ln q` up to `r`, is `-r ln r` below `1/e` and `1/e` from there on. The clamp of METHODS 1.1(2) only lowers it. Below
//! alpha, all pixels of the cell have the label `k` and none is selected.
//!
//! That holds for real numbers; [`MARGIN`] and [`SLACK`] keep clear of what `f32` rounds.

use rayon::prelude::*;

use super::evaluate::{LANES, Logits};
use super::math::{exp, ln};
use super::scratch::with_floats;
use super::simd::{Kernel, run_widest};
use crate::types::UNLABELLED;

/// A cell of fewer camera pixels costs as much to bound as to evaluate.
const LEAST_PIXELS: usize = 4;
/// How far `k` must lead, in parts of the largest logit. Two interpolations in a row err by at most 10 units of 2^-24 of it,
/// two classes by twice that: 1.2e-6.
const MARGIN: f32 = 4e-6;
/// Least distance of the bound from alpha, absolute and in parts of the largest logit. Logits that err by `d` move the
/// entropy by at most `2 d ln C`, so by 8e-6 of the largest; sums of up to 255 classes err by less than 2e-4.
const SLACK: [f32; 2] = [2e-4, 2e-5];

/// Corners of [`LANES`] cells in a row.
const CORNERS: usize = LANES + 1;

/// Whether it pays to look for certain cells among `cells` that stand for `pixels`.
pub(crate) fn worthwhile(cells: usize, pixels: usize) -> bool {
    pixels >= LEAST_PIXELS * cells
}

/// Fills `certain`, one entry a cell: the label of all its pixels, or [`UNLABELLED`] where they must be looked at.
///
/// Cell `(r, c)` lies between the grid's rows `r` and `r + 1` and columns `c` and `c + 1`, or the last ones.
pub(crate) fn certain_cells(logits: &Logits<'_>, alpha: f32, certain: &mut [u8]) {
    let width = logits.size().width as usize;
    assert_eq!(certain.len(), logits.size().pixels());
    certain.par_chunks_mut(width).enumerate().for_each(|(row, certain)| {
        with_floats(logits.classes() * 2 * CORNERS, |corners| {
            let below = (row as u32 + 1).min(logits.size().height - 1);
            for (block, certain) in certain.chunks_mut(LANES).enumerate() {
                let start = block * LANES;
                let end = (start + CORNERS).min(width);
                for (class, corners) in corners.chunks_exact_mut(2 * CORNERS).enumerate() {
                    let (top, bottom) = corners.split_at_mut(CORNERS);
                    for (line, row) in [(top, row as u32), (bottom, below)] {
                        let values = &logits.row(class, row)[start..end];
                        line[..values.len()].copy_from_slice(values);
                        // To the right of the last column there is that column again.
                        line[values.len()..].fill(values[values.len() - 1]);
                    }
                }
                run_widest(Bound { corners, alpha, certain });
            }
        });
    });
}

/// The bound for up to [`LANES`] neighbouring cells.
struct Bound<'a> {
    /// Two lines of [`CORNERS`] logits a class.
    corners: &'a [f32],
    alpha: f32,
    certain: &'a mut [u8],
}

impl Kernel for Bound<'_> {
    #[inline(always)]
    fn run(self) {
        let mut top = [f32::NEG_INFINITY; 2 * CORNERS];
        let mut magnitude = [0.0_f32; 2 * CORNERS];
        // Stays 0 while everything is finite: NaN * 0 and infinity * 0 are NaN, and remain.
        let mut taint = [0.0_f32; 2 * CORNERS];
        for corners in self.corners.chunks_exact(2 * CORNERS) {
            let lanes = corners.iter().zip(&mut top).zip(&mut magnitude).zip(&mut taint);
            for (((&z, top), magnitude), taint) in lanes {
                *top = if z > *top { z } else { *top };
                *magnitude = if z.abs() > *magnitude { z.abs() } else { *magnitude };
                *taint += z * 0.0;
            }
        }
        let mut largest = [0.0_f32; LANES];
        let mut finite = [false; LANES];
        for lane in 0..LANES {
            let of = |values: &[f32; 2 * CORNERS]| {
                [lane, lane + 1, CORNERS + lane, CORNERS + lane + 1].map(|corner| values[corner])
            };
            largest[lane] = of(&magnitude).into_iter().fold(0.0, |a, b| if b > a { b } else { a });
            finite[lane] = of(&taint).into_iter().sum::<f32>() == 0.0;
        }
        let mut leading = [0_u32; LANES];
        let mut label = [0_u32; LANES];
        let mut ratios = [0.0_f32; LANES];
        let mut surprise = [0.0_f32; LANES];
        for (class, corners) in self.corners.chunks_exact(2 * CORNERS).enumerate() {
            for lane in 0..LANES {
                let behind = |corner: usize| corners[corner] - top[corner];
                let (a, b) = (behind(lane), behind(lane + 1));
                let (c, d) = (behind(CORNERS + lane), behind(CORNERS + lane + 1));
                let (ab, cd) = (if a > b { a } else { b }, if c > d { c } else { d });
                let most = if ab > cd { ab } else { cd };
                // Two classes that lead at different corners are both counted.
                let leads = most >= -MARGIN * largest[lane];
                leading[lane] += u32::from(leads);
                label[lane] = if leads { class as u32 } else { label[lane] };
                let ratio = exp(most);
                let peak = if most < -1.0 { -most * ratio } else { std::f32::consts::E.recip() };
                ratios[lane] += if leads { 0.0 } else { ratio };
                surprise[lane] += if leads { 0.0 } else { peak };
            }
        }
        for (lane, certain) in self.certain.iter_mut().enumerate() {
            let bound = ln(1.0 + ratios[lane]) + surprise[lane];
            let slack = SLACK[0] + SLACK[1] * largest[lane];
            let decided = leading[lane] == 1 && finite[lane] && bound < self.alpha - slack;
            *certain = if decided { label[lane] as u8 } else { UNLABELLED };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::evaluate::reference;
    use super::super::upsample::lerp;
    use super::*;
    use crate::types::Size;

    fn cells(data: &[f32], size: Size, classes: usize, alpha: f32) -> Vec<u8> {
        let mut certain = vec![77; size.pixels()];
        certain_cells(&Logits::new(data, size, classes), alpha, &mut certain);
        certain
    }

    /// Entropy and label at a place of the only real cell of a 2x2 grid, as the selection computes them.
    fn inside(data: &[f32], classes: usize, down: f32, right: f32) -> (f32, u8) {
        let logits: Vec<f32> = (0..classes)
            .map(|class| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|corner| data[4 * class + corner]);
                lerp(lerp(a, c, down), lerp(b, d, down), right)
            })
            .collect();
        reference(&logits)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_pixel_of_a_certain_cell_is_selected_or_labelled_otherwise(
            classes in 1_usize..8,
            values in prop::collection::vec(-1.0_f32..1.0, 32),
            lead in prop::sample::select(vec![0.0_f32, 1e-7, 1e-5, 0.5, 2.0]),
            scale in prop::sample::select(vec![1e-30_f32, 0.1, 1.0, 8.0, 1e4, 1e30]),
            alpha in prop::sample::select(vec![0.0_f32, 0.005, 0.3, 0.7, 1.4, f32::INFINITY]),
        ) {
            let ahead = |i: usize| if i / 4 == classes / 2 { lead } else { 0.0 };
            let data: Vec<f32> = (0..4 * classes).map(|i| (values[i] + ahead(i)) * scale).collect();
            let certain = cells(&data, Size::new(2, 2), classes, alpha)[0];
            if certain != UNLABELLED {
                for step in 0..=100_u8 {
                    let (down, right) = (f32::from(step % 10) / 10.0, f32::from(step / 10) / 10.0);
                    let (entropy, label) = inside(&data, classes, down, right);
                    prop_assert_eq!(label, certain);
                    prop_assert!(entropy <= alpha, "{} at {} {}", entropy, down, right);
                }
            }
        }
    }

    #[test]
    fn confident_cells_are_certain_and_borders_repeat() {
        // Class 1 leads everywhere but at the first corner; three rows of three cells.
        let mut data = vec![0.0; 9];
        data.extend([-9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        let size = Size::new(3, 3);
        assert_eq!(cells(&data, size, 2, 0.3), [UNLABELLED, 1, 1, 1, 1, 1, 1, 1, 1]);
        // 0.0012 nats at most: certain below alpha 0.3, not below 0.001.
        assert_eq!(cells(&data, size, 2, 0.001), [UNLABELLED; 9]);
        assert_eq!(cells(&[1.0; 4], Size::new(2, 2), 1, 0.01), [0; 4], "one class is always certain");
    }

    #[test]
    fn ties_and_what_is_not_finite_are_never_certain() {
        assert_eq!(cells(&[3.0; 8], Size::new(2, 2), 2, f32::INFINITY), [UNLABELLED; 4]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut data = vec![0.0; 32];
            data[16..].fill(20.0);
            data[21] = bad;
            let certain = cells(&data, Size::new(4, 4), 2, 1.0);
            let touching = [0, 1, 4, 5];
            for (cell, &label) in certain.iter().enumerate() {
                assert_eq!(label, if touching.contains(&cell) { UNLABELLED } else { 1 }, "{bad} {cell}");
            }
        }
    }

    #[test]
    fn wide_rows_are_cut_into_blocks_without_a_seam() {
        let size = Size::new(3 * LANES as u32 + 5, 2);
        let mut data = vec![0.0; 2 * size.pixels()];
        let (first, second) = data.split_at_mut(size.pixels());
        second.fill(12.0);
        // One corner where the other class leads, at every place in turn.
        for column in 0..size.width as usize {
            first[column] = 30.0;
            let joined = [&*first, &*second].concat();
            let certain = cells(&joined, size, 2, 0.5);
            for (cell, &label) in certain[..size.width as usize].iter().enumerate() {
                let touches = cell == column || cell + 1 == column;
                assert_eq!(label == UNLABELLED, touches, "corner {column}, cell {cell}");
            }
            first[column] = 0.0;
        }
    }
}
