//! Every pixel format into packed RGB8.
//!
//! Integer arithmetic only, so that a CUDA twin gives the same bytes:
//!
//! - YUV is ITU-R BT.601, limited range, in 8-bit fixed point. With `c = 298 (Y - 16)`, `d = U - 128`, `e = V - 128`:
//!   `R = (c + 409 e + 128) >> 8`, `G = (c - 100 d - 208 e + 128) >> 8`, `B = (c + 516 d + 128) >> 8`, each clamped to
//!   `0..=255`; the shift rounds down. Chroma is not interpolated: a pair of pixels (2x2 in NV12) shares U and V.
//! - Bayer is bilinear: a missing colour is the mean of its nearest neighbours, `(a + b + 1) >> 1` of two and
//!   `(a + b + c + d + 2) >> 2` of four. Beyond the border the image is mirrored about its outermost row and column
//!   (row -1 is row 1), which keeps the pattern's phase.
//!
//! Rows are split into blocks; each block becomes three planes on the stack, where the arithmetic vectorises, and is
//! then interleaved.

use rayon::prelude::*;

use super::simd::{Kernel, run_widest};
use crate::types::{Frame, PixelFormat};

/// Pixels per block; even, so that no pair is split.
const BLOCK: usize = 128;

/// The R, G and B of a block of pixels.
type Planes = [[u8; BLOCK]; 3];

/// Converts a frame that has passed [`Frame::check`] into `rgb`, `width * height * 3` bytes.
pub fn to_rgb8(frame: &Frame<'_>, rgb: &mut [u8]) {
    assert_eq!(rgb.len(), frame.size.pixels() * 3, "rgb holds one image of {}", frame.size);
    let rows = rgb.par_chunks_mut(frame.size.width as usize * 3).enumerate().with_min_len(16);
    rows.for_each(|(row, out)| run_widest(Row { frame, row, out }));
}

/// One row of the image.
struct Row<'a> {
    frame: &'a Frame<'a>,
    row: usize,
    out: &'a mut [u8],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { frame, row, out } = self;
        let height = frame.size.height as usize;
        let bytes = frame.format.row_bytes(frame.size.width);
        let row_of = |row: usize| &frame.data[row * frame.step..][..bytes];
        let source = row_of(row);
        match frame.format {
            PixelFormat::Rgb8 => out.copy_from_slice(source),
            PixelFormat::Bgr8 => repack::<3>(source, out, [2, 1, 0]),
            PixelFormat::Rgba8 => repack::<4>(source, out, [0, 1, 2]),
            PixelFormat::Bgra8 => repack::<4>(source, out, [2, 1, 0]),
            PixelFormat::Mono8 => repack::<1>(source, out, [0, 0, 0]),
            PixelFormat::Uyvy => yuv_422(source, out, [1, 3, 0, 2]),
            PixelFormat::Yuyv => yuv_422(source, out, [0, 2, 1, 3]),
            PixelFormat::Nv12 => nv12(source, row_of(height + row / 2), out),
            PixelFormat::BayerRggb8
            | PixelFormat::BayerBggr8
            | PixelFormat::BayerGbrg8
            | PixelFormat::BayerGrbg8 => {
                let [above, below] = [mirror(row as isize - 1, height), mirror(row as isize + 1, height)];
                bayer([row_of(above), source, row_of(below)], out, pattern(frame.format, row));
            }
        }
    }
}

#[inline(always)]
fn repack<const N: usize>(source: &[u8], out: &mut [u8], order: [usize; 3]) {
    let (pixels, _) = source.as_chunks::<N>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (out, pixel) in out.iter_mut().zip(pixels) {
        *out = order.map(|channel| pixel[channel]);
    }
}

#[inline(always)]
fn interleave(planes: &Planes, out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<3>();
    for (pixel, out) in out.iter_mut().enumerate() {
        *out = [planes[0][pixel], planes[1][pixel], planes[2][pixel]];
    }
}

/// Four bytes for two pixels; `order` says where Y0, Y1, U, V are.
#[inline(always)]
fn yuv_422(source: &[u8], out: &mut [u8], order: [usize; 4]) {
    let (mut luma, mut blue, mut red) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
    for (source, out) in source.chunks(BLOCK * 2).zip(out.chunks_mut(BLOCK * 3)) {
        let (pairs, _) = source.as_chunks::<4>();
        for (pair, bytes) in pairs.iter().enumerate() {
            let [y0, y1, u, v] = order.map(|byte| bytes[byte]);
            luma[pair * 2..][..2].copy_from_slice(&[y0, y1]);
            blue[pair * 2..][..2].fill(u);
            red[pair * 2..][..2].fill(v);
        }
        interleave(&yuv_to_rgb(&luma, &blue, &red), out);
    }
}

#[inline(always)]
fn nv12(luma_row: &[u8], chroma_row: &[u8], out: &mut [u8]) {
    let (mut luma, mut blue, mut red) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
    let blocks = luma_row.chunks(BLOCK).zip(chroma_row.chunks(BLOCK)).zip(out.chunks_mut(BLOCK * 3));
    for ((luma_part, chroma_part), out) in blocks {
        luma[..luma_part.len()].copy_from_slice(luma_part);
        let (pairs, _) = chroma_part.as_chunks::<2>();
        for (pair, &[u, v]) in pairs.iter().enumerate() {
            blue[pair * 2..][..2].fill(u);
            red[pair * 2..][..2].fill(v);
        }
        interleave(&yuv_to_rgb(&luma, &blue, &red), out);
    }
}

#[inline(always)]
fn yuv_to_rgb(luma: &[u8; BLOCK], blue: &[u8; BLOCK], red: &[u8; BLOCK]) -> Planes {
    let mut planes = [[0; BLOCK]; 3];
    let [r, g, b] = &mut planes;
    for pixel in 0..BLOCK {
        let c = 298 * (i32::from(luma[pixel]) - 16) + 128;
        let d = i32::from(blue[pixel]) - 128;
        let e = i32::from(red[pixel]) - 128;
        r[pixel] = ((c + 409 * e) >> 8).clamp(0, 255) as u8;
        g[pixel] = ((c - 100 * d - 208 * e) >> 8).clamp(0, 255) as u8;
        b[pixel] = ((c + 516 * d) >> 8).clamp(0, 255) as u8;
    }
    planes
}

/// The index of a row or column at most one beyond either end.
fn mirror(index: isize, length: usize) -> usize {
    let last = length as isize - 1;
    (if index > last { 2 * last - index } else { index.abs() }) as usize
}

/// The colour beside green in a row of a Bayer image.
#[derive(Clone, Copy)]
struct RowPattern {
    /// Plane of that colour: 0 is red, 2 is blue.
    colour: usize,
    /// Column parity of its pixels.
    parity: usize,
}

fn pattern(format: PixelFormat, row: usize) -> RowPattern {
    // Where red is in the 2x2 tile; blue is diagonally opposite.
    let (red_row, red_column) = match format {
        PixelFormat::BayerGrbg8 => (0, 1),
        PixelFormat::BayerGbrg8 => (1, 0),
        PixelFormat::BayerBggr8 => (1, 1),
        _ => (0, 0),
    };
    if row % 2 == red_row {
        RowPattern { colour: 0, parity: red_column }
    } else {
        RowPattern { colour: 2, parity: 1 - red_column }
    }
}

/// One output row from the row above, the row itself and the row below.
#[inline(always)]
fn bayer(rows: [&[u8]; 3], out: &mut [u8], pattern: RowPattern) {
    let width = rows[1].len();
    let (mut own, mut green, mut other) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
    // All bits set where the colour itself was measured. Blocks start at even columns.
    let mut on_colour = [0_u16; BLOCK];
    on_colour.iter_mut().skip(pattern.parity).step_by(2).for_each(|mask| *mask = u16::MAX);
    for (block, out) in out.chunks_mut(BLOCK * 3).enumerate() {
        let start = block * BLOCK;
        let count = out.len() / 3;
        // The block with one column on either side.
        let windows = rows.map(|row| {
            let mut window = [0_u16; BLOCK + 2];
            for (value, &byte) in window[1..].iter_mut().zip(&row[start..start + count]) {
                *value = u16::from(byte);
            }
            window[0] = u16::from(row[mirror(start as isize - 1, width)]);
            window[count + 1] = u16::from(row[mirror((start + count) as isize, width)]);
            window
        });
        let [above, here, below] = &windows;
        for pixel in 0..BLOCK {
            let (left, middle, right) = (pixel, pixel + 1, pixel + 2);
            let beside = here[left] + here[right];
            let over = above[middle] + below[middle];
            let corners = above[left] + above[right] + below[left] + below[right];
            let mask = on_colour[pixel];
            let choose = |on: u16, off: u16| ((on & mask) | (off & !mask)) as u8;
            own[pixel] = choose(here[middle], (beside + 1) >> 1);
            green[pixel] = choose((beside + over + 2) >> 2, here[middle]);
            other[pixel] = choose((corners + 2) >> 2, (over + 1) >> 1);
        }
        let planes = if pattern.colour == 0 { [own, green, other] } else { [other, green, own] };
        interleave(&planes, out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::simd::tests::plainly;
    use super::*;
    use crate::types::{CameraId, Size, Stamp};

    fn frame(size: Size, format: PixelFormat, step: usize, data: &[u8]) -> Frame<'_> {
        let frame = Frame { camera: CameraId(0), stamp: Stamp::default(), size, format, step, data };
        frame.check().expect("the test's frame is sound");
        frame
    }

    fn convert(frame: &Frame<'_>) -> Vec<u8> {
        let mut rgb = vec![0xAA; frame.size.pixels() * 3];
        to_rgb8(frame, &mut rgb);
        rgb
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x1234_5678_u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    }

    fn yuv_pixel(y: u8, u: u8, v: u8) -> [u8; 3] {
        let (c, d, e) = (i64::from(y) - 16, i64::from(u) - 128, i64::from(v) - 128);
        let level = |x: i64| (x + 128).div_euclid(256).clamp(0, 255) as u8;
        [level(298 * c + 409 * e), level(298 * c - 100 * d - 208 * e), level(298 * c + 516 * d)]
    }

    /// One pixel at a time, straight from the description of each format.
    fn reference(frame: &Frame<'_>, row: usize, column: usize) -> [u8; 3] {
        use PixelFormat as F;
        let at = |row: usize, byte: usize| frame.data[row * frame.step + byte];
        let even = column / 2 * 2;
        match frame.format {
            F::Rgb8 => [0, 1, 2].map(|i| at(row, column * 3 + i)),
            F::Bgr8 => [2, 1, 0].map(|i| at(row, column * 3 + i)),
            F::Rgba8 => [0, 1, 2].map(|i| at(row, column * 4 + i)),
            F::Bgra8 => [2, 1, 0].map(|i| at(row, column * 4 + i)),
            F::Mono8 => [at(row, column); 3],
            F::Uyvy => yuv_pixel(at(row, column * 2 + 1), at(row, even * 2), at(row, even * 2 + 2)),
            F::Yuyv => yuv_pixel(at(row, column * 2), at(row, even * 2 + 1), at(row, even * 2 + 3)),
            F::Nv12 => {
                let chroma = frame.size.height as usize + row / 2;
                yuv_pixel(at(row, column), at(chroma, even), at(chroma, even + 1))
            }
            _ => [0, 1, 2].map(|colour| bayer_reference(frame, row as isize, column as isize, colour)),
        }
    }

    /// The mean of the pixels of a colour in the 3x3 around a position that are nearest to it.
    fn bayer_reference(frame: &Frame<'_>, row: isize, column: isize, colour: usize) -> u8 {
        let tile = match frame.format {
            PixelFormat::BayerRggb8 => [0, 1, 1, 2],
            PixelFormat::BayerBggr8 => [2, 1, 1, 0],
            PixelFormat::BayerGbrg8 => [1, 2, 0, 1],
            _ => [1, 0, 2, 1],
        };
        let colour_at = |r: isize, c: isize| tile[(r.rem_euclid(2) * 2 + c.rem_euclid(2)) as usize];
        let reflect = |i: isize, n: u32| {
            let n = n as isize;
            if i < 0 {
                -i
            } else if i >= n {
                2 * n - 2 - i
            } else {
                i
            }
        };
        for distance in 0..=2 {
            let mut values = Vec::new();
            for (dr, dc) in (-1..=1).flat_map(|dr| (-1..=1).map(move |dc| (dr, dc))) {
                let (dr, dc): (isize, isize) = (dr, dc);
                if dr.abs() + dc.abs() == distance && colour_at(row + dr, column + dc) == colour {
                    let r = reflect(row + dr, frame.size.height) as usize;
                    let c = reflect(column + dc, frame.size.width) as usize;
                    values.push(u32::from(frame.data[r * frame.step + c]));
                }
            }
            if !values.is_empty() {
                let count = values.len() as u32;
                return ((values.iter().sum::<u32>() + count / 2) / count) as u8;
            }
        }
        panic!("every 3x3 holds every colour");
    }

    /// Compares wide and plain loops with the description of the format, at every pixel.
    fn check(frame: &Frame<'_>) {
        let (wide, plain) = (convert(frame), plainly(|| convert(frame)));
        let pixels = wide.chunks_exact(3).zip(plain.chunks_exact(3)).enumerate();
        for (pixel, (wide, plain)) in pixels {
            let (row, column) = (pixel / frame.size.width as usize, pixel % frame.size.width as usize);
            let want = reference(frame, row, column);
            let place = (frame.format, frame.size, frame.step, row, column);
            assert_eq!(wide, want, "wide loops, {place:?}");
            assert_eq!(plain, want, "plain loops, {place:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn random_images_equal_their_description(
            format in prop::sample::select(PixelFormat::ALL.to_vec()),
            (width, height) in (1..=300_u32, 1..=9_u32),
            padding in 0..9_usize,
            bytes in prop::collection::vec(any::<u8>(), 4096),
        ) {
            let size = Size::new(width, height);
            let even = Size::new(width.next_multiple_of(2), height.next_multiple_of(2));
            let size = if format.fits(size) { size } else { even };
            let step = format.row_bytes(size.width) + padding;
            let data: Vec<u8> = bytes.iter().cycle().take(step * format.rows(size.height)).copied().collect();
            check(&frame(size, format, step, &data));
        }
    }

    #[test]
    fn every_format_equals_its_per_pixel_description_with_padded_rows() {
        for format in PixelFormat::ALL {
            let single = Size::new(1, 1);
            let sizes = [Size::new(2, 2), Size::new(6, 4), Size::new(130, 6), Size::new(300, 34), single];
            for size in sizes.into_iter().filter(|&size| format.fits(size)) {
                for padding in [0, 5] {
                    let step = format.row_bytes(size.width) + padding;
                    let data = noise(step * format.rows(size.height) - padding);
                    check(&frame(size, format, step, &data));
                }
            }
        }
    }

    #[test]
    fn odd_sizes_work_where_the_format_has_them() {
        let size = Size::new(131, 3);
        for format in PixelFormat::ALL.into_iter().filter(|format| format.fits(size)) {
            let step = format.row_bytes(size.width);
            let data = noise(step * 3);
            let frame = frame(size, format, step, &data);
            assert_eq!(convert(&frame)[131 * 3 * 2 + 130 * 3..], reference(&frame, 2, 130), "{format:?}");
        }
    }

    #[test]
    fn known_yuv_colours() {
        for (yuv, rgb) in [
            ([16, 128, 128], [0, 0, 0]),
            ([235, 128, 128], [255, 255, 255]),
            ([126, 128, 128], [128, 128, 128]),
            ([81, 90, 240], [255, 0, 0]),
            ([145, 54, 34], [0, 255, 1]),
            ([41, 240, 110], [0, 0, 255]),
            ([0, 0, 0], [0, 135, 0]),
            ([255, 255, 255], [255, 125, 255]),
        ] {
            let [y, u, v] = yuv;
            let size = Size::new(2, 2);
            let cases: [(PixelFormat, &[u8]); 3] = [
                (PixelFormat::Uyvy, &[u, y, v, y, u, y, v, y]),
                (PixelFormat::Yuyv, &[y, u, y, v, y, u, y, v]),
                (PixelFormat::Nv12, &[y, y, y, y, u, v]),
            ];
            for (format, data) in cases {
                let got = convert(&frame(size, format, format.row_bytes(2), data));
                assert_eq!(got, rgb.repeat(4), "{format:?} {yuv:?}");
            }
        }
    }

    #[test]
    fn a_bayer_image_of_one_colour_stays_that_colour() {
        let size = Size::new(140, 8);
        let colour = [200, 100, 31];
        let tiles = [
            (PixelFormat::BayerRggb8, [0, 1, 1, 2]),
            (PixelFormat::BayerBggr8, [2, 1, 1, 0]),
            (PixelFormat::BayerGbrg8, [1, 2, 0, 1]),
            (PixelFormat::BayerGrbg8, [1, 0, 2, 1]),
        ];
        for (format, tile) in tiles {
            let data: Vec<u8> =
                (0..size.pixels()).map(|i| colour[tile[i / 140 % 2 * 2 + i % 140 % 2]]).collect();
            assert_eq!(convert(&frame(size, format, 140, &data)), colour.repeat(size.pixels()), "{format:?}");
        }
    }

    #[test]
    fn bayer_rounding_and_mirroring_by_hand() {
        // R G R G / G B G B / R G R G / G B G B
        let data = [10, 20, 31, 41, 50, 60, 70, 80, 91, 100, 110, 120, 130, 140, 150, 160];
        let rgb = convert(&frame(Size::new(4, 4), PixelFormat::BayerRggb8, 4, &data));
        let pixel =
            |row: usize, column: usize| <[u8; 3]>::try_from(&rgb[(row * 4 + column) * 3..][..3]).unwrap();
        // Blue pixel: corners 10 31 91 110 (242 + 2) >> 2, cross 20 50 70 100 (240 + 2) >> 2.
        assert_eq!(pixel(1, 1), [61, 60, 60]);
        // Top left: green from 20 50 twice each by mirroring, blue from 60 four times.
        assert_eq!(pixel(0, 0), [10, 35, 60]);
        // Bottom right, a blue pixel: row 4 is row 2, column 4 is column 2.
        assert_eq!(pixel(3, 3), [110, 135, 160]);
        // Green in a red row: (10 + 31 + 1) >> 1; blue above is mirrored from below.
        assert_eq!(pixel(0, 1), [21, 20, 60]);
    }

    #[test]
    fn one_and_two_threads_agree() {
        let size = Size::new(258, 70);
        for format in PixelFormat::ALL {
            let step = format.row_bytes(size.width);
            let data = noise(step * format.rows(size.height));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| convert(&frame(size, format, step, &data)))
            };
            assert_eq!(run(1), run(2), "{format:?}");
        }
    }
}
