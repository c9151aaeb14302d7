//! Rows of tiles in strips that threads take one at a time, and memory that grows and is kept.

use std::ops::Range;

use super::super::sites::SiteSet;
use super::isa::Lanes;

/// Sites of a strip. What is between the layers of a strip should stay in the cache; the rows at its ends are computed
/// twice, so it should not be too small.
const STRIP_SITES: u32 = 24_000;

/// Strips a thread should get, so that none waits long for the last.
const STRIPS_A_THREAD: u32 = 6;

/// Least rows of tiles of a strip.
const LEAST_ROWS: u32 = 8;

/// Makes `data` at least `len` long. What it held is lost if it grows: the old memory goes before the new is taken.
pub(super) fn grow(data: &mut Vec<Lanes>, len: usize) {
    if data.len() < len {
        *data = Vec::new();
        // A little more, so that slowly growing frames do not allocate every time. It takes memory at once: zeros of this
        // alignment are written, not left to the system.
        data.resize(len + len / 16, Lanes::ZERO);
    }
}

/// A level cut into strips.
#[derive(Clone, Debug, Default)]
pub(super) struct Strips {
    /// First row of tiles of each strip, then the number of rows.
    rows: Vec<u32>,
    /// First site of each strip, then the number of sites.
    pub(super) starts: Vec<u32>,
    /// Most sites of a strip and `HALO` rows of tiles around it.
    pub(super) most_sites: usize,
}

impl Strips {
    /// Cuts a level for the current threads. `halo` is the number of rows of tiles that are computed beyond a strip.
    pub(super) fn rebuild(&mut self, sites: &SiteSet, halo: u32) {
        let total = sites.len() as u32;
        let threads = rayon::current_num_threads() as u32;
        let wanted = (total / (threads * STRIPS_A_THREAD)).clamp(1, STRIP_SITES);
        let rows = sites.size().height.div_ceil(2);
        self.rows.clear();
        self.starts.clear();
        self.rows.push(0);
        self.starts.push(0);
        let mut last = (0, 0);
        for row in 1..rows {
            let before = first_site(sites, row);
            if before - last.1 >= wanted && row - last.0 >= LEAST_ROWS {
                last = (row, before);
                self.rows.push(row);
                self.starts.push(before);
            }
        }
        self.rows.push(rows);
        self.starts.push(total);
        let widened = (0..self.len()).map(|strip| site_range(sites, &self.widened(strip, halo)).len());
        self.most_sites = widened.max().unwrap_or(0);
    }

    /// Number of strips.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - 1
    }

    /// A strip's rows of tiles and `halo` more on either side, as far as the level goes.
    pub(super) fn widened(&self, strip: usize, halo: u32) -> Range<u32> {
        let last = self.rows[self.rows.len() - 1];
        self.rows[strip].saturating_sub(halo)..(self.rows[strip + 1] + halo).min(last)
    }
}

/// The sites of rows of tiles.
pub(super) fn site_range(sites: &SiteSet, rows: &Range<u32>) -> Range<usize> {
    first_site(sites, rows.start) as usize..first_site(sites, rows.end) as usize
}

fn first_site(sites: &SiteSet, row: u32) -> u32 {
    sites.before_row((2 * row).min(sites.size().height))
}

#[cfg(test)]
mod tests {
    use super::super::super::sites::tests::sites_of;
    use super::super::isa::LANES;
    use super::*;
    use crate::types::Size;

    #[test]
    fn strips_cover_a_level_once() {
        for (width, height) in [(1, 1), (40, 3), (300, 401), (64, 0)] {
            let size = Size::new(width, height);
            let sites = sites_of(size, &(0..size.pixels()).map(|i| i % 7 != 2).collect::<Vec<_>>());
            let mut strips = Strips::default();
            strips.rebuild(&sites, 2);
            let mut next = 0;
            for strip in 0..strips.len() {
                let rows = strips.widened(strip, 0);
                assert_eq!(rows.start, next);
                next = rows.end;
                let range = site_range(&sites, &rows);
                assert_eq!(range, strips.starts[strip] as usize..strips.starts[strip + 1] as usize);
                assert!(site_range(&sites, &strips.widened(strip, 2)).len() <= strips.most_sites);
            }
            assert_eq!(next, height.div_ceil(2));
        }
    }

    #[test]
    fn memory_grows_and_never_shrinks() {
        let one = Lanes([1.0; LANES]);
        let mut data = vec![one; 3];
        grow(&mut data, 2);
        assert_eq!(data, [one; 3]);
        grow(&mut data, 100_000);
        assert!(data.len() >= 100_000 && data.iter().all(|&vector| vector == Lanes::ZERO));
    }
}
