//! Which input site feeds which output site through which tap, for every convolution of the U-Net.
//!
//! Taps count `k = dr + 3*dc`, the row offset runs fastest. Rules: METHODS 1.2, *Index rules*.

use rayon::prelude::*;

use super::sites::{ABSENT, Pixel, SiteSet};
use crate::bundle::refiner::Bound;
use crate::types::Size;

/// For every output site the input site of each tap, or [`ABSENT`].
pub type NineMap = Vec<[u32; 9]>;

/// For every fine site the coarse sites that feed it, or [`ABSENT`]; [`up_taps`] has the taps of the four slots.
pub type UpMap = Vec<[u32; 4]>;

/// Fine rows (or columns) of one parity and where their transposed convolution reads, one entry per pair: tap offset,
/// and the coarse row less `row / 2`.
const UP_OFFSETS: [&[(usize, i32)]; 2] = [&[(0, 0), (2, -1)], &[(1, 0)]];

/// Parity class of a fine site, `0..4`: sites of a class use the same taps.
pub fn up_class(pixel: Pixel) -> usize {
    usize::from(pixel.row % 2) + 2 * usize::from(pixel.col % 2)
}

/// Taps of the slots of an [`UpMap`] entry, for sites of a class. Slots beyond are [`ABSENT`].
pub fn up_taps(class: usize) -> &'static [usize] {
    match class {
        0 => &[0, 2, 6, 8],
        1 => &[1, 7],
        2 => &[3, 5],
        _ => &[4],
    }
}

/// Neighbours of a submanifold 3x3 convolution: tap k reads `(r + dr - 1, c + dc - 1)`.
pub fn build_submanifold(sites: &SiteSet, map: &mut NineMap) {
    build_nine(sites.pixels(), sites, map, |coordinate, offset| coordinate + offset - 1);
}

/// Inputs of a strided convolution onto `coarse`: tap k reads `(2r + dr, 2c + dc)` of `fine`.
pub fn build_down(coarse: &SiteSet, fine: &SiteSet, map: &mut NineMap) {
    build_nine(coarse.pixels(), fine, map, |coordinate, offset| 2 * coordinate + offset);
}

fn build_nine(
    outputs: &[Pixel],
    inputs: &SiteSet,
    map: &mut NineMap,
    place: impl Fn(i32, i32) -> i32 + Sync,
) {
    map.resize(outputs.len(), [ABSENT; 9]);
    map.par_iter_mut().zip(outputs).with_min_len(512).for_each(|(entry, pixel)| {
        let col = place(i32::from(pixel.col), 0);
        for dr in 0..3 {
            let ids = inputs.three_ids(place(i32::from(pixel.row), dr), col);
            for (dc, id) in ids.into_iter().enumerate() {
                entry[dr as usize + 3 * dc] = id;
            }
        }
    });
}

/// Inputs of the transposed convolution back onto `fine`: the pairs and taps of [`build_down`], seen from the fine site.
pub fn build_up(fine: &SiteSet, coarse: &SiteSet, map: &mut UpMap) {
    map.resize(fine.len(), [ABSENT; 4]);
    map.par_iter_mut().zip(fine.pixels()).with_min_len(512).for_each(|(entry, pixel)| {
        *entry = [ABSENT; 4];
        let (rows, cols) = (UP_OFFSETS[usize::from(pixel.row % 2)], UP_OFFSETS[usize::from(pixel.col % 2)]);
        let pairs = cols.iter().flat_map(|(_, col)| rows.iter().map(move |(_, row)| (row, col)));
        for (id, (row, col)) in entry.iter_mut().zip(pairs) {
            *id = coarse.id(i32::from(pixel.row / 2) + row, i32::from(pixel.col / 2) + col);
        }
    });
}

/// Size of the next coarser level. Both rules are `(n - 1) / 2` of the size they look at: METHODS' largest output
/// coordinate `B = (n - 3) // 2` for a level of `n` rows, `B = (M - 2) // 2` for a largest active row `M = n - 1`.
pub fn coarser_size(sites: &SiteSet, bound: Bound) -> Size {
    let size = match bound {
        Bound::Image => sites.size(),
        Bound::Active => sites.extent(),
    };
    Size::new(size.width.saturating_sub(1) / 2, size.height.saturating_sub(1) / 2)
}

/// One level below the finest: its sites and how they connect to the next finer ones.
#[derive(Clone, Debug, Default)]
pub struct CoarserLevel {
    /// Sites of this level.
    pub sites: SiteSet,
    /// Strided convolution from the finer level, per site of this level.
    pub down: NineMap,
    /// Transposed convolution back, per site of the finer level.
    pub up: UpMap,
}

/// All maps of a U-Net for one set of finest sites. Rebuilding reuses the memory.
#[derive(Clone, Debug, Default)]
pub struct Pyramid {
    /// Submanifold neighbours, per level.
    pub neighbours: Vec<NineMap>,
    /// Levels 1 and on.
    pub coarser: Vec<CoarserLevel>,
}

impl Pyramid {
    /// Builds the maps of `levels` levels over the finest sites. A level without sites is valid and stays empty below.
    pub fn rebuild(&mut self, finest: &SiteSet, levels: usize, bound: Bound) {
        self.neighbours.resize_with(levels, Vec::new);
        self.coarser.resize_with(levels - 1, CoarserLevel::default);
        build_submanifold(finest, &mut self.neighbours[0]);
        for level in 1..levels {
            let (finer, rest) = self.coarser.split_at_mut(level - 1);
            let finer = finer.last().map_or(finest, |level| &level.sites);
            let CoarserLevel { sites, down, up } = &mut rest[0];
            sites.rebuild_coarser(coarser_size(finer, bound), finer);
            build_down(sites, finer, down);
            build_up(finer, sites, up);
            build_submanifold(sites, &mut self.neighbours[level]);
        }
    }

    /// Number of sites of each level.
    pub fn sites(&self) -> impl Iterator<Item = usize> {
        self.neighbours.iter().map(Vec::len)
    }
}

/// Present pairs of a map: multiply-adds of its convolution per input and output channel.
pub fn pairs<const N: usize>(map: &[[u32; N]]) -> u64 {
    map.iter().flatten().filter(|&&id| id != ABSENT).count() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::sites::tests::{any_mask, sites_of};
    use super::*;

    fn at(pixel: Pixel) -> (i32, i32) {
        (i32::from(pixel.row), i32::from(pixel.col))
    }

    /// METHODS' largest output coordinate, from the largest input coordinate or the size.
    fn methods_bound(size: u32, largest_active: Option<u32>, bound: Bound) -> i32 {
        match (bound, largest_active) {
            (_, None) => -1,
            (Bound::Image, _) => (size as i32 - 3).div_euclid(2),
            (Bound::Active, Some(largest)) => (largest as i32 - 2).div_euclid(2),
        }
    }

    proptest! {
        #[test]
        fn submanifold_map_follows_the_definition((size, mask) in any_mask(40)) {
            let sites = sites_of(size, &mask);
            let mut map = vec![[7; 9]; 3];
            build_submanifold(&sites, &mut map);
            for (entry, &pixel) in map.iter().zip(sites.pixels()) {
                let (r, c) = at(pixel);
                prop_assert_eq!(entry[4], sites.id(r, c), "the centre is tap 4");
                for dr in 0..3 {
                    for dc in 0..3 {
                        let expected = sites.pixels().iter().position(|&p| at(p) == (r + dr - 1, c + dc - 1));
                        let found = entry[(dr + 3 * dc) as usize];
                        prop_assert_eq!(found, expected.map_or(ABSENT, |id| id as u32));
                    }
                }
            }
        }

        #[test]
        fn strided_maps_follow_the_definition((size, mask) in any_mask(40), image in any::<bool>()) {
            let bound = if image { Bound::Image } else { Bound::Active };
            let fine = sites_of(size, &mask);
            let mut pyramid = Pyramid::default();
            pyramid.rebuild(&fine, 2, bound);
            let CoarserLevel { sites: coarse, down, up } = &pyramid.coarser[0];

            // Every pair by brute force: (output, tap, input), outputs in 0..=B.
            let last = |select: fn(&Pixel) -> u16| fine.pixels().iter().map(select).max().map(u32::from);
            let row_bound = methods_bound(size.height, last(|p| p.row), bound);
            let col_bound = methods_bound(size.width, last(|p| p.col), bound);
            let mut expected = BTreeSet::new();
            for r in 0..=row_bound {
                for c in 0..=col_bound {
                    for k in 0..9 {
                        let input = (2 * r + k % 3, 2 * c + k / 3);
                        if fine.id(input.0, input.1) != ABSENT {
                            expected.insert(((r, c), k as usize, input));
                        }
                    }
                }
            }
            let outputs: BTreeSet<_> = expected.iter().map(|pair| pair.0).collect();
            prop_assert!(coarse.pixels().iter().map(|&p| at(p)).eq(outputs), "active sites in row-major order");

            let mut from_down = BTreeSet::new();
            for (entry, &pixel) in down.iter().zip(coarse.pixels()) {
                for (k, &id) in entry.iter().enumerate().filter(|(_, id)| **id != ABSENT) {
                    from_down.insert((at(pixel), k, at(fine.pixels()[id as usize])));
                }
            }
            prop_assert_eq!(&from_down, &expected);

            let mut from_up = BTreeSet::new();
            for (entry, &pixel) in up.iter().zip(fine.pixels()) {
                let taps = up_taps(up_class(pixel));
                for (slot, &id) in entry.iter().enumerate().filter(|(_, id)| **id != ABSENT) {
                    from_up.insert((at(coarse.pixels()[id as usize]), taps[slot], at(pixel)));
                }
            }
            prop_assert_eq!(&from_up, &expected);
            prop_assert_eq!(pairs(down), expected.len() as u64);
            prop_assert_eq!(pairs(up), expected.len() as u64);
        }
    }

    /// Sites per level of a single pixel.
    fn levels_of(size: Size, row: u16, col: u16, bound: Bound) -> Vec<usize> {
        let mut sites = SiteSet::default();
        sites.rebuild_from_pixels(size, [Pixel { row, col }]);
        let mut pyramid = Pyramid::default();
        pyramid.rebuild(&sites, 6, bound);
        pyramid.sites().collect()
    }

    #[test]
    fn single_pixels_empty_the_levels_that_were_measured() {
        let size = Size::new(512, 256);
        for (row, col, empty) in [(100, 100, 2), (101, 100, 1), (126, 126, 6)] {
            let levels = levels_of(size, row, col, Bound::Active);
            let first = levels.iter().position(|&count| count == 0).unwrap_or(6);
            assert_eq!(first, empty, "pixel ({row},{col}): {levels:?}");
        }
        let corner = levels_of(size, 255, 511, Bound::Image);
        assert_eq!(corner, [1, 0, 0, 0, 0, 0], "last pixel of an even-sized image");
        let corner = levels_of(Size::new(511, 255), 254, 510, Bound::Image);
        assert_eq!(corner, [1; 6], "last pixel of an image that all levels reach");
    }

    #[test]
    fn tiny_levels_have_no_coarser_level() {
        for side in 0..3 {
            let size = Size::new(side, 9);
            let mut sites = SiteSet::default();
            sites.rebuild_from_rows(size, |_, words| words.fill(u64::MAX));
            for bound in [Bound::Image, Bound::Active] {
                let mut pyramid = Pyramid::default();
                pyramid.rebuild(&sites, 3, bound);
                assert_eq!(pyramid.sites().collect::<Vec<_>>(), [size.pixels(), 0, 0], "{size} {bound:?}");
            }
        }
    }
}
