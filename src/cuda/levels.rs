//! Active sites and kernel maps of every level: safe launches of `sites.cu`. Sizes are those of the image, so that the
//! memory is allocated once; how many sites there are stays on the device.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::{COUNTERS, CoarseTables, LatticeBuffers, SITES};
use super::launch::{Args, BLOCK, Launcher};
use super::memory::{Allocator, Buffer};
use crate::types::Size;

/// One level of the pyramid.
pub(super) struct LevelBuffers {
    pub(super) size: Size,
    pub(super) row_words: usize,
    /// Most sites it can have.
    pub(super) capacity: usize,
    words: Buffer<u32>,
    before: Buffer<u32>,
    pub(super) sites: Buffer<u32>,
    /// `[9][capacity]`.
    pub(super) neighbours: Buffer<u32>,
    /// `[9][capacity]`: this level's sites from the finer one's. Empty at the finest.
    pub(super) down: Buffer<u32>,
    /// `[4][capacity]`: this level's sites from the coarser one's. Empty at the coarsest.
    pub(super) up: Buffer<u32>,
}

/// Sizes and capacities of all levels over a canvas, finest first, as `cpu::kernel_map::coarser_size` has them.
///
/// A site feeds at most four coarser ones, and no level has more sites than pixels.
pub(super) fn level_sizes(canvas: Size, capacity: usize, levels: usize) -> Vec<(Size, usize)> {
    let mut sizes = vec![(canvas, capacity.min(canvas.pixels()))];
    while sizes.len() < levels {
        let (size, capacity) = sizes[sizes.len() - 1];
        let coarser = Size::new(size.width.saturating_sub(1) / 2, size.height.saturating_sub(1) / 2);
        sizes.push((coarser, (4 * capacity).min(coarser.pixels())));
    }
    sizes
}

impl LevelBuffers {
    /// Memory for `levels` levels.
    pub(super) fn all(
        allocator: &mut Allocator,
        canvas: Size,
        capacity: usize,
        levels: usize,
    ) -> Result<Vec<Self>, CudaError> {
        let sizes = level_sizes(canvas, capacity, levels);
        let make = |(level, &(size, capacity)): (usize, &(Size, usize))| {
            let row_words = size.width.div_ceil(32) as usize;
            let words = row_words * size.height as usize;
            let strided = |wanted: bool, taps: usize| if wanted { taps * capacity } else { 0 };
            Ok(Self {
                size,
                row_words,
                capacity,
                words: allocator.buffer("site bitmaps", words)?,
                before: allocator.buffer("site bitmaps", words)?,
                sites: allocator.buffer("site lists", capacity)?,
                neighbours: allocator.buffer("kernel maps", 9 * capacity)?,
                down: allocator.buffer("kernel maps", strided(level > 0, 9))?,
                up: allocator.buffer("kernel maps", strided(level + 1 < levels, 4))?,
            })
        };
        sizes.iter().enumerate().map(make).collect()
    }

    fn words(&self) -> usize {
        self.row_words * self.size.height as usize
    }

    /// Blocks of words that are counted and scanned.
    pub(super) fn blocks(&self) -> usize {
        self.words().div_ceil(BLOCK as usize)
    }
}

impl Launcher<'_> {
    /// Builds every level: sites, numbers, maps.
    pub(super) fn build_levels(
        &self,
        levels: &mut [LevelBuffers],
        active_bound: bool,
        block_sums: &mut Buffer<u32>,
        counters: &mut Buffer<u32>,
    ) -> Result<(), CudaError> {
        assert!(counters.len() >= COUNTERS && SITES + levels.len() <= 2 * SITES);
        for level in 0..levels.len() {
            let (finer, rest) = levels.split_at_mut(level);
            let here = &mut rest[0];
            if let Some(fine) = finer.last() {
                if active_bound {
                    self.extent(fine, level - 1, counters)?;
                }
                self.coarsen_words(fine, here, active_bound, counters, level - 1)?;
            }
            self.number_sites(here, level, block_sums, counters)?;
            self.build_nine(here, here, level, (1, 1), &here.neighbours, counters)?;
            if let Some(fine) = finer.last() {
                self.build_nine(here, fine, level, (2, 0), &here.down, counters)?;
                self.build_up(fine, here, level - 1, counters)?;
            }
        }
        Ok(())
    }

    /// The finest level's bitmap from the kept lattice positions.
    pub(super) fn mask_words(
        &self,
        lattice: &LatticeBuffers,
        tables: &CoarseTables,
        finest: &mut LevelBuffers,
    ) -> Result<(), CudaError> {
        let camera = tables.camera;
        assert_eq!(lattice.kept.len(), tables.lattice.pixels());
        assert_eq!(
            [tables.cells[0].len(), tables.cells[1].len()],
            [camera.height, camera.width].map(|n| n as usize)
        );
        assert!(finest.size.width >= camera.width && finest.size.height >= camera.height);
        let mut args = Args::new();
        args.buffer(&lattice.kept)
            .number(tables.lattice.width)
            .buffer(&tables.cells[0])
            .buffer(&tables.cells[1]);
        args.number(camera.width).number(camera.height).number(finest.row_words).number(finest.size.height);
        args.buffer(&finest.words);
        // SAFETY: cells point into the lattice by construction; the bitmap covers the canvas, which covers the camera.
        unsafe { self.launch("mask_words", self.over(finest.words()), &mut args) }
    }

    fn extent(&self, level: &LevelBuffers, index: usize, counters: &Buffer<u32>) -> Result<(), CudaError> {
        let mut args = Args::new();
        args.buffer(&level.sites).number(level.capacity).buffer(counters).number(index);
        // SAFETY: the list holds `capacity` sites; the counters were checked by the caller.
        unsafe { self.launch("extent", self.over(level.capacity), &mut args) }
    }

    fn coarsen_words(
        &self,
        fine: &LevelBuffers,
        coarse: &LevelBuffers,
        active_bound: bool,
        counters: &Buffer<u32>,
        fine_index: usize,
    ) -> Result<(), CudaError> {
        let mut args = Args::new();
        args.buffer(&fine.words).number(fine.row_words).number(fine.size.height);
        args.buffer(&coarse.words)
            .number(coarse.row_words)
            .number(coarse.size.height)
            .number(coarse.size.width);
        args.number(active_bound).buffer(counters).number(fine_index);
        // SAFETY: both bitmaps are as large as their sizes say, by `LevelBuffers::all`; the kernel checks rows and words.
        unsafe { self.launch("coarsen_words", self.over(coarse.words()), &mut args) }
    }

    fn number_sites(
        &self,
        level: &LevelBuffers,
        index: usize,
        block_sums: &mut Buffer<u32>,
        counters: &mut Buffer<u32>,
    ) -> Result<(), CudaError> {
        let blocks = level.blocks();
        assert!(block_sums.len() >= blocks);
        let mut args = Args::new();
        args.buffer(&level.words).number(level.words()).buffer(block_sums);
        // SAFETY: one number per block, checked above.
        unsafe { self.launch("count_words", self.exactly(blocks), &mut args)? };
        self.scan_blocks(block_sums, blocks, counters, SITES + index)?;
        let mut args = Args::new();
        args.buffer(&level.words).number(level.words()).number(level.row_words.max(1)).buffer(block_sums);
        args.buffer(&level.before).buffer(&level.sites).number(level.capacity);
        // SAFETY: the same words and blocks; the kernel checks the capacity of the list.
        unsafe { self.launch("number_sites", self.exactly(blocks), &mut args) }
    }

    fn build_nine(
        &self,
        outputs: &LevelBuffers,
        inputs: &LevelBuffers,
        index: usize,
        (stride, shift): (u32, u32),
        map: &Buffer<u32>,
        counters: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        assert_eq!(map.len(), 9 * outputs.capacity);
        let mut args = Args::new();
        args.buffer(&outputs.sites).buffer(counters).number(index).number(outputs.capacity);
        args.buffer(&inputs.words).buffer(&inputs.before).number(inputs.row_words);
        args.number(inputs.size.width).number(inputs.size.height).number(stride).number(shift).buffer(map);
        // SAFETY: the map holds nine numbers per site of the capacity; neighbours are looked up within the level's size.
        unsafe { self.launch("build_nine", self.over(outputs.capacity), &mut args) }
    }

    fn build_up(
        &self,
        fine: &LevelBuffers,
        coarse: &LevelBuffers,
        fine_index: usize,
        counters: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        assert_eq!(fine.up.len(), 4 * fine.capacity);
        let mut args = Args::new();
        args.buffer(&fine.sites).buffer(counters).number(fine_index).number(fine.capacity);
        args.buffer(&coarse.words).buffer(&coarse.before).number(coarse.row_words);
        args.number(coarse.size.width).number(coarse.size.height).buffer(&fine.up);
        // SAFETY: the map holds four numbers per site of the capacity.
        unsafe { self.launch("build_up", self.over(fine.capacity), &mut args) }
    }

    /// 255 at every refined pixel of a cleared image.
    pub(super) fn mark_sites(
        &self,
        level: &LevelBuffers,
        counters: &Buffer<u32>,
        out: &mut Buffer<u8>,
        camera: Size,
    ) -> Result<(), CudaError> {
        assert!(out.len() >= camera.pixels() && counters.len() >= COUNTERS);
        let mut args = Args::new();
        args.buffer(&level.sites).buffer(counters).number(level.capacity).buffer(out);
        args.number(camera.width).number(camera.height);
        // SAFETY: the kernel checks rows and columns against the image.
        unsafe { self.launch("mark_sites", self.over(level.capacity), &mut args) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_bound_every_level() {
        let sizes = level_sizes(Size::new(3840, 2176), 1000, 4);
        assert_eq!(sizes[1].0, Size::new(1919, 1087));
        assert_eq!(sizes.iter().map(|s| s.1).collect::<Vec<_>>(), [1000, 4000, 16000, 64000]);
        let full = level_sizes(Size::new(9, 5), 45, 4);
        assert_eq!(full[1..], [(Size::new(4, 2), 8), (Size::new(1, 0), 0), (Size::new(0, 0), 0)]);
    }
}
