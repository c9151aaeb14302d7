//! Which pixels to refine: entropy above alpha, highest first within a capacity; and the base labels of all pixels.
//!
//! Everything is decided on a *lattice*: with `nearest` the segmenter's grid, whose cells stand for the camera pixels
//! that map to them; with `bilinear` the camera's pixels themselves. With `nearest` that is bit-equal to upsampling
//! the logits first (METHODS 1.6). Results do not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::certain::{certain_cells, worthwhile};
use super::evaluate::{Logits, cells_of_row, pixels_of_row};
use super::upsample::Tap;
use crate::bundle::manifest::Upsample;
use crate::plan::Geometry;
use crate::types::{Size, UNLABELLED};

/// What a selection found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelectionCounts {
    /// Camera pixels whose entropy exceeds alpha.
    pub selected: u32,
    /// Those within the capacity.
    pub kept: u32,
    /// The rest.
    pub dropped: u32,
    /// Sum of the entropies of the dropped pixels, in nats.
    pub dropped_entropy: f64,
    /// Cells of the segmenter's grid with NaN or infinite logits.
    pub non_finite_cells: u32,
}

/// The selection of one frame. Its memory is reused for the next.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    camera: Size,
    canvas: Size,
    lattice: Size,
    /// First camera row of each lattice row, then the camera's height.
    rows: Vec<u32>,
    /// First camera column of each lattice column, then the camera's width.
    columns: Vec<u32>,
    entropy: Vec<f32>,
    labels: Vec<u8>,
    kept: Vec<bool>,
    taps: Vec<Tap>,
    /// With `bilinear`, the first camera column of each cell of [`Selection::certain`], then the camera's width.
    cell_columns: Vec<u32>,
    /// Of each cell the label of all its pixels, none of them selected, or [`UNLABELLED`]. Empty where nobody looked.
    certain: Vec<u8>,
    histogram: Vec<u64>,
    counts: SelectionCounts,
}

impl Selection {
    /// Selects the pixels whose entropy exceeds `alpha` nats, strictly.
    ///
    /// If they are more than `capacity`, lattice positions are kept in the order of falling entropy, ties by lower
    /// index, until the next one no longer fits; it and all after it are dropped.
    pub fn select(
        &mut self,
        logits: &Logits<'_>,
        geometry: &Geometry,
        upsample: Upsample,
        alpha: f32,
        capacity: u32,
    ) {
        assert_eq!(logits.size(), geometry.grid);
        self.lay_out(geometry, upsample);
        self.certain.clear();
        if upsample == Upsample::Bilinear && worthwhile(geometry.grid.pixels(), geometry.camera.pixels()) {
            self.certain.resize(geometry.grid.pixels(), UNLABELLED);
            certain_cells(logits, alpha, &mut self.certain);
        }
        let width = self.lattice.width as usize;
        let rows = self
            .entropy
            .par_chunks_mut(width)
            .zip(self.labels.par_chunks_mut(width))
            .zip(self.kept.par_chunks_mut(width))
            .enumerate();
        let (starts, columns, taps) = (&self.rows, &self.columns, &self.taps);
        let (certain, cell_columns) = (&self.certain, &self.cell_columns);
        let (selected, non_finite) = rows
            .map(|(row, ((entropy, labels), kept))| {
                let height = starts[row + 1] - starts[row];
                let mut found = (0, 0);
                let mut settle = |run: Range<usize>, entropy: &[f32], labels: &[u8], kept: &mut [bool]| {
                    let pixels = columns[run.start..=run.end].windows(2).map(|c| height * (c[1] - c[0]));
                    for (((pixels, &entropy), &label), kept) in pixels.zip(entropy).zip(labels).zip(kept) {
                        let finite = label != UNLABELLED;
                        // A cell of padding stands for no pixel.
                        *kept = finite && entropy > alpha && pixels > 0;
                        found.0 += if *kept { pixels } else { 0 };
                        found.1 += u32::from(!finite);
                    }
                };
                match upsample {
                    Upsample::Nearest => {
                        cells_of_row(logits, row as u32, entropy, labels);
                        settle(0..width, entropy, labels, kept);
                    }
                    Upsample::Bilinear => {
                        let tap = Tap::new(row as u32, geometry.canvas.height, logits.size().height);
                        let cells = certain.get(tap.low as usize * geometry.grid.width as usize..);
                        for (run, label) in runs(cells.unwrap_or_default(), cell_columns, width) {
                            let (entropy, labels) = (&mut entropy[run.clone()], &mut labels[run.clone()]);
                            let kept = &mut kept[run.clone()];
                            if label == UNLABELLED {
                                pixels_of_row(logits, tap, &taps[run.clone()], entropy, labels);
                                settle(run, entropy, labels, kept);
                            } else {
                                entropy.fill(0.0);
                                labels.fill(label);
                                kept.fill(false);
                            }
                        }
                    }
                }
                found
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let non_finite_cells = match upsample {
            Upsample::Nearest => non_finite,
            Upsample::Bilinear if non_finite == 0 => 0,
            Upsample::Bilinear => logits.non_finite_cells(),
        };
        self.counts =
            SelectionCounts { selected, kept: selected, non_finite_cells, ..SelectionCounts::default() };
        if selected > capacity {
            self.keep_highest(capacity);
        }
    }

    /// Computes the entropies that the last selection, of the same logits, did without: of pixels that the corners of their
    /// cell show to be below alpha.
    pub fn complete_entropy(&mut self, logits: &Logits<'_>, geometry: &Geometry) {
        if self.certain.is_empty() {
            return;
        }
        self.certain.clear();
        let width = self.lattice.width as usize;
        let taps = &self.taps;
        let rows = self.entropy.par_chunks_mut(width).zip(self.labels.par_chunks_mut(width)).enumerate();
        rows.for_each(|(row, (entropy, labels))| {
            let tap = Tap::new(row as u32, geometry.canvas.height, logits.size().height);
            pixels_of_row(logits, tap, taps, entropy, labels);
        });
    }

    /// Sizes every buffer for a geometry.
    fn lay_out(&mut self, geometry: &Geometry, upsample: Upsample) {
        let camera = geometry.camera;
        self.camera = camera;
        self.canvas = geometry.canvas;
        self.rows.clear();
        self.columns.clear();
        self.taps.clear();
        self.cell_columns.clear();
        match upsample {
            Upsample::Nearest => {
                self.lattice = geometry.grid;
                self.rows.extend((0..=geometry.grid.height).map(|row| geometry.first_row(row)));
                self.columns.extend((0..=geometry.grid.width).map(|column| geometry.first_column(column)));
            }
            Upsample::Bilinear => {
                self.lattice = camera;
                self.rows.extend(0..=camera.height);
                self.columns.extend(0..=camera.width);
                Tap::fill(&mut self.taps, camera.width, geometry.canvas.width, geometry.grid.width);
                let first = |cell| self.taps.partition_point(|tap| tap.low < cell) as u32;
                self.cell_columns.extend((0..=geometry.grid.width).map(first));
            }
        }
        self.entropy.resize(self.lattice.pixels(), 0.0);
        self.labels.resize(self.lattice.pixels(), UNLABELLED);
        self.kept.resize(self.lattice.pixels(), false);
    }

    /// Drops the lowest entropies until the capacity holds the rest.
    ///
    /// The bits of a float that is not negative order like its value, so two counts over 16 bits each find the exact
    /// entropy at which the capacity is reached, in one pass each and without sorting.
    fn keep_highest(&mut self, capacity: u32) {
        let (high, left) = self.bucket(u64::from(capacity), |bits| Some(bits >> 16));
        let (low, mut left) = self.bucket(left, |bits| (bits >> 16 == high).then_some(bits & 0xffff));
        let threshold = high << 16 | low;

        let mut full = false;
        let (mut dropped, mut dropped_entropy) = (0, 0.0);
        let width = self.lattice.width as usize;
        for (row, kept) in self.kept.chunks_exact_mut(width).enumerate() {
            let height = self.rows[row + 1] - self.rows[row];
            for (column, kept) in kept.iter_mut().enumerate().filter(|(_, kept)| **kept) {
                let pixels = height * (self.columns[column + 1] - self.columns[column]);
                let entropy = self.entropy[row * width + column];
                *kept = match entropy.to_bits().cmp(&threshold) {
                    std::cmp::Ordering::Greater => true,
                    std::cmp::Ordering::Less => false,
                    std::cmp::Ordering::Equal => {
                        full |= u64::from(pixels) > left;
                        left -= if full { 0 } else { u64::from(pixels) };
                        !full
                    }
                };
                if !*kept {
                    dropped += pixels;
                    dropped_entropy += f64::from(entropy) * f64::from(pixels);
                }
            }
        }
        self.counts.dropped = dropped;
        self.counts.dropped_entropy = dropped_entropy;
        self.counts.kept = self.counts.selected - dropped;
    }

    /// Counts the pixels of the selected positions by `key`, and finds, from the highest key down, the first whose
    /// pixels exceed what is left of `capacity`. Returns it and what is left.
    fn bucket(&mut self, capacity: u64, key: impl Fn(u32) -> Option<u32>) -> (u32, u64) {
        self.histogram.clear();
        self.histogram.resize(1 << 16, 0);
        let width = self.lattice.width as usize;
        for (row, kept) in self.kept.chunks_exact(width).enumerate() {
            let height = self.rows[row + 1] - self.rows[row];
            for (column, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
                if let Some(key) = key(self.entropy[row * width + column].to_bits()) {
                    let pixels = height * (self.columns[column + 1] - self.columns[column]);
                    self.histogram[key as usize] += u64::from(pixels);
                }
            }
        }
        let mut left = capacity;
        for (key, &pixels) in self.histogram.iter().enumerate().rev() {
            if pixels > left {
                return (key as u32, left);
            }
            left -= pixels;
        }
        (0, left)
    }

    /// What was found.
    pub fn counts(&self) -> SelectionCounts {
        self.counts
    }

    /// Size of [`Selection::entropy`] and [`Selection::labels`]: the grid, or the camera with `bilinear`.
    pub fn lattice(&self) -> Size {
        self.lattice
    }

    /// Entropy in nats, row-major; 0 where logits are not finite, and, until [`Selection::complete_entropy`], where it was
    /// not needed.
    pub fn entropy(&self) -> &[f32] {
        &self.entropy
    }

    /// Best output channel, row-major; [`UNLABELLED`] where logits are not finite.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Whether the position's pixels are refined, row-major.
    pub fn kept(&self) -> &[bool] {
        &self.kept
    }

    /// First camera row of each lattice row, then the camera's height.
    pub(crate) fn row_starts(&self) -> &[u32] {
        &self.rows
    }

    /// First camera column of each lattice column, then the camera's width.
    pub(crate) fn column_starts(&self) -> &[u32] {
        &self.columns
    }

    /// Writes one bit per pixel of the canvas: pixel `(r, c)` is bit `c % 64` of `words[r * words_per_row + c / 64]`.
    /// Every word of `words` is written; pixels beyond the camera are 0.
    pub fn write_mask(&self, words: &mut [u64], words_per_row: usize) {
        assert!(words_per_row >= (self.canvas.width as usize).div_ceil(64));
        assert_eq!(words.len(), self.canvas.height as usize * words_per_row);
        let (image, padding) = words.split_at_mut(self.camera.height as usize * words_per_row);
        padding.fill(0);
        let width = self.lattice.width as usize;
        self.for_blocks(image, words_per_row, &|row, block| {
            let (first, copies) = block.split_at_mut(words_per_row);
            first.fill(0);
            let kept = &self.kept[row * width..][..width];
            let mut column = 0;
            while let Some(start) = kept[column..].iter().position(|&kept| kept).map(|skip| column + skip) {
                let end = kept[start..].iter().position(|&kept| !kept).map_or(width, |run| start + run);
                set_bits(first, self.columns[start] as usize, self.columns[end] as usize);
                column = end;
            }
            copies.chunks_exact_mut(words_per_row).for_each(|copy| copy.copy_from_slice(first));
        });
    }

    /// Writes the base label of every camera pixel: `label_of_channel[channel]` of its position, [`UNLABELLED`] where
    /// logits are not finite.
    pub fn write_labels(&self, label_of_channel: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), self.camera.pixels());
        let mut label_of = [UNLABELLED; 256];
        label_of[..label_of_channel.len()].copy_from_slice(label_of_channel);
        label_of[usize::from(UNLABELLED)] = UNLABELLED;
        let (pitch, width) = (self.camera.width as usize, self.lattice.width as usize);
        self.for_blocks(out, pitch, &|row, block| {
            let (first, copies) = block.split_at_mut(pitch);
            let labels = &self.labels[row * width..][..width];
            if width == pitch {
                for (out, &label) in first.iter_mut().zip(labels) {
                    *out = label_of[usize::from(label)];
                }
            } else {
                for (columns, &label) in self.columns.windows(2).zip(labels) {
                    first[columns[0] as usize..columns[1] as usize].fill(label_of[usize::from(label)]);
                }
            }
            copies.chunks_exact_mut(pitch).for_each(|copy| copy.copy_from_slice(first));
        });
    }

    /// Hands each lattice row its block of image rows, side by side, skipping rows that stand for none.
    fn for_blocks<T: Send>(&self, image: &mut [T], pitch: usize, work: &(impl Fn(usize, &mut [T]) + Sync)) {
        split_blocks(image, pitch, &self.rows, 0, work);
    }
}

/// The pixels of a camera row in runs: of cells with the same label, or of cells without, all in one where there are none.
///
/// `cells` starts with the row's cells; cell `c` has the pixels `columns[c]..columns[c + 1]`.
fn runs<'a>(
    cells: &'a [u8],
    columns: &'a [u32],
    width: usize,
) -> impl Iterator<Item = (Range<usize>, u8)> + 'a {
    let mut cell = 0;
    let last = columns.len() - 1;
    std::iter::from_fn(move || {
        if cell >= last {
            return None;
        }
        let Some(&label) = cells.get(cell) else {
            cell = last;
            return Some((0..width, UNLABELLED));
        };
        let start = columns[cell] as usize;
        while cell < last && cells[cell] == label {
            cell += 1;
        }
        Some((start..columns[cell] as usize, label))
    })
    .filter(|(run, _)| !run.is_empty())
}

fn split_blocks<T: Send>(
    image: &mut [T],
    pitch: usize,
    starts: &[u32],
    row: usize,
    work: &(impl Fn(usize, &mut [T]) + Sync),
) {
    /// Lattice rows too few to be worth handing to another thread.
    const TOGETHER: usize = 8;
    let blocks = starts.len() - 1;
    if blocks <= TOGETHER {
        let mut rest = image;
        for (index, rows) in starts.windows(2).enumerate() {
            let (block, after) = rest.split_at_mut((rows[1] - rows[0]) as usize * pitch);
            if !block.is_empty() {
                work(row + index, block);
            }
            rest = after;
        }
    } else {
        let middle = blocks / 2;
        let (above, below) = image.split_at_mut((starts[middle] - starts[0]) as usize * pitch);
        rayon::join(
            || split_blocks(above, pitch, &starts[..=middle], row, work),
            || split_blocks(below, pitch, &starts[middle..], row + middle, work),
        );
    }
}

/// Sets bits `start..end` of a row of words.
fn set_bits(words: &mut [u64], start: usize, end: usize) {
    let mut bit = start;
    while bit < end {
        let count = (64 - bit % 64).min(end - bit);
        words[bit / 64] |= (u64::MAX >> (64 - count)) << (bit % 64);
        bit += count;
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::{gather_logits, reference};
    use super::super::simd::tests::plainly;
    use super::super::sites::Pixel;
    use super::*;
    use proptest::prelude::*;

    /// Selection as METHODS 1.1 tells it: logits at every pixel, then entropy, then a sort.
    struct Reference {
        entropy: Vec<f32>,
        labels: Vec<u8>,
        mask: Vec<bool>,
        counts: SelectionCounts,
    }

    fn slow(
        logits: &Logits<'_>,
        geometry: &Geometry,
        upsample: Upsample,
        alpha: f32,
        capacity: u32,
    ) -> Reference {
        let camera = geometry.camera;
        let site = |r, c| Pixel { row: r as u16, col: c as u16 };
        let sites: Vec<Pixel> =
            (0..camera.height).flat_map(|r| (0..camera.width).map(move |c| site(r, c))).collect();
        let mut upsampled = vec![0.0; sites.len() * logits.classes()];
        gather_logits(logits, geometry, upsample, &sites, &mut upsampled);
        let (entropy, labels): (Vec<f32>, Vec<u8>) =
            upsampled.chunks_exact(logits.classes()).map(reference).unzip();
        let position = |Pixel { row: r, col: c }: Pixel| match upsample {
            Upsample::Bilinear => u32::from(r) * camera.width + u32::from(c),
            Upsample::Nearest => {
                geometry.cell_row(r.into()) * geometry.grid.width + geometry.cell_column(c.into())
            }
        };
        let mut groups = std::collections::BTreeMap::<(std::cmp::Reverse<u32>, u32), Vec<usize>>::new();
        let mut selected = 0;
        for (pixel, &site) in sites.iter().enumerate() {
            if labels[pixel] != UNLABELLED && entropy[pixel] > alpha {
                let key = (std::cmp::Reverse(entropy[pixel].to_bits()), position(site));
                groups.entry(key).or_default().push(pixel);
                selected += 1;
            }
        }
        let mut mask = vec![false; sites.len()];
        let mut kept = 0;
        for pixels in groups.values() {
            if kept + pixels.len() as u32 > capacity {
                break;
            }
            kept += pixels.len() as u32;
            pixels.iter().for_each(|&pixel| mask[pixel] = true);
        }
        let dropped_entropy =
            groups.values().flatten().filter(|&&p| !mask[p]).map(|&p| f64::from(entropy[p])).sum();
        // A grid finer than the camera has cells that no pixel reads.
        let read = upsample == Upsample::Nearest || labels.contains(&UNLABELLED);
        let non_finite_cells = if read { logits.non_finite_cells() } else { 0 };
        let counts =
            SelectionCounts { selected, kept, dropped: selected - kept, dropped_entropy, non_finite_cells };
        Reference { entropy, labels, mask, counts }
    }

    fn check(
        logits: &Logits<'_>,
        geometry: &Geometry,
        upsample: Upsample,
        alpha: f32,
        capacity: u32,
    ) -> Selection {
        let want = slow(logits, geometry, upsample, alpha, capacity);
        let mut selection = Selection::default();
        selection.select(logits, geometry, upsample, alpha, capacity);
        let plain = plainly(|| {
            let mut plain = Selection::default();
            plain.select(logits, geometry, upsample, alpha, capacity);
            plain
        });
        assert_eq!((&plain.kept, plain.counts), (&selection.kept, selection.counts), "plain and wide loops");

        let (camera, canvas) = (geometry.camera, geometry.canvas);
        let identity: Vec<u8> = (0..logits.classes() as u8).collect();
        let mut labels = vec![99; camera.pixels()];
        selection.write_labels(&identity, &mut labels);
        assert_eq!(labels, want.labels);

        let words_per_row = (canvas.width as usize).div_ceil(64) + 1;
        let mut words = vec![u64::MAX; canvas.height as usize * words_per_row];
        selection.write_mask(&mut words, words_per_row);
        for (row, words) in words.chunks_exact(words_per_row).enumerate() {
            for column in 0..words_per_row * 64 {
                let inside = row < camera.height as usize && column < camera.width as usize;
                let want = inside && want.mask[row * camera.width as usize + column];
                assert_eq!(words[column / 64] >> (column % 64) & 1 == 1, want, "pixel {row},{column}");
            }
        }
        let position = |pixel: usize| match upsample {
            Upsample::Nearest => {
                let (row, column) = (pixel as u32 / camera.width, pixel as u32 % camera.width);
                (geometry.cell_row(row) * geometry.grid.width + geometry.cell_column(column)) as usize
            }
            Upsample::Bilinear => pixel,
        };
        let mut whole = selection.clone();
        whole.complete_entropy(logits, geometry);
        for (pixel, &entropy) in want.entropy.iter().enumerate() {
            assert_eq!(whole.entropy()[position(pixel)].to_bits(), entropy.to_bits(), "pixel {pixel}");
        }
        let counts = selection.counts();
        assert!((counts.dropped_entropy - want.counts.dropped_entropy).abs() < 1e-6);
        assert_eq!(
            SelectionCounts { dropped_entropy: 0.0, ..counts },
            SelectionCounts { dropped_entropy: 0.0, ..want.counts }
        );
        selection
    }

    /// Repeatable logits in a range where entropies spread; few distinct values give ties.
    fn synthetic(size: Size, classes: usize, seed: u64, steps: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..size.pixels() * classes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % steps) as f32 * (8.0 / steps as f32)
            })
            .collect()
    }

    fn geometries() -> [Geometry; 7] {
        [
            Geometry::stretch(Size::new(32, 24), Size::new(16, 12)),
            Geometry::pad(Size::new(60, 39), Size::new(16, 12)),
            Geometry::stretch(Size::new(32, 24), Size::new(20, 15)),
            Geometry::stretch(Size::new(37, 23), Size::new(11, 9)),
            Geometry::stretch(Size::new(130, 5), Size::new(65, 5)),
            Geometry::stretch(Size::new(9, 7), Size::new(20, 15)),
            Geometry::stretch(Size::new(3, 2), Size::new(400, 2)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn equals_upsampling_everything_first(
            geometry in prop::sample::select(geometries().to_vec()),
            upsample in prop::sample::select(vec![Upsample::Nearest, Upsample::Bilinear]),
            classes in 1_usize..6,
            seed in any::<u64>(),
            steps in prop::sample::select(vec![2_u64, 3, 1000]),
            sharpness in prop::sample::select(vec![1.0_f32, 10.0]),
            alpha in prop::sample::select(vec![0.0_f32, 0.2, 0.6, 1.0, 3.0]),
            share in 0.0_f64..1.2,
            tainted in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let mut data = synthetic(geometry.grid, classes, seed, steps);
            data.iter_mut().for_each(|logit| *logit *= sharpness);
            for index in tainted {
                let index = index.index(data.len());
                data[index] = if index % 2 == 0 { f32::NAN } else { f32::INFINITY };
            }
            let logits = Logits::new(&data, geometry.grid, classes);
            let capacity = (geometry.camera.pixels() as f64 * share) as u32;
            check(&logits, &geometry, upsample, alpha, capacity);
        }
    }

    #[test]
    fn the_threshold_itself_is_not_selected() {
        let geometry = Geometry::stretch(Size::new(8, 8), Size::new(4, 4));
        let data = synthetic(geometry.grid, 3, 5, 1000);
        let logits = Logits::new(&data, geometry.grid, 3);
        let all = check(&logits, &geometry, Upsample::Nearest, 0.0, u32::MAX);
        assert_eq!(all.counts().selected, 64);
        let alpha = all.entropy()[5];
        let some = check(&logits, &geometry, Upsample::Nearest, alpha, u32::MAX);
        assert!(!some.kept()[5], "e == alpha");
        let below = f32::from_bits(alpha.to_bits() - 1);
        assert!(check(&logits, &geometry, Upsample::Nearest, below, u32::MAX).kept()[5]);
    }

    #[test]
    fn bilinear_skips_cells_whose_corners_decide_and_nothing_else() {
        // Two regions with a boundary, a single unsure corner, and one class that is far ahead.
        let geometry = Geometry::pad(Size::new(397, 203), Size::new(40, 24));
        let width = geometry.grid.width as usize;
        let mut data = vec![0.0; 3 * geometry.grid.pixels()];
        for cell in 0..geometry.grid.pixels() {
            let class = usize::from(cell % width > 17);
            data[class * geometry.grid.pixels() + cell] = 25.0;
        }
        data[2 * geometry.grid.pixels() + 5 * width + 6] = 24.9;
        let logits = Logits::new(&data, geometry.grid, 3);
        let found = check(&logits, &geometry, Upsample::Bilinear, 0.1, u32::MAX);
        let skipped = found.certain.iter().filter(|&&label| label != UNLABELLED).count();
        // A column of cells between the regions, and the four around the unsure corner.
        assert_eq!(skipped, geometry.grid.pixels() - geometry.grid.height as usize - 4);
        assert!(found.counts().kept > 0 && found.counts().kept < 397 * 203 / 10);
        // With a threshold that nothing exceeds, and with none that anything misses.
        check(&logits, &geometry, Upsample::Bilinear, f32::INFINITY, u32::MAX);
        let all = check(&logits, &geometry, Upsample::Bilinear, -1.0, u32::MAX);
        assert_eq!(all.counts().kept, 397 * 203);
    }

    #[test]
    fn nothing_everything_and_no_capacity() {
        let geometry = Geometry::pad(Size::new(30, 20), Size::new(8, 6));
        for upsample in [Upsample::Nearest, Upsample::Bilinear] {
            let data = vec![1.0; geometry.grid.pixels() * 2];
            let logits = Logits::new(&data, geometry.grid, 2);
            let ln_2 = std::f32::consts::LN_2;
            assert_eq!(check(&logits, &geometry, upsample, 1.0, 600).counts().selected, 0);
            assert_eq!(check(&logits, &geometry, upsample, 0.5, 600).counts().kept, 600);
            let none = check(&logits, &geometry, upsample, 0.5, 0).counts();
            assert_eq!((none.selected, none.kept, none.dropped), (600, 0, 600));
            assert!((none.dropped_entropy - 600.0 * f64::from(ln_2)).abs() < 1e-3);
        }
    }

    #[test]
    fn equal_entropies_are_kept_in_index_order_and_the_first_misfit_ends_it() {
        // Four cells of 2x2 pixels, all equal: a capacity of 9 holds the first two.
        let geometry = Geometry::stretch(Size::new(4, 4), Size::new(2, 2));
        let logits = Logits::new(&[0.0; 8], geometry.grid, 2);
        let mut selection = Selection::default();
        selection.select(&logits, &geometry, Upsample::Nearest, 0.1, 9);
        assert_eq!(selection.kept(), [true, true, false, false]);
        // Cells of 1x2, 2x2 and 2x2 columns: the second does not fit, so the small one after it is not tried either.
        let geometry = Geometry::stretch(Size::new(5, 1), Size::new(3, 1));
        let logits = Logits::new(&[0.0; 6], geometry.grid, 2);
        selection.select(&logits, &geometry, Upsample::Nearest, 0.1, 3);
        assert_eq!(selection.columns, [0, 2, 4, 5]);
        assert_eq!(selection.kept(), [true, false, false], "the last cell, of one pixel, would fit");
    }

    #[test]
    fn non_finite_cells_are_unlabelled_counted_and_never_selected() {
        let geometry = Geometry::stretch(Size::new(6, 2), Size::new(3, 1));
        let data = [f32::NAN, 0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY];
        let logits = Logits::new(&data, geometry.grid, 2);
        for upsample in [Upsample::Nearest, Upsample::Bilinear] {
            let mut selection = Selection::default();
            selection.select(&logits, &geometry, upsample, 0.1, u32::MAX);
            assert_eq!(selection.counts().non_finite_cells, 2, "{upsample:?}");
            let mut labels = vec![0; 12];
            selection.write_labels(&[7, 8], &mut labels);
            assert_eq!((labels[0], labels[5]), (UNLABELLED, UNLABELLED));
            if upsample == Upsample::Nearest {
                assert_eq!(&labels[..6], [255, 255, 7, 7, 255, 255]);
                assert_eq!(selection.counts().kept, 4);
            }
        }
    }

    #[test]
    fn the_thread_count_changes_nothing_and_buffers_are_reused() {
        let geometry = Geometry::pad(Size::new(300, 170), Size::new(80, 48));
        let data = synthetic(geometry.grid, 4, 11, 7);
        let logits = Logits::new(&data, geometry.grid, 4);
        for upsample in [Upsample::Nearest, Upsample::Bilinear] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut selection = Selection::default();
                    selection.select(&logits, &geometry, upsample, 0.9, 9_000);
                    let before = selection.entropy.as_ptr();
                    selection.select(&logits, &geometry, upsample, 0.9, 9_000);
                    assert_eq!(before, selection.entropy.as_ptr());
                    let mut labels = vec![0; geometry.camera.pixels()];
                    selection.write_labels(&[3, 2, 1, 0], &mut labels);
                    (selection.counts(), selection.kept, selection.entropy, labels)
                })
            };
            assert_eq!(run(1), run(2));
        }
    }
}
