//! Tiles of 2x2 pixels with at least one site, and the 4x4 pixels around each that a 3x3 convolution reads.
//!
//! Sites are numbered row by row, so the sites of a patch's row follow each other: a bit per pixel and one index a row
//! say where all sixteen are. That takes 6 bytes a site where a table of nine neighbours takes 36.

use std::ops::Range;

use super::super::sites::SiteSet;
use super::strips::{Split, split};

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
        let rows = sites.size().height.div_ceil(2);
        self.before.clear();
        let mut count = 0;
        for row in 0..rows {
            self.before.push(count);
            count += tile_words(sites, row).map(u64::count_ones).sum::<u32>();
        }
        self.before.push(count);
        if self.patches.len() < count as usize {
            super::strips::grow(&mut self.patches, count as usize);
        }
        let patches = &mut self.patches[..count as usize];
        split(Split { starts: &self.before, width: 1, smallest: 32 }, patches, &|first, starts, part| {
            for (index, range) in starts.windows(2).enumerate() {
                let part = &mut part[(range[0] - starts[0]) as usize..(range[1] - starts[0]) as usize];
                fill_row(sites, (first + index) as u32, part);
            }
        });
    }

    /// The patches of a range of rows of tiles.
    pub(super) fn rows(&self, rows: Range<u32>) -> &[Patch] {
        &self.patches[self.before[rows.start as usize] as usize..self.before[rows.end as usize] as usize]
    }
}

/// The tiles of a row with at least one site: bit `2c` of the words is tile `c`.
fn tile_words(sites: &SiteSet, row: u32) -> impl Iterator<Item = u64> {
    let upper = sites.row_bits(2 * row);
    let lower = if 2 * row + 1 < sites.size().height { sites.row_bits(2 * row + 1) } else { &[] };
    upper.iter().enumerate().map(|(index, upper)| {
        let either = upper | lower.get(index).copied().unwrap_or(0);
        (either | either >> 1) & 0x5555_5555_5555_5555
    })
}

fn fill_row(sites: &SiteSet, row: u32, patches: &mut [Patch]) {
    let mut patches = patches.iter_mut();
    for (index, word) in tile_words(sites, row).enumerate() {
        let mut rest = word;
        while rest != 0 {
            let column = (index as u32 * 64 + rest.trailing_zeros()) / 2;
            rest &= rest - 1;
            let mut patch = Patch { row: row as u16, column: column as u16, ..Patch::default() };
            for i in 0..SIDE {
                let (bits, first) = sites.four(2 * row as i32 + i as i32 - 1, 2 * column as i32 - 1);
                patch.bits |= (bits << (SIDE * i)) as u16;
                patch.first[i] = first;
            }
            *patches.next().expect("the words were counted") = patch;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::sites::ABSENT;
    use super::super::super::sites::tests::{any_mask, sites_of};
    use super::*;

    proptest! {
        #[test]
        fn patches_name_the_sites_around_every_tile((size, mask) in any_mask(80)) {
            let sites = sites_of(size, &mask);
            let mut patches = Patches::default();
            patches.rebuild(&sites);
            let mut seen = 0;
            for row in 0..size.height.div_ceil(2) {
                for patch in patches.rows(row..row + 1) {
                    prop_assert_eq!(u32::from(patch.row), row);
                    let mut inside = 0;
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            let at = (2 * row as i32 + i as i32 - 1, 2 * i32::from(patch.column) + j as i32 - 1);
                            let id = sites.id(at.0, at.1);
                            prop_assert_eq!(patch.id(i, j), (id != ABSENT).then_some(id));
                            inside += usize::from((1..3).contains(&i) && (1..3).contains(&j) && id != ABSENT);
                        }
                    }
                    prop_assert_eq!(patch.tile(), [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(i, j)| patch.id(i, j)));
                    prop_assert!(inside > 0, "an empty tile");
                    seen += inside;
                }
            }
            prop_assert_eq!(seen, sites.len(), "every site is in one tile");
        }
    }
}
