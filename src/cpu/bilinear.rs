//! The other way to the segmenter's grid: antialiased bilinear, as Pillow and most training pipelines resize.
//!
//! A triangle filter as wide as two cells, on 8-bit levels, rows rounded between the two passes. Networks trained on such
//! images lose a little on plain area means. The area mean stays the default: its sums are exact.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::plan::{Geometry, Normalisation};
use crate::types::Size;

/// Resizes images of one camera for one network.
pub struct BilinearResize {
    camera: Size,
    normalisation: Normalisation,
    resizer: Resizer,
    resized: TypedImage<'static, U8x3>,
}

impl BilinearResize {
    /// Prepares for images of a geometry, whose canvas must be the camera image (`fit = "stretch"`).
    pub fn new(geometry: &Geometry, normalisation: Normalisation) -> Self {
        assert_eq!(geometry.camera, geometry.canvas, "nothing is padded");
        let resized = TypedImage::new(geometry.grid.width, geometry.grid.height);
        Self { camera: geometry.camera, normalisation, resizer: Resizer::new(), resized }
    }

    /// Resizes a packed RGB image of the camera's size into three normalised planes, `[3, h, w]`.
    pub fn run(&mut self, rgb: &[u8], out: &mut [f32]) {
        let Size { width, height } = self.camera;
        let source = TypedImageRef::from_buffer(width, height, rgb).expect("three bytes a pixel");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        // Typed: `resize` would compile every pixel type there is into this crate, more than all the rest of it.
        self.resizer.resize_typed(&source, &mut self.resized, &options).expect("nothing is cropped");
        let pixels = self.resized.pixels();
        let planes = out.chunks_exact_mut(pixels.len());
        for ((plane, source), out) in self.normalisation.sources().into_iter().enumerate().zip(planes) {
            for (pixel, out) in pixels.iter().zip(out) {
                *out = self.normalisation.apply(plane, f32::from(pixel.0[source]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::ChannelOrder;

    /// The triangle filter from its definition, in f64, unrounded.
    fn reference(rgb: &[u8], camera: Size, grid: Size, channel: usize, row: u32, column: u32) -> f64 {
        let axis = |cell: u32, pixels: u32, cells: u32| -> Vec<f64> {
            let scale = f64::from(pixels) / f64::from(cells);
            let reach = scale.max(1.0);
            let centre = (f64::from(cell) + 0.5) * scale;
            let weight = |pixel: u32| (1.0 - (f64::from(pixel) + 0.5 - centre).abs() / reach).max(0.0);
            let weights: Vec<f64> = (0..pixels).map(weight).collect();
            let total: f64 = weights.iter().sum();
            weights.iter().map(|weight| weight / total).collect()
        };
        let (rows, columns) = (axis(row, camera.height, grid.height), axis(column, camera.width, grid.width));
        let mut sum = 0.0;
        for (r, row) in rows.iter().enumerate() {
            for (c, column) in columns.iter().enumerate() {
                sum += row * column * f64::from(rgb[(r * camera.width as usize + c) * 3 + channel]);
            }
        }
        sum
    }

    #[test]
    fn it_is_the_triangle_filter_within_rounding() {
        let camera = Size::new(37, 29);
        let rgb: Vec<u8> = (0..camera.pixels() * 3).map(|i| (i * 7919 % 251) as u8).collect();
        for grid in [Size::new(16, 8), Size::new(37, 29), Size::new(50, 40)] {
            let normalisation =
                Normalisation { order: ChannelOrder::Bgr, mean: [0.0, 1.0, 2.0], std: [1.0, 1.0, 1.0] };
            let mut out = vec![f32::NAN; 3 * grid.pixels()];
            BilinearResize::new(&Geometry::stretch(camera, grid), normalisation).run(&rgb, &mut out);
            for (index, &value) in out.iter().enumerate() {
                let (plane, cell) = (index / grid.pixels(), (index % grid.pixels()) as u32);
                let (row, column) = (cell / grid.width, cell % grid.width);
                let wanted = reference(&rgb, camera, grid, 2 - plane, row, column) - plane as f64;
                // Half a level from each pass.
                assert!((f64::from(value) - wanted).abs() <= 1.01, "{grid} {row} {column}: {value} {wanted}");
            }
        }
    }
}
