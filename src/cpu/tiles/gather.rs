//! Windows of the image and of the coarse features, as the fine column wants them, and its scores back onto the grid.

use rayon::prelude::*;

use crate::plan::Normalisation;
use crate::tiles::Rect;
use crate::types::Size;

/// Values of the 256 levels in each plane.
pub(super) struct Levels {
    sources: [usize; 3],
    values: [[f32; 256]; 3],
}

impl Levels {
    pub(super) fn new(normalisation: &Normalisation) -> Self {
        let values = std::array::from_fn(|plane| {
            std::array::from_fn(|level| normalisation.apply(plane, level as f32))
        });
        Self { sources: normalisation.sources(), values }
    }

    /// Writes a window of a packed RGB image as three planes. Pixels beyond the camera are 0, the mean colour.
    pub(super) fn window(&self, rgb: &[u8], camera: Size, window: Rect, out: &mut [f32]) {
        let Rect { x, y, size } = window;
        assert_eq!(out.len(), 3 * size.pixels());
        let (width, height) = (size.width as usize, size.height as usize);
        let visible = size.width.min(camera.width.saturating_sub(x)) as usize;
        out.par_chunks_mut(width).enumerate().with_min_len(64).for_each(|(index, out)| {
            let (plane, row) = (index / height, y as usize + index % height);
            let (seen, beyond) = out.split_at_mut(if row < camera.height as usize { visible } else { 0 });
            let start = (row * camera.width as usize + x as usize) * 3;
            let (source, values) = (self.sources[plane], &self.values[plane]);
            if !seen.is_empty() {
                let (pixels, _) = rgb[start..start + seen.len() * 3].as_chunks::<3>();
                for (out, pixel) in seen.iter_mut().zip(pixels) {
                    *out = values[usize::from(pixel[source])];
                }
            }
            beyond.fill(0.0);
        });
    }
}

/// Copies a rectangle of planar maps: `from` of maps of `from_size` to `to` of maps of `to_size`, all in grid units.
/// Both rectangles have the same size.
pub(super) fn copy_maps(
    source: &[f32],
    (from_size, from): (Size, Rect),
    out: &mut [f32],
    (to_size, to): (Size, Rect),
) {
    assert_eq!(from.size, to.size);
    assert_eq!(source.len() / from_size.pixels(), out.len() / to_size.pixels(), "as many maps");
    let width = from.size.width as usize;
    for (source, out) in source.chunks_exact(from_size.pixels()).zip(out.chunks_exact_mut(to_size.pixels())) {
        for row in 0..from.size.height {
            let start = |size: Size, rect: Rect| ((rect.y + row) * size.width + rect.x) as usize;
            out[start(to_size, to)..][..width].copy_from_slice(&source[start(from_size, from)..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::ChannelOrder;

    #[test]
    fn a_window_is_the_normalised_image_and_zero_beyond_it() {
        let camera = Size::new(5, 4);
        let rgb: Vec<u8> = (0..60).collect();
        let normalisation =
            Normalisation { order: ChannelOrder::Bgr, mean: [1.0, 2.0, 3.0], std: [2.0, 4.0, 8.0] };
        let window = Rect { x: 3, y: 2, size: Size::new(4, 3) };
        let mut out = vec![f32::NAN; 36];
        Levels::new(&normalisation).window(&rgb, camera, window, &mut out);
        for (index, &value) in out.iter().enumerate() {
            let (plane, row, column) = (index / 12, 2 + index / 4 % 3, 3 + index % 4);
            let inside = row < 4 && column < 5;
            let level = if inside { f32::from(rgb[(row * 5 + column) * 3 + 2 - plane]) } else { 0.0 };
            let wanted = if inside { normalisation.apply(plane, level) } else { 0.0 };
            assert_eq!(value, wanted, "{plane} {row} {column}");
        }
        let beyond = Rect { x: 6, y: 9, size: Size::new(4, 3) };
        Levels::new(&normalisation).window(&rgb, camera, beyond, &mut out);
        assert!(out.iter().all(|&value| value == 0.0));
    }

    #[test]
    fn rectangles_of_every_map_are_copied_and_nothing_else() {
        let (from_size, to_size) = (Size::new(4, 3), Size::new(3, 5));
        let source: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let mut out = vec![-1.0; 30];
        let from = Rect { x: 1, y: 1, size: Size::new(2, 2) };
        let to = Rect { x: 1, y: 3, size: Size::new(2, 2) };
        copy_maps(&source, (from_size, from), &mut out, (to_size, to));
        assert_eq!(
            (&out[10..12], &out[13..15], &out[25..27]),
            (&[5.0, 6.0][..], &[9.0, 10.0][..], &[17.0, 18.0][..])
        );
        assert_eq!(out.iter().filter(|&&value| value >= 0.0).count(), 8);
    }
}
