//! Pixels of the report's pictures: label colours, entropy, what refinement changed; shrinking, cropping, encoding.

use base64::Engine;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;

use super::panels::{EntropyGrid, Panel};
use crate::types::{ClassInfo, LabelImage, Size, UNLABELLED};

/// Colour of what has no class.
pub(super) const UNLABELLED_RGB: [u8; 3] = [28, 30, 34];
/// Blue and orange are told apart by people with any common colour blindness; the grey between them is lighter.
pub(super) const FIXED_RGB: [u8; 3] = [40, 150, 255];
pub(super) const BROKEN_RGB: [u8; 3] = [255, 122, 26];
pub(super) const WRONG_RGB: [u8; 3] = [198, 198, 206];

/// Part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) size: Size,
}

impl Window {
    pub(super) fn whole(size: Size) -> Self {
        Self { x: 0, y: 0, size }
    }
}

/// RGB by label value.
pub(super) struct Palette([[u8; 3]; 256]);

impl Palette {
    pub(super) fn new(classes: &[ClassInfo]) -> Self {
        let mut colours = [UNLABELLED_RGB; 256];
        // Backwards, so that the first class of a label has the last word.
        for class in classes.iter().rev() {
            colours[usize::from(class.label)] = class.colour;
        }
        Self(colours)
    }

    pub(super) fn labels<'a>(&'a self, labels: &'a LabelImage) -> impl Fn(u32, u32) -> [u8; 3] + Sync + 'a {
        move |x, y| self.0[usize::from(labels.data[offset(labels.size, x, y)])]
    }
}

fn offset(size: Size, x: u32, y: u32) -> usize {
    y as usize * size.width as usize + x as usize
}

/// The camera image.
pub(super) fn camera(panel: &Panel) -> impl Fn(u32, u32) -> [u8; 3] + Sync + '_ {
    |x, y| {
        let at = 3 * offset(panel.size, x, y);
        [panel.rgb[at], panel.rgb[at + 1], panel.rgb[at + 2]]
    }
}

/// Entropy from black (0) to pale yellow (the maximum); grey where it is not a number.
pub(super) fn entropy(grid: &EntropyGrid) -> impl Fn(u32, u32) -> [u8; 3] + Sync + '_ {
    |x, y| {
        let cell = offset(grid.geometry.grid, grid.geometry.cell_column(x), grid.geometry.cell_row(y));
        heat(grid.values[cell] / grid.max)
    }
}

/// Dark to light, evenly in lightness, for a value of 0 to 1.
pub(super) fn heat(value: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [8.0, 8.0, 20.0],
        [84.0, 20.0, 109.0],
        [187.0, 55.0, 84.0],
        [249.0, 142.0, 9.0],
        [252.0, 250.0, 190.0],
    ];
    if !value.is_finite() {
        return [128; 3];
    }
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let low = (at as usize).min(STOPS.len() - 2);
    let t = at - low as f32;
    std::array::from_fn(|i| (STOPS[low][i] * (1.0 - t) + STOPS[low + 1][i] * t).round() as u8)
}

/// What refinement did to the coarse labels: with ground truth fixed, broken and still wrong; else what it changed.
/// Where nothing is to be said, the dimmed camera image.
pub(super) fn changes<'a>(
    panel: &'a Panel,
    coarse: &'a LabelImage,
    truth: Option<&'a LabelImage>,
) -> impl Fn(u32, u32) -> [u8; 3] + Sync + 'a {
    let camera = camera(panel);
    move |x, y| {
        let at = offset(panel.size, x, y);
        let (before, after) = (coarse.data[at], panel.refined.data[at]);
        match truth.map(|truth| truth.data[at]) {
            None if before != after => FIXED_RGB,
            Some(t) if t != UNLABELLED && t != after => {
                if t == before {
                    BROKEN_RGB
                } else {
                    WRONG_RGB
                }
            }
            Some(t) if t != UNLABELLED && t != before => FIXED_RGB,
            _ => {
                let [r, g, b] = camera(x, y).map(u32::from);
                [((r * 54 + g * 183 + b * 19) / 256 * 3 / 8) as u8; 3]
            }
        }
    }
}

/// The window of at most `size` that holds the most changed pixels (labelled ones, where there is ground truth), to
/// an eighth of its size; `None` where nothing changed.
pub(super) fn most_changed(
    coarse: &LabelImage,
    refined: &LabelImage,
    truth: Option<&LabelImage>,
    size: Size,
) -> Option<Window> {
    const STEPS: u32 = 8;
    let image = refined.size;
    let size = Size::new(size.width.min(image.width), size.height.min(image.height));
    let (dx, dy) = ((size.width / STEPS).max(1), (size.height / STEPS).max(1));
    let blocks = Size::new(image.width.div_ceil(dx), image.height.div_ceil(dy));
    let mut changed = vec![0u32; blocks.pixels()];
    for y in 0..image.height {
        for x in 0..image.width {
            let at = offset(image, x, y);
            let scored = truth.is_none_or(|truth| truth.data[at] != UNLABELLED);
            changed[offset(blocks, x / dx, y / dy)] +=
                u32::from(scored && coarse.data[at] != refined.data[at]);
        }
    }
    let count = |left: u32, top: u32| -> u32 {
        let rows = top..(top + size.height / dy).min(blocks.height);
        let columns = left..(left + size.width / dx).min(blocks.width);
        rows.map(|y| columns.clone().map(|x| changed[offset(blocks, x, y)]).sum::<u32>()).sum()
    };
    let places = (0..blocks.height).flat_map(|y| (0..blocks.width).map(move |x| (x, y)));
    // The first of equals, so that a report does not depend on anything but its input.
    let (most, x, y) =
        places.map(|(x, y)| (count(x, y), x, y)).max_by_key(|&(n, x, y)| (n, std::cmp::Reverse((y, x))))?;
    (most > 0).then(|| Window {
        x: (x * dx).min(image.width - size.width),
        y: (y * dy).min(image.height - size.height),
        size,
    })
}

/// A picture of a window, shrunk to at most `width` by the mean of the pixels under each of its own; never enlarged.
pub(super) fn draw(
    window: Window,
    width: u32,
    pixel: impl Fn(u32, u32) -> [u8; 3] + Sync,
) -> (Size, Vec<u8>) {
    let from = window.size;
    let width = width.min(from.width).max(1);
    let height = u64::from(from.height) * u64::from(width) / u64::from(from.width);
    // JPEG ends at 65535 rows; only an image many times as tall as wide loses its aspect here.
    let height = height.clamp(1, u64::from(u16::MAX)) as u32;
    let edge = |i: u32, count: u32, of: u32| (u64::from(i) * u64::from(of) / u64::from(count)) as u32;
    let mut rgb = vec![0u8; 3 * Size::new(width, height).pixels()];
    rgb.par_chunks_mut(3 * width as usize).enumerate().for_each(|(row, line)| {
        let row = row as u32;
        let rows = window.y + edge(row, height, from.height)..window.y + edge(row + 1, height, from.height);
        for (column, out) in line.chunks_mut(3).enumerate() {
            let column = column as u32;
            let columns =
                window.x + edge(column, width, from.width)..window.x + edge(column + 1, width, from.width);
            let mut sum = [0u32; 3];
            for y in rows.clone() {
                for x in columns.clone() {
                    pixel(x, y).into_iter().zip(&mut sum).for_each(|(value, sum)| *sum += u32::from(value));
                }
            }
            let count = (rows.len() * columns.len()) as u32;
            sum.into_iter().zip(out).for_each(|(sum, out)| *out = ((sum + count / 2) / count) as u8);
        }
    });
    (Size::new(width, height), rgb)
}

/// How a picture is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoding {
    /// Exact, for maps.
    Png,
    /// Small, for photographs.
    Jpeg,
}

/// A picture as the address that an `img` can show without a file.
pub(super) fn data_uri((size, rgb): &(Size, Vec<u8>), encoding: Encoding) -> String {
    let mut bytes = Vec::new();
    let (result, kind) = match encoding {
        Encoding::Png => {
            let encoder = PngEncoder::new(&mut bytes);
            (encoder.write_image(rgb, size.width, size.height, ExtendedColorType::Rgb8), "png")
        }
        Encoding::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut bytes, 88);
            (encoder.write_image(rgb, size.width, size.height, ExtendedColorType::Rgb8), "jpeg")
        }
    };
    result.expect("a picture of known size, at most 65535 pixels a side, goes into memory");
    format!("data:image/{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: Size, value: impl Fn(u32, u32) -> u8) -> LabelImage {
        let data = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
        LabelImage { size, data: data.map(|(x, y)| value(x, y)).collect() }
    }

    #[test]
    fn shrinking_takes_the_mean_of_the_pixels_below() {
        let window = Window { x: 2, y: 1, size: Size::new(4, 2) };
        let pixel = |x: u32, y: u32| [x as u8 * 10, y as u8 * 100, 7];
        assert_eq!(draw(window, 2, pixel), (Size::new(2, 1), vec![25, 150, 7, 45, 150, 7]));
        let (size, rgb) = draw(window, 960, pixel);
        assert_eq!((size, &rgb[..3]), (Size::new(4, 2), &[20, 100, 7][..]), "never enlarged");
        let tall = draw(Window::whole(Size::new(1, 70_000)), 3, |_, _| [9; 3]);
        assert!(data_uri(&tall, Encoding::Jpeg).len() > 100, "within what JPEG holds");
        assert_eq!(draw(Window::whole(Size::new(7, 5)), 3, |_, _| [9; 3]), (Size::new(3, 2), vec![9; 18]));
    }

    #[test]
    fn the_window_is_where_most_changed() {
        let size = Size::new(800, 600);
        let coarse = image(size, |_, _| 1);
        let blob = |x: u32, y: u32, left: u32, top: u32, side: u32| {
            (left..left + side).contains(&x) && (top..top + side).contains(&y)
        };
        let refined = image(size, |x, y| {
            if blob(x, y, 700, 500, 60) {
                2
            } else if blob(x, y, 50, 50, 40) {
                3
            } else {
                1
            }
        });
        let inside = |w: Window, x: u32, y: u32| {
            (w.x..w.x + w.size.width).contains(&x) && (w.y..w.y + w.size.height).contains(&y)
        };
        let crop = Size::new(160, 120);
        let window = most_changed(&coarse, &refined, None, crop).unwrap();
        assert_eq!(window.size, crop);
        assert!(inside(window, 700, 500) && inside(window, 759, 559), "{window:?}");
        let truth = image(size, |x, _| if x > 400 { UNLABELLED } else { 1 });
        let window = most_changed(&coarse, &refined, Some(&truth), crop).unwrap();
        assert!(
            inside(window, 50, 50) && inside(window, 89, 89),
            "what is not scored does not count: {window:?}"
        );
        assert_eq!(most_changed(&coarse, &coarse, None, crop), None);
        let tiny = image(Size::new(3, 2), |x, _| x as u8);
        let whole = most_changed(&image(tiny.size, |_, _| 0), &tiny, None, crop);
        assert_eq!(whole, Some(Window::whole(tiny.size)));
    }

    #[test]
    fn changes_tell_fixed_broken_and_wrong() {
        let size = Size::new(6, 1);
        let row = |data: [u8; 6]| LabelImage { size, data: data.to_vec() };
        let panel = Panel {
            title: String::new(),
            size,
            rgb: vec![255; 18],
            coarse: Some(row([0, 1, 0, 1, 1, 1])),
            refined: row([0, 0, 1, 1, 2, 0]),
            truth: Some(row([0, 0, 0, 0, 0, UNLABELLED])),
            entropy: None,
        };
        let coarse = panel.coarse.as_ref().unwrap();
        let dim = [95; 3];
        let with = changes(&panel, coarse, panel.truth.as_ref());
        let colours: Vec<_> = (0..6).map(|x| with(x, 0)).collect();
        assert_eq!(colours, [dim, FIXED_RGB, BROKEN_RGB, WRONG_RGB, WRONG_RGB, dim]);
        let without = changes(&panel, coarse, None);
        let colours: Vec<_> = (0..6).map(|x| without(x, 0)).collect();
        assert_eq!(colours, [dim, FIXED_RGB, FIXED_RGB, dim, FIXED_RGB, FIXED_RGB]);
    }

    #[test]
    fn heat_rises_in_lightness_and_marks_what_is_no_number() {
        let light = |v: f32| heat(v).into_iter().map(u32::from).sum::<u32>();
        assert!((0..20).all(|i| light(i as f32 / 20.0) < light((i + 1) as f32 / 20.0)));
        assert_eq!((heat(f32::NAN), heat(2.0)), ([128; 3], heat(1.0)));
    }

    #[test]
    fn pictures_survive_as_data_uris() {
        let picture = draw(Window::whole(Size::new(5, 4)), 5, |x, y| [x as u8, y as u8, 77]);
        let uri = data_uri(&picture, Encoding::Png);
        let bytes = uri.strip_prefix("data:image/png;base64,").unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().into_rgb8();
        assert_eq!((back.width(), back.height(), back.as_raw()), (5, 4, &picture.1));
        assert!(data_uri(&picture, Encoding::Jpeg).starts_with("data:image/jpeg;base64,/9j/"));
    }

    #[test]
    fn the_first_class_of_a_label_gives_its_colour() {
        let class = |colour, label| ClassInfo { name: String::new(), colour, label };
        let palette = Palette::new(&[class([1; 3], 4), class([2; 3], 4)]);
        let labels = LabelImage { size: Size::new(2, 1), data: vec![4, 9] };
        let pixel = palette.labels(&labels);
        assert_eq!([pixel(0, 0), pixel(1, 0)], [[1; 3], UNLABELLED_RGB]);
    }
}
