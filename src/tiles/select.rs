//! Which tiles the fine column runs on: those with a weight above the threshold, the heaviest first within a capacity.

use super::layout::{Layout, Rect};
use crate::types::FrameReport;

/// What a selection found. All are camera pixels of whole tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileCounts {
    /// In tiles with a weight above the threshold.
    pub selected: u32,
    /// Those within the capacity.
    pub kept: u32,
    /// The rest.
    pub dropped: u32,
}

/// The tiles of one frame. Its memory is reused for the next.
#[derive(Clone, Debug, Default)]
pub struct TileSelection {
    /// Sum of the weights of each tile.
    pooled: Vec<f32>,
    /// Tiles above the threshold, heaviest first.
    order: Vec<u32>,
    /// Tiles within the capacity, rising.
    kept: Vec<u32>,
    /// Weight of each cell in the fusion: its own, or 0 where the fine column is not used.
    gate: Vec<f32>,
    counts: TileCounts,
}

impl TileSelection {
    /// Selects the tiles that hold a cell whose weight exceeds `threshold`, strictly; without a threshold, all. Cells
    /// beyond the camera do not count.
    ///
    /// If their pixels are more than `capacity`, tiles are kept in the order of the falling sum of their weights, ties by
    /// lower index, until the next one no longer fits; it and all after it are dropped. A weight that is not finite
    /// counts as 0.
    pub fn select(&mut self, weights: &[f32], layout: &Layout, threshold: Option<f32>, capacity: u32) {
        assert_eq!(weights.len(), layout.cells.pixels(), "one weight a cell");
        self.gate.clear();
        self.gate.resize(weights.len(), 0.0);
        let tiles = layout.tiles().pixels();
        self.pooled.clear();
        self.pooled.resize(tiles, 0.0);
        self.order.clear();
        self.kept.clear();
        self.counts = TileCounts::default();
        for tile in 0..tiles as u32 {
            let mut active = threshold.is_none() && layout.camera_pixels(tile) > 0;
            for_cells(layout, tile, |cell| {
                let weight = finite(weights[cell]);
                self.pooled[tile as usize] += weight;
                active |= threshold.is_some_and(|threshold| weight > threshold);
            });
            if active {
                self.order.push(tile);
                self.counts.selected += layout.camera_pixels(tile);
            }
        }
        let pooled = &self.pooled;
        self.order.sort_unstable_by(|&a, &b| {
            pooled[b as usize].total_cmp(&pooled[a as usize]).then_with(|| a.cmp(&b))
        });
        let mut left = capacity;
        for &tile in &self.order {
            let Some(rest) = left.checked_sub(layout.camera_pixels(tile)) else { break };
            left = rest;
            self.kept.push(tile);
        }
        self.kept.sort_unstable();
        self.counts.kept = capacity - left;
        self.counts.dropped = self.counts.selected - self.counts.kept;
        for &tile in &self.kept {
            for_cells(layout, tile, |cell| {
                let weight = finite(weights[cell]);
                if threshold.is_none_or(|threshold| weight > threshold) {
                    self.gate[cell] = weight;
                }
            });
        }
    }

    /// Tiles to run, rising.
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }

    /// Weight of the fine column in each cell; 0 where it is not used.
    pub fn gate(&self) -> &[f32] {
        &self.gate
    }

    /// Writes what was found into a frame's report.
    pub fn report(&self, layout: &Layout, report: &mut FrameReport) {
        report.pixels_selected = self.counts.selected;
        report.pixels_refined = self.counts.kept;
        report.pixels_dropped = self.counts.dropped;
        let cells = self.gate.iter().filter(|&&gate| gate > 0.0).count() as u32;
        report.sites[0] = cells * (layout.cell / layout.stride).pow(2);
    }

    /// Writes 255 into the kept tiles of a camera image.
    pub fn draw(&self, layout: &Layout, image: &mut [u8]) {
        let camera = layout.camera;
        assert_eq!(image.len(), camera.pixels());
        for &tile in &self.kept {
            let Rect { x, y, size } = layout.core(tile);
            for row in y..(y + size.height).min(camera.height) {
                let columns = x as usize..(x + size.width).min(camera.width) as usize;
                image[row as usize * camera.width as usize..][columns].fill(255);
            }
        }
    }

    /// What was found.
    pub fn counts(&self) -> TileCounts {
        self.counts
    }
}

fn finite(weight: f32) -> f32 {
    if weight.is_finite() { weight } else { 0.0 }
}

/// The cells of a tile that hold camera pixels, row by row.
fn for_cells(layout: &Layout, tile: u32, mut visit: impl FnMut(usize)) {
    let core = layout.core(tile).on_grid(layout.cell);
    let rows = (core.y + core.size.height).min(layout.camera.height.div_ceil(layout.cell));
    let columns = (core.x + core.size.width).min(layout.camera.width.div_ceil(layout.cell));
    for row in core.y..rows {
        for column in core.x..columns {
            visit((row * layout.cells.width + column) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Size;

    /// Four columns and three rows of tiles of 2x2 cells; the last row holds 1 row of cells, the camera ends within it.
    fn layout() -> Layout {
        Layout {
            camera: Size::new(128, 70),
            canvas: Size::new(128, 80),
            cells: Size::new(8, 5),
            positions: Size::new(16, 10),
            cell: 16,
            stride: 8,
            tile: 32,
            halo: 16,
        }
    }

    fn select(weights: &[f32], threshold: Option<f32>, capacity: u32) -> TileSelection {
        let mut selection = TileSelection::default();
        selection.select(&[0.9; 40], &layout(), None, u32::MAX);
        selection.select(weights, &layout(), threshold, capacity);
        selection
    }

    fn map(cells: &[(usize, f32)]) -> Vec<f32> {
        let mut map = vec![0.1; 40];
        cells.iter().for_each(|&(cell, weight)| map[cell] = weight);
        map
    }

    #[test]
    fn a_weight_above_the_threshold_activates_its_tile_and_equality_does_not() {
        // Cell (1, 3) lies in tile 1, cell (4, 7) in tile 11, cell (0, 0) only reaches the threshold.
        let selection = select(&map(&[(11, 0.6), (39, 0.51), (0, 0.5)]), Some(0.5), u32::MAX);
        assert_eq!(selection.kept(), [1, 11]);
        let counts = selection.counts();
        assert_eq!((counts.selected, counts.kept, counts.dropped), (32 * 32 + 32 * 6, 32 * 38, 0));
        let gated: Vec<usize> = (0..40).filter(|&cell| selection.gate()[cell] > 0.0).collect();
        assert_eq!(gated, [11, 39], "m below the threshold counts as 0 in an active tile too");
    }

    #[test]
    fn nothing_everything_and_thresholds_outside_the_weights() {
        let weights = map(&[(3, 1.0)]);
        assert!(select(&weights, Some(1.0), u32::MAX).kept().is_empty());
        assert_eq!(select(&weights, Some(-1.0), u32::MAX).kept().len(), 12);
        let dense = select(&weights, None, u32::MAX);
        assert_eq!((dense.kept().len(), dense.counts().kept), (12, 128 * 70));
        assert_eq!(dense.gate(), weights);
    }

    #[test]
    fn the_heaviest_tiles_are_kept_ties_by_index_and_the_first_misfit_ends_it() {
        // Sums: tile 5 2.0 + ..., tiles 0 and 2 equal, tile 8 (cut by the camera) the least.
        let weights = map(&[(0, 0.6), (4, 0.6), (18, 0.9), (19, 0.9), (32, 0.55)]);
        let of = |capacity| select(&weights, Some(0.5), capacity);
        assert_eq!(of(u32::MAX).kept(), [0, 2, 5, 8]);
        assert_eq!(of(2 * 1024).kept(), [0, 5]);
        assert_eq!(of(1024).kept(), [5]);
        let none = of(1023);
        assert_eq!(none.kept(), [0; 0], "tile 8, of 192 pixels, would fit");
        assert_eq!(none.counts(), TileCounts { selected: 3 * 1024 + 192, kept: 0, dropped: 3 * 1024 + 192 });
        assert!(none.gate().iter().all(|&gate| gate == 0.0));
        let two = of(2 * 1024 + 500);
        assert_eq!((two.counts().kept, two.counts().dropped), (2048, 1024 + 192));
        assert_eq!(two.gate()[4], 0.0, "the gate of a dropped tile is shut");
    }

    #[test]
    fn weights_that_are_not_finite_count_as_zero() {
        let selection = select(&map(&[(0, f32::NAN), (2, f32::INFINITY), (9, 0.9)]), Some(0.5), u32::MAX);
        assert_eq!(selection.kept(), [0]);
        assert_eq!((selection.gate()[0], selection.gate()[9]), (0.0, 0.9));
    }
}
