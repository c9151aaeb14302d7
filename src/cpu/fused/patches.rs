//! Tiles of 2x2 pixels with at least one site, and the 4x4 pixels around each that a 3x3 convolution reads.
//!
//! Sites are numbered row by row, so the sites of a patch's row follow each other: a bit per pixel and one index a row
//! say where all sixteen are. That takes 6 bytes a site where a table of nine neighbours takes 36.

use std::ops::Range;

use rayon::prelude::*;

use super::super::simd::{Kernel, run_widest};
use super::super::sites::SiteSet;
use super::super::split::{Split, each_part};

/// Pixels of a patch's row.
pub(super) const SIDE: usize = 4;

/// Sites before each pixel of a row of four, for every pattern of sites.
const OFFSETS: [[u8; SIDE]; 16] = {
    let mut table = [[0; SIDE]; 16];
    let mut bits = 0;
    while bits < 16_usize {
        let mut pixel = 0;
        while pixel < SIDE {
            table[bits][pixel] = (bits & ((1 << pixel) - 1)).count_ones() as u8;
            pixel += 1;
        }
        bits += 1;
    }
    table
};

/// The sites around a tile whose first pixel is `(2r, 2c)`: rows `2r-1..2r+3`, columns `2c-1..2c+3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patch {
    /// Index of the first site of each row.
    first: [u32; SIDE],
    /// Pixel `(i, j)` of the patch is bit `4i + j`.
    bits: u16,
    /// `r`.
    pub(super) row: u16,
    /// `c`.
    pub(super) column: u16,
}

impl Patch {
    /// Whether all sixteen pixels are sites.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.bits == u16::MAX
    }

    /// Index of a row's first site.
    #[inline(always)]
    pub(super) fn first(&self, row: usize) -> u32 {
        self.first[row]
    }

    /// Index of the site at a pixel of the patch.
    #[inline(always)]
    pub(super) fn id(&self, row: usize, column: usize) -> Option<u32> {
        let bits = usize::from(self.bits >> (SIDE * row)) & 0xf;
        (bits >> column & 1 == 1).then(|| self.first[row] + u32::from(OFFSETS[bits][column]))
    }
}

impl Patch {
    /// The sites of the tile's four pixels, row by row.
    #[inline(always)]
    pub(super) fn tile(&self) -> [Option<u32>; 4] {
        if self.is_full() {
            let [_, top, bottom, _] = self.first;
            return [Some(top + 1), Some(top + 2), Some(bottom + 1), Some(bottom + 2)];
        }
        [self.id(1, 1), self.id(1, 2), self.id(2, 1), self.id(2, 2)]
    }
}

/// The patches of a level, row of tiles by row of tiles. Rebuilding reuses the memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Patches {
    patches: Vec<Patch>,
    /// Patches before each row of tiles, then all.
    before: Vec<u32>,
}

impl Patches {
    /// Finds the tiles of a level.
    pub(super) fn rebuild(&mut self, sites: &SiteSet) {
        let Self { patches, before } = self;
        before.clear();
        before.resize(sites.size().height.div_ceil(2) as usize + 1, 0);
        let counts = before[1..].par_iter_mut().enumerate().with_min_len(64);
        counts.for_each(|(row, count)| run_widest(CountRow { sites, row, count }));
        for row in 1..before.len() {
            before[row] += before[row - 1];
        }
        let count = before[before.len() - 1] as usize;
        if patches.len() < count {
            patches.resize(count, Patch::default());
        }
        let cut = Split { starts: before, width: 1, smallest: 32 };
        each_part(cut, &mut patches[..count], &|row, patches| run_widest(FillRow { sites, row, patches }));
    }

    /// The patches of a range of rows of tiles.
    pub(super) fn rows(&self, rows: Range<u32>) -> &[Patch] {
        &self.patches[self.before[rows.start as usize] as usize..self.before[rows.end as usize] as usize]
    }
}

/// The tiles of a word of a row of tiles with at least one site: tile `c` is bit `2c`.
#[inline(always)]
fn tiles(upper: u64, lower: u64) -> u64 {
    let either = upper | lower;
    (either | either >> 1) & 0x5555_5555_5555_5555
}

/// A word of a row's bits, none beyond the row.
#[inline(always)]
fn word(words: &[u64], index: usize) -> u64 {
    words.get(index).copied().unwrap_or(0)
}

/// Counts the tiles of a row.
struct CountRow<'a> {
    sites: &'a SiteSet,
    row: usize,
    count: &'a mut u32,
}

impl Kernel for CountRow<'_> {
    #[inline(always)]
    fn run(self) {
        let (upper, _) = self.sites.ranked_row(2 * self.row as i32);
        let (lower, _) = self.sites.ranked_row(2 * self.row as i32 + 1);
        *self.count = 0;
        for (index, &upper) in upper.iter().enumerate() {
            *self.count += tiles(upper, word(lower, index)).count_ones();
        }
    }
}

/// The 66 pixels that the patches of a word's tiles may read in a row, from the one before the word's first on.
#[derive(Clone, Copy, Default)]
struct Window {
    bits: u64,
    /// The last two.
    last: u64,
    /// Index of the first site among them, or of the next.
    first: u32,
}

impl Window {
    #[inline(always)]
    fn new((words, before): (&[u64], &[u32]), index: usize) -> Self {
        let Some((&own, &before)) = words.get(index).zip(before.get(index)) else { return Self::default() };
        let left = word(words, index.wrapping_sub(1)) >> 63;
        Self {
            bits: own << 1 | left,
            last: own >> 63 | word(words, index + 1) << 1,
            first: before - left as u32,
        }
    }

    /// The four pixels from the `start`-th on, which is even: their bits, and the index of the first site among them.
    #[inline(always)]
    fn four(&self, start: u32) -> (u16, u32) {
        let bits = self.bits >> start | self.last << 1 << (63 - start);
        ((bits & 0xf) as u16, self.first + (self.bits & ((1 << start) - 1)).count_ones())
    }
}

/// The patches of a row of tiles. No closures: what is not inlined is not compiled for the instruction set.
struct FillRow<'a> {
    sites: &'a SiteSet,
    row: usize,
    patches: &'a mut [Patch],
}

impl Kernel for FillRow<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { sites, row, patches } = self;
        let mut patches = patches.iter_mut();
        let mut rows = [sites.ranked_row(-1); SIDE];
        for (i, ranked) in rows.iter_mut().enumerate() {
            *ranked = sites.ranked_row(2 * row as i32 + i as i32 - 1);
        }
        let [_, (upper, _), (lower, _), _] = rows;
        for (index, &upper) in upper.iter().enumerate() {
            let mut rest = tiles(upper, word(lower, index));
            if rest == 0 {
                continue;
            }
            let mut windows = [Window::default(); SIDE];
            for (window, &ranked) in windows.iter_mut().zip(&rows) {
                *window = Window::new(ranked, index);
            }
            while rest != 0 {
                let start = rest.trailing_zeros();
                rest &= rest - 1;
                let column = (index as u32 * 64 + start) / 2;
                let mut patch = Patch { row: row as u16, column: column as u16, ..Patch::default() };
                for (i, window) in windows.iter().enumerate() {
                    let (bits, first) = window.four(start);
                    patch.bits |= bits << (SIDE * i);
                    patch.first[i] = first;
                }
                *patches.next().expect("the tiles were counted") = patch;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::simd::tests::plainly;
    use super::super::super::sites::ABSENT;
    use super::super::super::sites::tests::{any_mask, edge_masks, sites_of};
    use super::*;
    use crate::types::Size;

    /// Compares the patches of a mask, rebuilt in used memory, with what [`SiteSet::id`] says of every pixel.
    fn check(patches: &mut Patches, size: Size, mask: &[bool]) {
        let sites = sites_of(size, mask);
        patches.rebuild(&sites);
        let mut seen = 0;
        for row in 0..size.height.div_ceil(2) {
            for patch in patches.rows(row..row + 1) {
                assert_eq!(u32::from(patch.row), row);
                let mut inside = 0;
                for i in 0..SIDE {
                    for j in 0..SIDE {
                        let at = (2 * row as i32 + i as i32 - 1, 2 * i32::from(patch.column) + j as i32 - 1);
                        let id = sites.id(at.0, at.1);
                        assert_eq!(patch.id(i, j), (id != ABSENT).then_some(id), "{at:?} of {size}");
                        inside += usize::from((1..3).contains(&i) && (1..3).contains(&j) && id != ABSENT);
                    }
                }
                assert_eq!(patch.tile(), [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(i, j)| patch.id(i, j)));
                assert!(inside > 0, "an empty tile");
                seen += inside;
            }
        }
        assert_eq!(seen, sites.len(), "every site is in one tile");
    }

    proptest! {
        #[test]
        fn patches_name_the_sites_around_every_tile((size, mask) in any_mask(200)) {
            check(&mut Patches::default(), size, &mask);
        }
    }

    #[test]
    fn full_empty_and_single_pixel_masks_have_their_patches_on_any_threads() {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut patches = Patches::default();
            edge_masks(|size, mask| pool.install(|| check(&mut patches, size, mask)));
            edge_masks(|size, mask| plainly(|| check(&mut patches, size, mask)));
        }
    }
}
