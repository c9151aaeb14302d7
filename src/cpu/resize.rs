//! The camera image on the segmenter's grid: exact area means, normalised, planar.
//!
//! With `W/w` in lowest terms, cell `x` of the grid covers `[x W, (x + 1) W)` on an axis where pixel `c` covers
//! `[c w, (c + 1) w)`, so every overlap is an integer. Products of overlaps and levels are summed in integers and
//! divided once: the result does not depend on the order of the sums, on threads, vector width or machine, and a CUDA
//! twin can give the same bits.
//!
//! A cell averages only the camera's pixels it covers; a cell of padding that covers none is 0, the mean colour.

use rayon::prelude::*;

use super::scratch::with_sums;
use super::simd::{Kernel, run_widest};
use crate::plan::{Geometry, Normalisation};
use crate::types::Size;

/// The pixels of one axis that a cell covers, and how much of each.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// First pixel.
    first: u32,
    /// One past the last pixel of the camera; `first` for a cell of padding.
    end: u32,
    /// Overlap with the first pixel.
    head: u32,
    /// Overlap with the last pixel, if there are several.
    tail: u32,
}

/// One axis of the resize.
#[derive(Clone, Debug)]
struct Axis {
    /// Width of a pixel, the overlap with pixels wholly inside a cell.
    unit: u32,
    /// Pixels per cell if that is a whole number.
    ratio: Option<u32>,
    spans: Vec<Span>,
}

impl Axis {
    fn new(camera: u32, canvas: u32, cells: u32) -> Self {
        let divisor = gcd(canvas, cells);
        // Lengths of a cell and of a pixel.
        let (cell, unit) = (u64::from(canvas / divisor), u64::from(cells / divisor));
        let span = |index: u64| {
            let (start, stop) = (index * cell, (index + 1) * cell);
            let end = stop.div_ceil(unit).min(u64::from(camera));
            let first = (start / unit).min(end);
            let overlap = |pixel: u64| {
                let [low, high] = [start.max(pixel * unit), stop.min((pixel + 1) * unit)];
                high.saturating_sub(low) as u32
            };
            Span {
                first: first as u32,
                end: end as u32,
                head: overlap(first),
                tail: overlap(end.saturating_sub(1)),
            }
        };
        Self {
            unit: unit as u32,
            ratio: (unit == 1).then_some(cell as u32),
            spans: (0..u64::from(cells)).map(span).collect(),
        }
    }

    /// Overlap of a cell with one of the pixels of its span.
    fn overlap(&self, span: Span, pixel: u32) -> u32 {
        if pixel == span.first {
            span.head
        } else if pixel + 1 == span.end {
            span.tail
        } else {
            self.unit
        }
    }

    /// What a cell covers of the camera.
    fn covered(&self, span: Span) -> u64 {
        match span.end - span.first {
            0 => 0,
            1 => u64::from(span.head),
            pixels => {
                u64::from(span.head) + u64::from(span.tail) + u64::from(pixels - 2) * u64::from(self.unit)
            }
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Resizes images of one geometry for one network.
#[derive(Clone, Debug)]
pub struct AreaResize {
    camera: Size,
    grid: Size,
    normalisation: Normalisation,
    rows: Axis,
    columns: Axis,
}

impl AreaResize {
    /// Prepares the overlaps of a geometry.
    pub fn new(geometry: &Geometry, normalisation: Normalisation) -> Self {
        let Geometry { camera, canvas, grid } = *geometry;
        Self {
            camera,
            grid,
            normalisation,
            rows: Axis::new(camera.height, canvas.height, grid.height),
            columns: Axis::new(camera.width, canvas.width, grid.width),
        }
    }

    /// Resizes a packed RGB image of the camera's size into three normalised planes, `[3, h, w]`.
    pub fn run(&self, rgb: &[u8], out: &mut [f32]) {
        assert_eq!(rgb.len(), self.camera.pixels() * 3, "an RGB image of {}", self.camera);
        assert_eq!(out.len(), self.grid.pixels() * 3, "three planes of {}", self.grid);
        let width = self.grid.width as usize;
        let (first, rest) = out.split_at_mut(self.grid.pixels());
        let (second, third) = rest.split_at_mut(self.grid.pixels());
        first
            .par_chunks_mut(width)
            .zip(second.par_chunks_mut(width))
            .zip(third.par_chunks_mut(width))
            .zip(&self.rows.spans)
            .with_min_len(4)
            .for_each(|(((first, second), third), &span)| self.row(rgb, span, [first, second, third]));
    }

    /// One row of cells.
    fn row(&self, rgb: &[u8], span: Span, mut planes: [&mut [f32]; 3]) {
        if span.first == span.end {
            planes.iter_mut().for_each(|plane| plane.fill(0.0));
            return;
        }
        let pitch = self.camera.width as usize * 3;
        with_sums(pitch, |sums| {
            run_widest(SumRows { axis: &self.rows, rgb, span, sums });
            let (pixels, _) = sums.as_chunks::<3>();
            let height = self.rows.covered(span);
            let whole = match self.columns.ratio {
                Some(2) => self.whole_cells::<2>(pixels, height, &mut planes),
                Some(3) => self.whole_cells::<3>(pixels, height, &mut planes),
                Some(4) => self.whole_cells::<4>(pixels, height, &mut planes),
                Some(8) => self.whole_cells::<8>(pixels, height, &mut planes),
                _ => 0,
            };
            for (cell, &span) in self.columns.spans.iter().enumerate().skip(whole) {
                let mut totals = [0_u64; 3];
                for pixel in span.first..span.end {
                    let overlap = u64::from(self.columns.overlap(span, pixel));
                    for (total, &sum) in totals.iter_mut().zip(&pixels[pixel as usize]) {
                        *total += u64::from(sum) * overlap;
                    }
                }
                self.store(cell, totals, self.columns.covered(span) * height, &mut planes);
            }
        });
    }

    /// The cells of `N` whole pixels, all inside the camera; returns how many they are.
    fn whole_cells<const N: usize>(
        &self,
        pixels: &[[u32; 3]],
        height: u64,
        planes: &mut [&mut [f32]; 3],
    ) -> usize {
        let (cells, _) = pixels.as_chunks::<N>();
        for (cell, pixels) in cells.iter().enumerate() {
            let mut totals = [0; 3];
            for pixel in pixels {
                for (total, &sum) in totals.iter_mut().zip(pixel) {
                    *total += u64::from(sum);
                }
            }
            self.store(cell, totals, height * N as u64, planes);
        }
        cells.len()
    }

    /// Divides and normalises one cell.
    #[inline(always)]
    fn store(&self, cell: usize, totals: [u64; 3], area: u64, planes: &mut [&mut [f32]; 3]) {
        let sources = self.normalisation.sources();
        for (plane, out) in planes.iter_mut().enumerate() {
            let total = totals[sources[plane]];
            // Far below 2^63; signed conversion is one instruction.
            let level = total as i64 as f32 / area as i64 as f32;
            out[cell] = if area == 0 { 0.0 } else { self.normalisation.apply(plane, level) };
        }
    }
}

/// Adds up the rows of a span, each times its overlap, byte by byte.
struct SumRows<'a> {
    axis: &'a Axis,
    rgb: &'a [u8],
    span: Span,
    sums: &'a mut [u32],
}

impl Kernel for SumRows<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { axis, rgb, span, sums } = self;
        let pitch = sums.len();
        let block = &rgb[span.first as usize * pitch..span.end as usize * pitch];
        match (axis.ratio, span.end - span.first) {
            (Some(2), 2) => sum_whole::<2>(block, sums),
            (Some(3), 3) => sum_whole::<3>(block, sums),
            (Some(4), 4) => sum_whole::<4>(block, sums),
            (Some(8), 8) => sum_whole::<8>(block, sums),
            _ => {
                sums.fill(0);
                for (pixel, row) in (span.first..).zip(block.chunks_exact(pitch)) {
                    let overlap = axis.overlap(span, pixel);
                    for (sum, &level) in sums.iter_mut().zip(row) {
                        *sum += u32::from(level) * overlap;
                    }
                }
            }
        }
    }
}

/// Adds up `N` rows that lie wholly in the cell.
#[inline(always)]
fn sum_whole<const N: usize>(block: &[u8], sums: &mut [u32]) {
    let pitch = sums.len();
    let rows: [&[u8]; N] = std::array::from_fn(|row| &block[row * pitch..][..pitch]);
    for (byte, sum) in sums.iter_mut().enumerate() {
        *sum = u32::from(rows.iter().map(|row| u16::from(row[byte])).sum::<u16>());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::simd::tests::plainly;
    use super::*;
    use crate::bundle::manifest::ChannelOrder;

    /// Levels as they are: mean 0, std 1.
    const PLAIN: Normalisation = Normalisation { order: ChannelOrder::Rgb, mean: [0.0; 3], std: [1.0; 3] };

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn resize(rgb: &[u8], geometry: &Geometry, normalisation: Normalisation) -> Vec<f32> {
        let mut out = vec![f32::NAN; geometry.grid.pixels() * 3];
        AreaResize::new(geometry, normalisation).run(rgb, &mut out);
        out
    }

    /// The area mean of one cell in f64, by overlapping rectangles.
    fn reference(rgb: &[u8], geometry: &Geometry, plane: usize, row: u32, column: u32) -> f64 {
        let overlap = |cell: u32, pixel: u32, canvas: u32, cells: u32| {
            let ratio = f64::from(canvas) / f64::from(cells);
            let low = (f64::from(cell) * ratio).max(f64::from(pixel));
            ((f64::from(cell + 1) * ratio).min(f64::from(pixel + 1)) - low).max(0.0)
        };
        let (mut total, mut area) = (0.0, 0.0);
        for r in 0..geometry.camera.height {
            let height = overlap(row, r, geometry.canvas.height, geometry.grid.height);
            for c in 0..geometry.camera.width {
                let share = height * overlap(column, c, geometry.canvas.width, geometry.grid.width);
                let level = rgb[((r * geometry.camera.width + c) * 3) as usize + plane];
                total += share * f64::from(level);
                area += share;
            }
        }
        // Rounding leaves slivers of 1e-15 on cells that cover nothing.
        if area < 1e-9 { 0.0 } else { total / area }
    }

    /// Compares the resize, by wide and by plain loops, with [`reference`] at every cell.
    fn check(rgb: &[u8], geometry: &Geometry) {
        let out = resize(rgb, geometry, PLAIN);
        assert_eq!(plainly(|| resize(rgb, geometry, PLAIN)), out, "{geometry:?}: plain and wide loops");
        for plane in 0..3 {
            for row in 0..geometry.grid.height {
                for column in 0..geometry.grid.width {
                    let cell = plane * geometry.grid.pixels() + (row * geometry.grid.width + column) as usize;
                    let want = reference(rgb, geometry, plane, row, column);
                    let error = (f64::from(out[cell]) - want).abs();
                    assert!(error < 1e-4, "{geometry:?} plane {plane} at {row},{column}: {error}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn random_geometries_agree_with_overlapping_rectangles(
            (width, height) in (1..=40_u32, 1..=24_u32),
            (columns, rows) in (1..=12_u32, 1..=9_u32),
            padded in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 997),
        ) {
            let (camera, grid) = (Size::new(width, height), Size::new(columns, rows));
            let fit = if padded { Geometry::pad } else { Geometry::stretch };
            let rgb: Vec<u8> = bytes.iter().cycle().take(camera.pixels() * 3).copied().collect();
            check(&rgb, &fit(camera, grid));
        }
    }

    #[test]
    fn agrees_with_overlapping_rectangles_at_every_kind_of_ratio() {
        for geometry in [
            Geometry::stretch(Size::new(16, 12), Size::new(8, 6)),
            Geometry::stretch(Size::new(24, 18), Size::new(8, 6)),
            Geometry::stretch(Size::new(32, 24), Size::new(8, 6)),
            Geometry::stretch(Size::new(64, 48), Size::new(8, 6)),
            Geometry::stretch(Size::new(35, 30), Size::new(7, 6)),
            Geometry::stretch(Size::new(32, 24), Size::new(20, 15)),
            Geometry::stretch(Size::new(37, 23), Size::new(11, 9)),
            Geometry::stretch(Size::new(32, 9), Size::new(8, 7)),
            Geometry::stretch(Size::new(5, 4), Size::new(13, 9)),
            Geometry::stretch(Size::new(1, 1), Size::new(3, 2)),
            Geometry::pad(Size::new(30, 21), Size::new(8, 8)),
            Geometry::pad(Size::new(13, 4), Size::new(8, 8)),
            Geometry::pad(Size::new(3, 2), Size::new(8, 8)),
        ] {
            check(&noise(geometry.camera.pixels() * 3), &geometry);
        }
    }

    #[test]
    fn equal_sizes_give_the_levels_themselves() {
        let geometry = Geometry::stretch(Size::new(9, 5), Size::new(9, 5));
        let rgb = noise(9 * 5 * 3);
        let out = resize(&rgb, &geometry, PLAIN);
        for (index, &level) in rgb.iter().enumerate() {
            assert_eq!(out[index % 3 * 45 + index / 3], f32::from(level));
        }
    }

    #[test]
    fn means_are_exact_however_the_same_ratio_comes_about() {
        // A ratio of 4 by the fast path, and by the general path in the last, partial column of a padded image.
        let flat = [77_u8, 3, 255].repeat(16 * 16);
        let geometry = Geometry::pad(Size::new(15, 16), Size::new(4, 4));
        let out = resize(&flat[..15 * 16 * 3], &geometry, PLAIN);
        for (plane, level) in [77.0, 3.0, 255.0].into_iter().enumerate() {
            assert_eq!(out[plane * 16..][..16], [level; 16]);
        }
    }

    #[test]
    fn padding_is_the_mean_colour_and_does_not_bleed() {
        let geometry = Geometry::pad(Size::new(8, 6), Size::new(4, 8));
        assert_eq!(geometry.canvas, Size::new(8, 16));
        let normalisation =
            Normalisation { order: ChannelOrder::Bgr, mean: [10.0, 20.0, 30.0], std: [2.0, 4.0, 5.0] };
        let out = resize(&[40, 60, 50].repeat(48), &geometry, normalisation);
        for (plane, value) in
            [(50.0 - 10.0) / 2.0, (60.0 - 20.0) / 4.0, (40.0 - 30.0) / 5.0].into_iter().enumerate()
        {
            assert_eq!(out[plane * 32..][..12], [value; 12], "three rows of image");
            assert_eq!(out[plane * 32 + 12..][..20], [0.0; 20], "five rows of padding");
        }
    }

    #[test]
    fn the_thread_count_changes_nothing() {
        for geometry in [
            Geometry::pad(Size::new(200, 130), Size::new(50, 40)),
            Geometry::stretch(Size::new(160, 100), Size::new(100, 63)),
        ] {
            let rgb = noise(geometry.camera.pixels() * 3);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| resize(&rgb, &geometry, PLAIN))
            };
            assert_eq!(run(1), run(2));
        }
    }
}
