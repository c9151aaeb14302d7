//! What will run, checked and sized before the first frame.

use crate::types::Size;

/// How the camera's pixels map to the segmenter's grid of cells.
///
/// The *canvas* is the camera image as the methods see it: the image itself (`stretch`), or the image with rows and
/// columns of padding below and to the right (`pad`), so that every cell is a square block of pixels. The refiner's
/// level sizes follow from the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Camera resolution; nothing outside it is ever selected or written.
    pub camera: Size,
    /// Camera resolution with padding.
    pub canvas: Size,
    /// The segmenter's input resolution, one cell per input pixel.
    pub grid: Size,
}

impl Geometry {
    /// The canvas is the camera image; cells may be any shape.
    pub fn stretch(camera: Size, grid: Size) -> Self {
        Self { camera, canvas: camera, grid }
    }

    /// The canvas is the smallest whole multiple of the grid that holds the camera image.
    pub fn pad(camera: Size, grid: Size) -> Self {
        let ratio = camera.width.div_ceil(grid.width).max(camera.height.div_ceil(grid.height));
        Self { camera, canvas: Size::new(grid.width * ratio, grid.height * ratio), grid }
    }

    /// The cell row of a pixel row: `floor(r * h / H)`, METHODS 1.1(1).
    pub fn cell_row(&self, row: u32) -> u32 {
        (u64::from(row) * u64::from(self.grid.height) / u64::from(self.canvas.height)) as u32
    }

    /// The cell column of a pixel column.
    pub fn cell_column(&self, column: u32) -> u32 {
        (u64::from(column) * u64::from(self.grid.width) / u64::from(self.canvas.width)) as u32
    }

    /// First pixel row of a cell row: the smallest `r` with `cell_row(r) == cell`, cut at the camera's height.
    pub fn first_row(&self, cell: u32) -> u32 {
        first_pixel(cell, self.canvas.height, self.grid.height).min(self.camera.height)
    }

    /// First pixel column of a cell column, cut at the camera's width.
    pub fn first_column(&self, cell: u32) -> u32 {
        first_pixel(cell, self.canvas.width, self.grid.width).min(self.camera.width)
    }
}

fn first_pixel(cell: u32, pixels: u32, cells: u32) -> u32 {
    (u64::from(cell) * u64::from(pixels)).div_ceil(u64::from(cells)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_megapixels_pad_to_whole_cells() {
        let geometry = Geometry::pad(Size::new(3840, 2160), Size::new(960, 544));
        assert_eq!(geometry.canvas, Size::new(3840, 2176));
        assert_eq!((geometry.cell_row(2159), geometry.cell_column(3839)), (539, 959));
        assert_eq!((geometry.first_row(540), geometry.first_row(543)), (2160, 2160));
    }

    #[test]
    fn first_pixels_are_the_inverse_of_cells_at_uneven_ratios() {
        for (camera, grid) in [(1280, 800), (1024, 640), (100, 63), (7, 7), (5, 9)] {
            let geometry = Geometry::stretch(Size::new(camera, camera), Size::new(grid, grid));
            for cell in 0..grid {
                let brute = (0..camera).find(|&r| geometry.cell_row(r) >= cell).unwrap_or(camera);
                assert_eq!(geometry.first_row(cell), brute, "{camera}/{grid} cell {cell}");
                assert_eq!(geometry.first_column(cell), brute);
            }
        }
    }
}
