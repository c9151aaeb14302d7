//! The boundary band: the pixels near a label edge, where low-resolution labels are weakest.

use rayon::prelude::*;

use crate::types::LabelImage;

/// Reach of the band in published scores: the pixels on each side of an edge.
pub const BAND_PX: usize = 8;

/// Finds the `reach` pixels nearest to a label edge, on each side of it, by Chebyshev distance.
///
/// An edge lies between 4-neighbours of different value; unlabelled counts as a value. The pixels that touch an edge
/// are dilated by a box of `2 * reach - 1`, first along rows, then along columns. Buffers are kept between images.
#[derive(Clone, Debug)]
pub struct BoundaryBand {
    reach: usize,
    /// Pixels that touch an edge, dilated along rows only.
    spread: Vec<u8>,
    band: Vec<u8>,
}

impl BoundaryBand {
    /// A band of `reach` pixels on each side, at least 1.
    pub fn new(reach: usize) -> Self {
        Self { reach: reach.max(1), spread: Vec::new(), band: Vec::new() }
    }

    /// One byte a pixel, row-major: 1 within the band, 0 outside.
    pub fn of(&mut self, labels: &LabelImage) -> &[u8] {
        let (width, height) = (labels.size.width as usize, labels.size.height as usize);
        self.spread.resize(width * height, 0);
        self.band.resize(width * height, 0);
        if width * height == 0 {
            return &self.band;
        }
        let grow = self.reach - 1;
        let row = |y: usize| &labels.data[y * width..][..width];
        self.spread.par_chunks_mut(width).enumerate().for_each_init(
            || vec![0; width],
            |touching, (y, spread)| {
                touching.fill(0);
                mark_row(touching, row(y));
                for neighbour in [y.wrapping_sub(1), y + 1] {
                    if neighbour < height {
                        let pairs = row(y).iter().zip(row(neighbour));
                        touching.iter_mut().zip(pairs).for_each(|(m, (a, b))| *m |= u8::from(a != b));
                    }
                }
                spread.copy_from_slice(touching);
                for shift in 1..=grow.min(width - 1) {
                    or_into(&mut spread[shift..], touching);
                    or_into(spread, &touching[shift..]);
                }
            },
        );
        let spread = &self.spread;
        self.band.par_chunks_mut(width).enumerate().for_each(|(y, band)| {
            band.fill(0);
            for near in y.saturating_sub(grow)..=(y + grow).min(height - 1) {
                or_into(band, &spread[near * width..][..width]);
            }
        });
        &self.band
    }
}

/// Marks both pixels of each unequal pair of neighbours in a row.
fn mark_row(touching: &mut [u8], row: &[u8]) {
    let right = &row[1..];
    touching.iter_mut().zip(row.iter().zip(right)).for_each(|(m, (a, b))| *m |= u8::from(a != b));
    touching[1..].iter_mut().zip(row.iter().zip(right)).for_each(|(m, (a, b))| *m |= u8::from(a != b));
}

/// Over as many bytes as both have.
fn or_into(target: &mut [u8], source: &[u8]) {
    target.iter_mut().zip(source).for_each(|(t, s)| *t |= s);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Size;

    /// By definition: within `reach - 1` of a pixel that has a 4-neighbour of another value.
    fn brute(labels: &LabelImage, reach: i64) -> Vec<u8> {
        let (w, h) = (i64::from(labels.size.width), i64::from(labels.size.height));
        let at =
            |x: i64, y: i64| (x >= 0 && y >= 0 && x < w && y < h).then(|| labels.data[(y * w + x) as usize]);
        let touches = |x: i64, y: i64| {
            let near = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)];
            at(x, y).is_some() && near.into_iter().filter_map(|(x, y)| at(x, y)).any(|v| Some(v) != at(x, y))
        };
        let inside = |x: i64, y: i64| {
            let grow = reach - 1;
            (y - grow..=y + grow).any(|y| (x - grow..=x + grow).any(|x| touches(x, y)))
        };
        (0..h).flat_map(|y| (0..w).map(move |x| (x, y))).map(|(x, y)| u8::from(inside(x, y))).collect()
    }

    #[test]
    fn an_upright_edge_has_eight_pixels_on_each_side() {
        let row: Vec<u8> = (0..40).map(|x| if x < 20 { 1 } else { 255 }).collect();
        let labels = LabelImage { size: Size::new(40, 3), data: row.repeat(3) };
        let band = BoundaryBand::new(BAND_PX).of(&labels).to_vec();
        let expected: Vec<u8> = (0..40).map(|x| u8::from((12..28).contains(&x))).collect();
        assert_eq!(band, expected.repeat(3));
    }

    #[test]
    fn flat_empty_and_single_pixel_images_have_no_band() {
        for size in [Size::new(9, 4), Size::new(1, 1), Size::new(0, 5), Size::new(5, 0)] {
            let labels = LabelImage { size, data: vec![3; size.pixels()] };
            assert_eq!(BoundaryBand::new(8).of(&labels), vec![0; size.pixels()]);
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition_on_any_image(
            (width, height, data) in (1u32..30, 1u32..30).prop_flat_map(|(w, h)| {
                // Few values and mostly one of them, so that some pixels stay outside the band.
                let value = prop_oneof![12 => Just(2u8), 1 => Just(7u8), 1 => Just(255u8)];
                (Just(w), Just(h), prop::collection::vec(value, (w * h) as usize))
            }),
            reach in 1usize..10,
        ) {
            let labels = LabelImage { size: Size::new(width, height), data };
            let mut band = BoundaryBand::new(reach);
            // Buffers of another image must not show through.
            band.of(&LabelImage { size: Size::new(31, 2), data: (0..62).collect() });
            prop_assert_eq!(band.of(&labels), brute(&labels, reach as i64));
        }
    }
}
