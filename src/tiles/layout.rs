//! Where the cells of the coarse grid, the tiles and the windows lie in the image.

use crate::plan::{FinePlan, Geometry, Plan};
use crate::types::{FrameError, Size};

/// A rectangle of canvas pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns and rows.
    pub size: Size,
}

/// The grids of one camera. Tiles are counted row by row; those at the right and lower edge are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Camera resolution.
    pub camera: Size,
    /// The image as the columns see it, padded to whole cells.
    pub canvas: Size,
    /// The coarse column's grid of scores and weights.
    pub cells: Size,
    /// The fine column's grid of scores.
    pub positions: Size,
    /// Pixels of a cell, along each axis.
    pub cell: u32,
    /// Pixels of a position, along each axis.
    pub stride: u32,
    /// Side of a tile in pixels; 0 where there are no tiles.
    pub tile: u32,
    /// Pixels seen around a tile.
    pub halo: u32,
}

impl Layout {
    /// The grids of a camera under a plan for `spatial_sparsity`.
    ///
    /// # Panics
    /// If the plan is for the other method.
    pub fn of(plan: &Plan, camera: Size) -> Result<Self, FrameError> {
        let columns = plan.columns.as_ref().expect("a plan of spatial_sparsity");
        let tensors = &plan.segmenter.tensors;
        let fine = columns.fine.as_ref();
        let layout = Self::new(&plan.geometry(camera)?, tensors.logit_stride, columns.stride, fine)?;
        if let Some(fine) = fine.filter(|_| columns.features.is_some()) {
            let cell = fine.size.width / tensors.size.width * tensors.logit_stride;
            if layout.cell != cell {
                return Err(FrameError::Segmenter {
                    why: format!(
                        "isctf ties cells of {cell} px to the fine column, at {camera} they have {} px",
                        layout.cell
                    ),
                });
            }
        }
        Ok(layout)
    }

    /// The grids of a geometry whose canvas is padded to whole blocks.
    pub fn new(
        geometry: &Geometry,
        logit_stride: u32,
        stride: u32,
        fine: Option<&FinePlan>,
    ) -> Result<Self, FrameError> {
        let Geometry { camera, canvas, grid } = *geometry;
        let cell = canvas.width / grid.width * logit_stride;
        let (tile, halo) = fine.map_or((0, 0), |fine| (fine.tile, fine.halo));
        for (what, length) in [("tiles", tile), ("a halo", halo)] {
            if !length.is_multiple_of(cell) {
                return Err(FrameError::Segmenter {
                    why: format!("{what} of {length} px cannot hold whole cells of {cell} px at {camera}"),
                });
            }
        }
        if !cell.is_multiple_of(stride) {
            return Err(FrameError::Segmenter {
                why: format!("cells of {cell} px at {camera} are not whole scores of {stride} px"),
            });
        }
        Ok(Self {
            camera,
            canvas,
            cells: Size::new(canvas.width / cell, canvas.height / cell),
            positions: Size::new(canvas.width / stride, canvas.height / stride),
            cell,
            stride,
            tile,
            halo,
        })
    }

    /// Columns and rows of tiles.
    pub fn tiles(&self) -> Size {
        match self.tile {
            0 => Size::default(),
            tile => Size::new(self.canvas.width.div_ceil(tile), self.canvas.height.div_ceil(tile)),
        }
    }

    /// The pixels of a tile.
    pub fn core(&self, tile: u32) -> Rect {
        let columns = self.tiles().width;
        let (x, y) = (tile % columns * self.tile, tile / columns * self.tile);
        let size = Size::new(self.tile.min(self.canvas.width - x), self.tile.min(self.canvas.height - y));
        Rect { x, y, size }
    }

    /// Camera pixels of a tile.
    pub fn camera_pixels(&self, tile: u32) -> u32 {
        let Rect { x, y, size } = self.core(tile);
        size.width.min(self.camera.width.saturating_sub(x))
            * size.height.min(self.camera.height.saturating_sub(y))
    }

    /// Size of every window: a tile and its halo, or the canvas where that is smaller.
    pub fn window_size(&self) -> Size {
        let side = self.tile + 2 * self.halo;
        Size::new(side.min(self.canvas.width), side.min(self.canvas.height))
    }

    /// What the fine column sees of a tile: moved into the canvas at its border, so that the network's own padding
    /// lies where it lies when the whole image is run.
    pub fn window(&self, tile: u32) -> Rect {
        let (core, size) = (self.core(tile), self.window_size());
        let start = |core: u32, window: u32, canvas: u32| core.saturating_sub(self.halo).min(canvas - window);
        Rect {
            x: start(core.x, size.width, self.canvas.width),
            y: start(core.y, size.height, self.canvas.height),
            size,
        }
    }

    /// Whether the fine column has no more to do on the whole canvas than on the windows of so many tiles.
    pub fn whole_is_less_work(&self, tiles: usize) -> bool {
        tiles * self.window_size().pixels() >= self.canvas.pixels()
    }

    /// The whole canvas as a window.
    pub fn whole(&self) -> Rect {
        Rect { x: 0, y: 0, size: self.canvas }
    }
}

impl Rect {
    /// The same rectangle on a grid of `unit` x `unit` pixels.
    pub fn on_grid(self, unit: u32) -> Self {
        let size = Size::new(self.size.width / unit, self.size.height / unit);
        Self { x: self.x / unit, y: self.y / unit, size }
    }
}

/// How many windows each launch holds, and how many it is padded to: full launches of the largest size, then the
/// smallest size that holds the rest. `sizes` rise.
pub fn launches(windows: usize, sizes: &[usize]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let largest = sizes.last().copied().unwrap_or(1);
    let mut left = windows;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let count = left.min(largest);
        left -= count;
        let size = sizes.iter().copied().find(|&size| size >= count).unwrap_or(count);
        Some((count, size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine(tile: u32, halo: u32) -> FinePlan {
        FinePlan {
            path: "fine.onnx".into(),
            input: "image".into(),
            output: "scores".into(),
            size: Size::new(160, 96),
            tile,
            halo,
            batch: vec![1, 2, 4],
        }
    }

    #[test]
    fn tiles_cover_the_canvas_once_and_windows_stay_inside() {
        let geometry = Geometry::pad(Size::new(150, 90), Size::new(80, 48));
        for (tile, halo) in [(32, 16), (48, 16), (16, 0), (96, 48), (160, 0), (320, 16)] {
            let layout = Layout::new(&geometry, 8, 8, Some(&fine(tile, halo))).unwrap();
            assert_eq!((layout.cells, layout.positions), (Size::new(10, 6), Size::new(20, 12)));
            let mut seen = vec![0; layout.canvas.pixels()];
            let mut camera = 0;
            for tile in 0..layout.tiles().pixels() as u32 {
                let (core, window) = (layout.core(tile), layout.window(tile));
                camera += layout.camera_pixels(tile);
                for y in core.y..core.y + core.size.height {
                    for x in core.x..core.x + core.size.width {
                        seen[(y * 160 + x) as usize] += 1;
                    }
                }
                assert_eq!(window.size, layout.window_size());
                assert!(window.x + window.size.width <= 160 && window.y + window.size.height <= 96);
                assert_eq!((window.x % 16, window.y % 16), (0, 0));
                // The halo is whole wherever the canvas goes on.
                assert!(window.x == core.x.saturating_sub(halo) || window.x + window.size.width == 160);
                assert!(window.x <= core.x.saturating_sub(halo));
                let (right, bottom) = (core.x + core.size.width, core.y + core.size.height);
                assert!(window.x + window.size.width >= (right + halo).min(160), "{tile} {halo}");
                assert!(window.y + window.size.height >= (bottom + halo).min(96), "{tile} {halo}");
            }
            assert!(seen.iter().all(|&count| count == 1));
            assert_eq!(camera, 150 * 90);
        }
    }

    #[test]
    fn cameras_whose_cells_do_not_fit_the_tiles_are_refused() {
        let geometry = Geometry::pad(Size::new(240, 144), Size::new(80, 48));
        let error = Layout::new(&geometry, 8, 8, Some(&fine(32, 24))).unwrap_err().to_string();
        assert!(error.contains("tiles of 32 px cannot hold whole cells of 24 px at 240x144"), "{error}");
        assert!(Layout::new(&geometry, 8, 8, Some(&fine(48, 24))).is_ok());
    }

    #[test]
    fn launches_are_padded_to_a_few_sizes() {
        let of = |windows| launches(windows, &[1, 2, 4]).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(3), [(3, 4)]);
        assert_eq!(of(4), [(4, 4)]);
        assert_eq!(of(10), [(4, 4), (4, 4), (2, 2)]);
        assert_eq!(launches(5, &[8]).collect::<Vec<_>>(), [(5, 8)]);
    }
}
