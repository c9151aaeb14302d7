//! The label of every camera pixel: argmax of the scores interpolated at the pixel, which no memory ever holds.
//!
//! Bilinear, half-pixel centres, clamped, rows first, as `cpu::upsample`; ties to the lowest class; a pixel with a score
//! that is not finite is [`UNLABELLED`]. Between two columns of scores where the same class wins by more than rounding can
//! take away, it wins at every pixel, so only the pixels near edges are interpolated. The labels are those of
//! `evaluate::pixels_of_row`, a test says so.

use rayon::prelude::*;

use crate::cpu::scratch::with_floats;
use crate::cpu::upsample::{Tap, lerp};
use crate::tiles::Layout;
use crate::types::UNLABELLED;

/// Lead of the best class, in units of the largest score around, that interpolation cannot lose: a hundred roundings.
const SAFE_LEAD: f32 = 1e-5;
/// Lead of a column where a score is not finite.
const NO_LEAD: f32 = -1.0;

/// Where the pixels of a camera row lie between the columns of scores.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns(Vec<Tap>);

impl Columns {
    pub(super) fn new(layout: &Layout) -> Self {
        let mut taps = Vec::new();
        Tap::fill(&mut taps, layout.camera.width, layout.canvas.width, layout.positions.width);
        Self(taps)
    }

    /// Writes the label of every camera pixel. `scores` holds one map of `layout.positions` a class.
    pub(super) fn write_labels(
        &self,
        scores: &[f32],
        layout: &Layout,
        label_of_channel: &[u8],
        out: &mut [u8],
    ) {
        let (plane, width) = (layout.positions.pixels(), layout.positions.width as usize);
        let classes = label_of_channel.len();
        assert_eq!(scores.len(), classes * plane, "one map a class");
        assert_eq!(out.len(), layout.camera.pixels());
        out.par_chunks_mut(layout.camera.width as usize).enumerate().with_min_len(4).for_each(
            |(row, out)| {
                let tap = Tap::new(row as u32, layout.canvas.height, layout.positions.height);
                with_floats((classes + 4) * width, |floats| {
                    let (lines, leads) = floats.split_at_mut(classes * width);
                    for (class, line) in lines.chunks_exact_mut(width).enumerate() {
                        let map = &scores[class * plane..];
                        let top = &map[tap.low as usize * width..][..width];
                        let bottom = &map[tap.high as usize * width..][..width];
                        for ((value, &a), &b) in line.iter_mut().zip(top).zip(bottom) {
                            *value = lerp(a, b, tap.weight);
                        }
                    }
                    let Leading { best, lead, largest } = leading_class(lines, width, leads);
                    for (out, tap) in out.iter_mut().zip(&self.0) {
                        let [low, high] = [tap.low, tap.high].map(|column| column as usize);
                        let safe = SAFE_LEAD * largest[low].max(largest[high]);
                        let settled = best[low] == best[high] && lead[low] > safe && lead[high] > safe;
                        let channel =
                            if settled { best[low] as usize } else { best_between(lines, width, *tap) };
                        *out = label_of_channel.get(channel).copied().unwrap_or(UNLABELLED);
                    }
                });
            },
        );
    }
}

/// What is known of each column of scores.
struct Leading<'a> {
    /// Best class.
    best: &'a [f32],
    /// By how much it leads the next.
    lead: &'a [f32],
    /// Largest magnitude of a score.
    largest: &'a [f32],
}

fn leading_class<'a>(lines: &[f32], width: usize, work: &'a mut [f32]) -> Leading<'a> {
    let (best, rest) = work.split_at_mut(width);
    let (top, rest) = rest.split_at_mut(width);
    let (second, largest) = rest.split_at_mut(width);
    best.fill(0.0);
    top.fill(f32::NEG_INFINITY);
    second.fill(f32::NEG_INFINITY);
    largest.fill(0.0);
    for (class, line) in lines.chunks_exact(width).enumerate() {
        let columns = best.iter_mut().zip(top.iter_mut()).zip(second.iter_mut()).zip(largest.iter_mut());
        for ((((best, top), second), largest), &score) in columns.zip(line) {
            let better = score > *top;
            *second = if better { *top } else { second.max(score) };
            *best = if better { class as f32 } else { *best };
            *top = if better { score } else { *top };
            // Stays NaN once a score is not finite.
            *largest += (score.abs() - *largest).max(0.0) + score * 0.0;
        }
    }
    for ((lead, &top), &largest) in second.iter_mut().zip(&*top).zip(&*largest) {
        // With one class there is no second: infinity, which is safe.
        *lead = if largest.is_nan() { NO_LEAD } else { top - *lead };
    }
    Leading { best, lead: second, largest }
}

/// The best class at one pixel; past the last class where a score is not finite.
fn best_between(lines: &[f32], width: usize, tap: Tap) -> usize {
    let (mut best, mut top, mut taint) = (0, f32::NEG_INFINITY, 0.0_f32);
    for (class, line) in lines.chunks_exact(width).enumerate() {
        let score = lerp(line[tap.low as usize], line[tap.high as usize], tap.weight);
        taint += score * 0.0;
        if score > top {
            (best, top) = (class, score);
        }
    }
    if taint == 0.0 { best } else { usize::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::Upsample;
    use crate::cpu::dense_reference::Random;
    use crate::cpu::evaluate::Logits;
    use crate::cpu::select::Selection;
    use crate::plan::Geometry;
    use crate::types::Size;

    #[test]
    fn labels_are_those_of_the_pixel_by_pixel_evaluation() {
        let layout = Layout {
            camera: Size::new(150, 90),
            canvas: Size::new(160, 96),
            cells: Size::new(10, 6),
            positions: Size::new(20, 12),
            cell: 16,
            stride: 8,
            tile: 32,
            halo: 16,
        };
        let mut random = Random::new(3);
        for (classes, spread) in [(1, 2.0), (2, 1.0), (5, 1e-6), (13, 8.0), (13, 0.0)] {
            let mut scores = random.vector(classes * 240, -1.0 - spread, spread);
            if spread == 8.0 {
                (scores[77], scores[900], scores[1300]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
            }
            let labels: Vec<u8> = (0..classes as u8).map(|class| class + 3).collect();
            let geometry = Geometry { camera: layout.camera, canvas: layout.canvas, grid: layout.positions };
            let mut selection = Selection::default();
            let logits = Logits::new(&scores, layout.positions, classes);
            selection.select(&logits, &geometry, Upsample::Bilinear, f32::INFINITY, 0);
            let (mut wanted, mut got) = (vec![0; 150 * 90], vec![1; 150 * 90]);
            selection.write_labels(&labels, &mut wanted);
            Columns::new(&layout).write_labels(&scores, &layout, &labels, &mut got);
            assert!(got == wanted, "{classes} classes, spread {spread}");
        }
    }
}
