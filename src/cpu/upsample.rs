//! Bilinear interpolation of planar maps: half-pixel centres, clamped at the border.
//!
//! Output position `i` of `n` reads the input of length `m` at `(i + 1/2) * m / n - 1/2`. The position is computed in
//! integers, so its fraction has one rounding; rows are interpolated first, then columns, as `a + f * (b - a)`.

use rayon::prelude::*;

use super::scratch::with_floats;
use crate::types::Size;

/// The two inputs of one output position, and the share of the second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tap {
    /// Index of the input at or before the position.
    pub low: u32,
    /// The next one, or the same at the end.
    pub high: u32,
    /// Share of `high`, in `[0, 1)`.
    pub weight: f32,
}

impl Tap {
    /// The inputs of output `index` when `inputs` are stretched to `outputs`.
    pub fn new(index: u32, outputs: u32, inputs: u32) -> Self {
        let [index, outputs, inputs] = [index, outputs, inputs].map(i64::from);
        let denominator = 2 * outputs;
        let position = ((2 * index + 1) * inputs - outputs).clamp(0, (inputs - 1) * denominator);
        let low = position / denominator;
        Self {
            low: low as u32,
            high: (low + 1).min(inputs - 1) as u32,
            weight: (position % denominator) as f32 / denominator as f32,
        }
    }

    /// Fills `taps` for all outputs up to `count`, keeping its memory.
    pub(crate) fn fill(taps: &mut Vec<Self>, count: u32, outputs: u32, inputs: u32) {
        taps.clear();
        taps.extend((0..count).map(|index| Self::new(index, outputs, inputs)));
    }
}

/// `a + f * (b - a)`, the one formula of all interpolation here.
#[inline(always)]
pub(crate) fn lerp(a: f32, b: f32, f: f32) -> f32 {
    a + f * (b - a)
}

/// Stretches planar maps `[channels, h', w']` to `[channels, h, w]`.
#[derive(Clone, Debug)]
pub struct Upsampler {
    from: Size,
    to: Size,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl Upsampler {
    /// Prepares the positions. Both sizes must be at least 1x1.
    pub fn new(from: Size, to: Size) -> Self {
        let mut upsampler = Self { from, to, rows: Vec::new(), columns: Vec::new() };
        Tap::fill(&mut upsampler.rows, to.height, to.height, from.height);
        Tap::fill(&mut upsampler.columns, to.width, to.width, from.width);
        upsampler
    }

    /// Whether the sizes agree, so that [`Upsampler::run`] only copies.
    pub fn is_identity(&self) -> bool {
        self.from == self.to
    }

    /// Stretches `input` into `out`; the lengths must be the same number of whole maps.
    pub fn run(&self, input: &[f32], out: &mut [f32]) {
        assert_eq!(input.len() / self.from.pixels(), out.len() / self.to.pixels());
        assert_eq!((input.len() % self.from.pixels(), out.len() % self.to.pixels()), (0, 0));
        if self.is_identity() {
            out.copy_from_slice(input);
            return;
        }
        let width = self.from.width as usize;
        out.par_chunks_mut(self.to.width as usize).enumerate().with_min_len(16).for_each(|(index, out)| {
            let (channel, row) = (index / self.rows.len(), self.rows[index % self.rows.len()]);
            let map = &input[channel * self.from.pixels()..][..self.from.pixels()];
            let low = &map[row.low as usize * width..][..width];
            let high = &map[row.high as usize * width..][..width];
            with_floats(width, |line| {
                for ((value, &a), &b) in line.iter_mut().zip(low).zip(high) {
                    *value = lerp(a, b, row.weight);
                }
                for (out, tap) in out.iter_mut().zip(&self.columns) {
                    *out = lerp(line[tap.low as usize], line[tap.high as usize], tap.weight);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook formula in f64.
    fn reference(input: &[f32], from: Size, to: Size, row: u32, column: u32) -> f64 {
        let place = |i: u32, n: u32, m: u32| {
            let x = ((f64::from(i) + 0.5) * f64::from(m) / f64::from(n) - 0.5).clamp(0.0, f64::from(m - 1));
            (x.floor() as usize, (x.floor() as usize + 1).min(m as usize - 1), x.fract())
        };
        let (y0, y1, fy) = place(row, to.height, from.height);
        let (x0, x1, fx) = place(column, to.width, from.width);
        let at = |y: usize, x: usize| f64::from(input[y * from.width as usize + x]);
        let top = at(y0, x0) * (1.0 - fx) + at(y0, x1) * fx;
        let bottom = at(y1, x0) * (1.0 - fx) + at(y1, x1) * fx;
        top * (1.0 - fy) + bottom * fy
    }

    #[test]
    fn agrees_with_the_textbook_formula() {
        for (from, to) in [
            (Size::new(5, 3), Size::new(20, 12)),
            (Size::new(7, 9), Size::new(13, 17)),
            (Size::new(1, 1), Size::new(4, 6)),
            (Size::new(9, 6), Size::new(4, 4)),
        ] {
            let channels = 3;
            let input: Vec<f32> =
                (0..from.pixels() * channels).map(|i| ((i * 7919) % 101) as f32 / 10.0 - 5.0).collect();
            let mut out = vec![f32::NAN; to.pixels() * channels];
            Upsampler::new(from, to).run(&input, &mut out);
            for channel in 0..channels {
                for row in 0..to.height {
                    for column in 0..to.width {
                        let want = reference(&input[channel * from.pixels()..], from, to, row, column);
                        let got = out[channel * to.pixels() + (row * to.width + column) as usize];
                        assert!(
                            (f64::from(got) - want).abs() < 1e-5,
                            "{from}->{to} at {channel},{row},{column}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn equal_sizes_copy_and_taps_stay_inside() {
        let size = Size::new(4, 3);
        let input: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let mut out = vec![0.0; 24];
        let upsampler = Upsampler::new(size, size);
        assert!(upsampler.is_identity());
        upsampler.run(&input, &mut out);
        assert_eq!(out, input);
        for (outputs, inputs) in [(10, 3), (3, 10), (8, 8), (5, 1)] {
            for index in 0..outputs {
                let tap = Tap::new(index, outputs, inputs);
                assert!(tap.low <= tap.high && tap.high < inputs && (0.0..1.0).contains(&tap.weight));
            }
        }
    }
}
