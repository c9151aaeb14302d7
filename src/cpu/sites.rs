//! The active sites of one level: a bitmap that finds a site's index without a hash, and the list of coordinates.
//!
//! One bit per pixel in words of 64, rows padded to whole words, and before each word the number of sites in all words
//! before it: the index of a site is that count plus the bits below its own.

use rayon::prelude::*;

use super::simd::{Kernel, run_widest};
use super::split::{Split, each_part};
use crate::types::Size;

/// Index of a site that is not active.
pub const ABSENT: u32 = u32::MAX;

/// Longest side of an image in pixels: coordinates are 16 bit.
pub const MAX_SIDE: u32 = 1 << 16;

/// Coordinates of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pixel {
    /// Row, from the top.
    pub row: u16,
    /// Column, from the left.
    pub col: u16,
}

/// Active sites of a level, numbered in row-major order. Rebuilding reuses the memory.
#[derive(Clone, Debug, Default)]
pub struct SiteSet {
    size: Size,
    row_words: usize,
    words: Vec<u64>,
    /// Sites before each word.
    before: Vec<u32>,
    /// Sites before each row, then all.
    rows: Vec<u32>,
    pixels: Vec<Pixel>,
}

impl SiteSet {
    /// Size of the level; sites lie within it.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The sites, row by row, left to right.
    pub fn pixels(&self) -> &[Pixel] {
        &self.pixels
    }

    /// Number of sites.
    pub fn len(&self) -> usize {
        self.pixels.len()
    }

    /// Whether there is no site.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Index of the site at a row and column, or [`ABSENT`]. Coordinates outside the level are absent.
    #[inline]
    pub fn id(&self, row: i32, col: i32) -> u32 {
        // A negative coordinate wraps to a large one.
        let (row, col) = (row as u32, col as u32);
        if row >= self.size.height || col >= self.size.width {
            return ABSENT;
        }
        let index = row as usize * self.row_words + col as usize / 64;
        let (word, bit) = (self.words[index], 1u64 << (col % 64));
        if word & bit == 0 { ABSENT } else { self.before[index] + (word & (bit - 1)).count_ones() }
    }

    /// Indices of three neighbours in a row, `col`, `col + 1` and `col + 2`, as [`Self::id`] gives them; `col` is -1 or
    /// more. One count of bits serves all three.
    #[inline]
    pub fn three_ids(&self, row: i32, col: i32) -> [u32; 3] {
        let (row, start) = (row as u32, col.max(0) as u32);
        if row >= self.size.height || start >= self.size.width {
            return [ABSENT; 3];
        }
        let (column, shift) = (start as usize / 64, start % 64);
        let index = row as usize * self.row_words + column;
        let word = self.words[index];
        let next = if column + 1 < self.row_words { self.words[index + 1] } else { 0 };
        let mut bits = word >> shift | next << 1 << (63 - shift);
        if col < 0 {
            bits <<= 1;
        }
        let mut id = self.before[index] + (word & ((1 << shift) - 1)).count_ones();
        [0, 1, 2].map(|offset| {
            let active = bits >> offset & 1;
            let found = if active == 1 { id } else { ABSENT };
            id += active as u32;
            found
        })
    }

    /// Number of sites in all rows before `row`, which may be the height: the index of the row's first site.
    #[inline]
    pub fn before_row(&self, row: u32) -> u32 {
        self.rows.get(row as usize).map_or(self.pixels.len() as u32, |&before| before)
    }

    /// The bits of a row, column `c` at bit `c % 64` of word `c / 64`, and the sites before each word. A row outside the
    /// level has none.
    #[inline]
    pub(crate) fn ranked_row(&self, row: i32) -> (&[u64], &[u32]) {
        if row as u32 >= self.size.height {
            return (&[], &[]);
        }
        let words = row as usize * self.row_words..(row as usize + 1) * self.row_words;
        (&self.words[words.clone()], &self.before[words])
    }

    /// Makes the sites those of a list of pixels in any order; repetitions and pixels outside `size` are left out.
    pub fn rebuild_from_pixels(&mut self, size: Size, pixels: impl IntoIterator<Item = Pixel>) {
        self.resize(size);
        for Pixel { row, col } in pixels {
            if u32::from(row) < size.height && u32::from(col) < size.width {
                self.words[usize::from(row) * self.row_words + usize::from(col) / 64] |= 1 << (col % 64);
            }
        }
        self.number();
    }

    /// Makes the sites those whose bits `fill` sets, called for every row with the row's words, all zero: column `c` is
    /// bit `c % 64` of word `c / 64`. Rows are filled in parallel. Bits outside `size` are left out.
    pub fn rebuild_from_rows(&mut self, size: Size, fill: impl Fn(u32, &mut [u64]) + Sync) {
        self.resize(size);
        if self.words.is_empty() {
            return self.number();
        }
        let last = u64::MAX >> ((64 - size.width % 64) % 64);
        self.words.par_chunks_mut(self.row_words).enumerate().with_min_len(16).for_each(|(row, words)| {
            fill(row as u32, words);
            if let Some(word) = words.last_mut() {
                *word &= last;
            }
        });
        self.number();
    }

    /// Makes the sites those whose bits `fill` sets in the words of all rows, all zero: row `r` starts at word
    /// `r * words_per_row`, the second argument. Bits outside `size` must stay zero.
    pub fn rebuild_from_words(&mut self, size: Size, fill: impl FnOnce(&mut [u64], usize)) {
        self.resize(size);
        fill(&mut self.words, self.row_words);
        self.number();
    }

    /// Makes the sites those of the next coarser level of size `size`: a site is active if any of the nine sites
    /// `(2r + 0..3, 2c + 0..3)` of `finer` is (stride 2, no padding, METHODS 1.2).
    pub fn rebuild_coarser(&mut self, size: Size, finer: &Self) {
        self.rebuild_from_rows(size, |row, words| {
            let start = 2 * row as usize * finer.row_words;
            let rows = finer.words[start..].chunks_exact(finer.row_words).take(3);
            for fine in rows {
                for (index, word) in words.iter_mut().enumerate() {
                    let at = |i: usize| fine.get(2 * index + i).copied().unwrap_or(0);
                    let pairs = [at(0), at(1), at(2)];
                    *word |= halve(pairs[0], pairs[1]) | halve(pairs[1], pairs[2]) << 32;
                }
            }
        });
    }

    /// Rows and columns up to and including the last active one.
    pub fn extent(&self) -> Size {
        let height = self.pixels.last().map_or(0, |last| u32::from(last.row) + 1);
        let width = self.pixels.iter().map(|pixel| u32::from(pixel.col) + 1).max().unwrap_or(0);
        Size::new(width, height)
    }

    fn resize(&mut self, size: Size) {
        assert!(size.width <= MAX_SIDE && size.height <= MAX_SIDE, "{size} exceeds {MAX_SIDE} pixels a side");
        self.size = size;
        self.row_words = size.width.div_ceil(64) as usize;
        self.words.clear();
        self.words.resize(self.row_words * size.height as usize, 0);
    }

    /// Counts and lists the bits, rows side by side.
    fn number(&mut self) {
        let Self { size, row_words, words, before, rows, pixels } = self;
        let pitch = (*row_words).max(1);
        before.resize(words.len(), 0);
        rows.clear();
        rows.resize(size.height as usize + 1, 0);
        let counts = words.par_chunks(pitch).zip(before.par_chunks_mut(pitch)).zip(&mut rows[1..]);
        counts
            .with_min_len(64)
            .for_each(|((words, before), total)| run_widest(CountRow { words, before, total }));
        // So far every row is counted by itself.
        for (row, before) in before.chunks_exact_mut(pitch).enumerate() {
            let above = rows[row];
            rows[row + 1] += above;
            before.iter_mut().for_each(|before| *before += above);
        }
        pixels.resize(rows[rows.len() - 1] as usize, Pixel::default());
        each_part(Split { starts: rows, width: 1, smallest: 64 }, pixels, &|row, pixels| {
            let words = &words[row * *row_words..][..*row_words];
            run_widest(ListRow { row: row as u16, words, pixels });
        });
    }
}

/// Sites before each word of a row, counted from the row's start, and all.
struct CountRow<'a> {
    words: &'a [u64],
    before: &'a mut [u32],
    total: &'a mut u32,
}

impl Kernel for CountRow<'_> {
    #[inline(always)]
    fn run(self) {
        let mut count = 0;
        for (word, before) in self.words.iter().zip(self.before) {
            *before = count;
            count += word.count_ones();
        }
        *self.total = count;
    }
}

/// The sites of a row, from left to right.
struct ListRow<'a> {
    row: u16,
    words: &'a [u64],
    pixels: &'a mut [Pixel],
}

impl Kernel for ListRow<'_> {
    #[inline(always)]
    fn run(self) {
        let mut pixels = self.pixels.iter_mut();
        for (index, &word) in self.words.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let col = (index * 64) as u16 + rest.trailing_zeros() as u16;
                *pixels.next().expect("the bits were counted") = Pixel { row: self.row, col };
                rest &= rest - 1;
            }
        }
    }
}

/// 32 coarse columns from 64 fine ones: bit `c` is the OR of bits `2c`, `2c + 1` and `2c + 2`; `next` follows `word`.
fn halve(word: u64, next: u64) -> u64 {
    let any = word | (word >> 1) | (word >> 2 | next << 62);
    // Gather the even bits, doubling the run that is already together.
    let mut bits = any & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    (bits | bits >> 16) & 0x0000_0000_ffff_ffff
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::simd::tests::plainly;
    use super::*;

    /// Sites of a mask given as one bool per pixel.
    pub(crate) fn sites_of(size: Size, mask: &[bool]) -> SiteSet {
        assert_eq!(mask.len(), size.pixels());
        let width = size.width as usize;
        let active = (0..mask.len()).filter(|&i| mask[i]);
        let pixels = active.map(|i| Pixel { row: (i / width) as u16, col: (i % width) as u16 });
        let mut sites = SiteSet::default();
        sites.rebuild_from_pixels(size, pixels);
        sites
    }

    /// A size up to `side` and a mask of it of any density.
    pub(crate) fn any_mask(side: u32) -> impl Strategy<Value = (Size, Vec<bool>)> {
        (1..=side, 1..=side, 0.0..1.0f64).prop_flat_map(|(width, height, density)| {
            let size = Size::new(width, height);
            (Just(size), proptest::collection::vec(proptest::bool::weighted(density), size.pixels()))
        })
    }

    /// Masks that are full, empty, a single pixel, the last row, at sizes around a word's and of many rows.
    pub(crate) fn edge_masks(mut check: impl FnMut(Size, &[bool])) {
        for (width, height) in
            [(0, 9), (7, 0), (1, 1), (2, 3), (63, 2), (64, 64), (65, 5), (129, 301), (40, 700)]
        {
            let size = Size::new(width, height);
            let pixels = size.pixels();
            check(size, &vec![true; pixels]);
            check(size, &vec![false; pixels]);
            for single in [0, 1, 62, 63, 64, 65, pixels / 2, pixels.saturating_sub(1)] {
                if single < pixels {
                    check(size, &(0..pixels).map(|pixel| pixel == single).collect::<Vec<_>>());
                }
            }
            check(size, &(0..pixels).map(|pixel| pixel + width as usize >= pixels).collect::<Vec<_>>());
        }
    }

    fn check_against_mask(sites: &SiteSet, size: Size, mask: &[bool]) {
        let (mut count, mut before) = (0, vec![0]);
        for row in 0..size.height {
            for col in 0..size.width {
                let active = mask[(row * size.width + col) as usize];
                let id = sites.id(row as i32, col as i32);
                assert_eq!(id, if active { count } else { ABSENT }, "row {row}, column {col} of {size}");
                if active {
                    let pixel = Pixel { row: row as u16, col: col as u16 };
                    assert_eq!(sites.pixels()[count as usize], pixel);
                    count += 1;
                }
            }
            before.push(count);
        }
        assert_eq!(sites.len(), count as usize);
        for (row, before) in before.into_iter().enumerate() {
            assert_eq!(sites.before_row(row as u32), before, "before row {row}");
        }
        let Size { width, height } = size;
        for row in -1..=height as i32 {
            for col in -1..=width as i32 {
                let expected = [0, 1, 2].map(|offset| sites.id(row, col + offset));
                assert_eq!(
                    sites.three_ids(row, col),
                    expected,
                    "three from row {row}, column {col} of {size}"
                );
            }
        }
        for (row, col) in [(-1, 0), (0, -1), (height as i32, 0), (0, width as i32), (i32::MIN, i32::MAX)] {
            assert_eq!(sites.id(row, col), ABSENT, "outside at {row}, {col}");
        }
    }

    proptest! {
        #[test]
        fn numbering_equals_a_scan_of_the_mask((size, mask) in any_mask(140)) {
            let from_list = sites_of(size, &mask);
            check_against_mask(&from_list, size, &mask);
            // The same memory, rebuilt from rows with rubbish beyond the width.
            let mut sites = sites_of(Size::new(70, 9), &[true; 630]);
            sites.rebuild_from_rows(size, |row, words| {
                words.fill(u64::MAX);
                for col in 0..size.width {
                    if !mask[(row * size.width + col) as usize] {
                        words[col as usize / 64] &= !(1 << (col % 64));
                    }
                }
            });
            check_against_mask(&sites, size, &mask);
        }

        #[test]
        fn coarser_sites_are_those_with_any_of_nine_inputs((size, mask) in any_mask(150)) {
            let coarse = Size::new((size.width - 1) / 2, (size.height - 1) / 2);
            let mut sites = SiteSet::default();
            sites.rebuild_coarser(coarse, &sites_of(size, &mask));
            let at = |row: u32, col: u32| mask[(row * size.width + col) as usize];
            let expected: Vec<bool> = (0..coarse.height)
                .flat_map(|row| (0..coarse.width).map(move |col| (row, col)))
                .map(|(row, col)| (0..9).any(|k| at(2 * row + k % 3, 2 * col + k / 3)))
                .collect();
            check_against_mask(&sites, coarse, &expected);
        }
    }

    #[test]
    fn full_empty_and_single_pixel_masks_are_numbered_on_any_threads() {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut sites = SiteSet::default();
            edge_masks(|size, mask| {
                let active = (0..mask.len()).filter(|&pixel| mask[pixel]);
                let width = size.width as usize;
                let pixels = active.map(|i| Pixel { row: (i / width) as u16, col: (i % width) as u16 });
                pool.install(|| sites.rebuild_from_pixels(size, pixels.clone()));
                check_against_mask(&sites, size, mask);
                plainly(|| sites.rebuild_from_pixels(size, pixels));
                check_against_mask(&sites, size, mask);
            });
        }
    }

    #[test]
    fn extent_is_the_largest_row_and_column() {
        let mut sites = SiteSet::default();
        assert_eq!(sites.extent(), Size::new(0, 0));
        let pixels = [Pixel { row: 3, col: 90 }, Pixel { row: 7, col: 2 }, Pixel { row: 7, col: 2 }];
        sites.rebuild_from_pixels(Size::new(100, 10), pixels);
        assert_eq!((sites.extent(), sites.len()), (Size::new(91, 8), 2));
    }

    #[test]
    fn pixels_outside_the_level_are_left_out() {
        let mut sites = SiteSet::default();
        sites.rebuild_from_pixels(Size::new(3, 3), [Pixel { row: 3, col: 0 }, Pixel { row: 0, col: 3 }]);
        assert!(sites.is_empty());
    }
}
