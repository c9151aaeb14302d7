//! The antialiased bilinear way to the network's input: tables of the triangle filter, and the safe launches over them.
//!
//! A filter as wide as two cells on 8-bit levels, down the columns, rounded to 8 bits, then along the rows, rounded again;
//! weights are 16-bit integers. These are the steps of the library behind `cpu::bilinear`, so the results have its bits.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::DeviceNormalisation;
use super::launch::{Args, Launcher};
use super::memory::Buffer;
use super::segmenter::{DeviceTensor, Element};
use super::weights::Uploader;
use crate::plan::Geometry;

/// What the outputs of one axis add up.
#[derive(Debug)]
struct Axis {
    /// Words of an output: its first pixel, how many there are, their weights.
    pitch: usize,
    /// Bits after the point of a weight.
    precision: u32,
    words: Vec<u32>,
}

impl Axis {
    fn new(pixels: u32, cells: u32) -> Self {
        let scale = f64::from(pixels) / f64::from(cells);
        let reach = scale.max(1.0);
        let outputs: Vec<(u32, Vec<f64>)> =
            (0..cells).map(|cell| weights(cell, pixels, scale, reach)).collect();
        let largest = outputs.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
        // As many bits as the largest weight leaves in 15.
        let too_large =
            |bits: u32| (largest * f64::from(1u32 << (bits + 1))).round() >= f64::from(1u32 << 15);
        let precision = (0..22).find(|&bits| too_large(bits)).unwrap_or(21);
        let pitch = 2 + outputs.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let mut words = Vec::with_capacity(pitch * outputs.len());
        for (first, weights) in &outputs {
            words.extend([*first, weights.len() as u32]);
            words.extend(weights.iter().map(|weight| (weight * f64::from(1u32 << precision)).round() as u32));
            words.resize(words.len().next_multiple_of(pitch), 0);
        }
        Self { pitch, precision, words }
    }
}

/// First pixel and weights of a cell. The operations are in the library's order: their last bits decide roundings.
fn weights(cell: u32, pixels: u32, scale: f64, reach: f64) -> (u32, Vec<f64>) {
    let centre = (f64::from(cell) + 0.5) * scale;
    let first = (centre - reach).floor().max(0.0) as u32;
    let end = (centre + reach).ceil().min(f64::from(pixels)) as u32;
    let triangle = |pixel: u32| (1.0 - ((f64::from(pixel) - (centre - 0.5)) * (1.0 / reach)).abs()).max(0.0);
    let mut weights: Vec<f64> = (first..end).map(triangle).collect();
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    (first, weights)
}

/// An axis on the device.
pub(super) struct AxisTable {
    words: Buffer<u32>,
    pitch: usize,
    precision: u32,
    cells: usize,
}

impl AxisTable {
    fn new(uploader: &mut Uploader<'_>, pixels: u32, cells: u32) -> Result<Self, CudaError> {
        let Axis { pitch, precision, words } = Axis::new(pixels, cells);
        Ok(Self { words: uploader.put("tables", &words)?, pitch, precision, cells: cells as usize })
    }
}

/// Both axes, and the image between the passes: the camera's width, the grid's height.
pub(super) struct Triangle {
    rows: AxisTable,
    columns: AxisTable,
    between: Buffer<u8>,
}

impl Triangle {
    pub(super) fn new(uploader: &mut Uploader<'_>, geometry: &Geometry) -> Result<Self, CudaError> {
        let Geometry { camera, canvas, grid } = *geometry;
        assert_eq!(camera, canvas, "a bundle that pads its images has no bilinear resize");
        Ok(Self {
            rows: AxisTable::new(uploader, camera.height, grid.height)?,
            columns: AxisTable::new(uploader, camera.width, grid.width)?,
            between: uploader
                .allocator
                .buffer("camera image", camera.width as usize * grid.height as usize * 3)?,
        })
    }
}

impl Launcher<'_> {
    /// The network's input: the camera image through the triangle filter, normalised, planar.
    pub(super) fn bilinear_resize(
        &self,
        rgb: &Buffer<u8>,
        out: &mut Buffer<u8>,
        tensor: DeviceTensor,
        geometry: &Geometry,
        normalisation: &DeviceNormalisation,
        triangle: &mut Triangle,
    ) -> Result<(), CudaError> {
        let Geometry { camera, grid, .. } = *geometry;
        let Triangle { rows, columns, between } = triangle;
        assert_eq!((rgb.len(), normalisation.values.len()), (camera.pixels() * 3, 6));
        assert_eq!((rows.cells, columns.cells), (grid.height as usize, grid.width as usize));
        assert_eq!(rows.words.len(), rows.pitch * rows.cells);
        assert_eq!(columns.words.len(), columns.pitch * columns.cells);
        assert_eq!(between.len(), camera.width as usize * rows.cells * 3);
        assert!(out.len() >= grid.pixels() * 3 * tensor.element.bytes());
        let mut args = Args::new();
        args.buffer(rgb).buffer(between).number(camera.width * 3).number(grid.height);
        args.buffer(&rows.words).number(rows.pitch).number(rows.precision);
        // SAFETY: images and table have the lengths checked above; the table names rows of the camera.
        unsafe { self.launch("filter_rows", self.over(between.len()), &mut args)? };
        let mut args = Args::new();
        args.buffer(between).number(camera.width).number(grid.width).number(grid.height);
        args.buffer(&columns.words).number(columns.pitch).number(columns.precision);
        args.buffer(&normalisation.values).number(normalisation.reversed);
        let address = out.address();
        let halves = tensor.element == Element::F16;
        args.address(if halves { 0 } else { address }).address(if halves { address } else { 0 });
        // SAFETY: as above for the columns; the tensor holds three planes of the grid.
        unsafe { self.launch("filter_columns", self.over(grid.pixels()), &mut args) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::ChannelOrder;
    use crate::cpu::bilinear::BilinearResize;
    use crate::plan::Normalisation;
    use crate::types::Size;

    /// What the kernels do with a table, of three channels.
    fn filtered(axis: &Axis, at: impl Fn(usize, usize) -> u8) -> Vec<[u8; 3]> {
        let cell = |words: &[u32]| {
            let (first, count) = (words[0] as usize, words[1] as usize);
            [0, 1, 2].map(|channel| {
                let product = |k: usize| i32::from(at(first + k, channel)) * words[2 + k] as i32;
                let sum: i32 = (0..count).map(product).sum::<i32>() + (1 << (axis.precision - 1));
                (sum >> axis.precision).clamp(0, 255) as u8
            })
        };
        axis.words.chunks(axis.pitch).map(cell).collect()
    }

    #[test]
    fn the_tables_give_the_bits_of_the_cpu() {
        for (camera, grid) in [
            (Size::new(37, 29), Size::new(16, 8)),
            (Size::new(37, 29), Size::new(37, 29)),
            (Size::new(64, 48), Size::new(50, 64)),
            (Size::new(384, 216), Size::new(96, 54)),
            (Size::new(131, 77), Size::new(64, 32)),
        ] {
            let rgb: Vec<u8> = (0..camera.pixels() * 3).map(|i| (i * 7919 % 251) as u8).collect();
            let (width, height) = (camera.width as usize, camera.height as usize);
            let rows = Axis::new(camera.height, grid.height);
            let columns = Axis::new(camera.width, grid.width);
            let down: Vec<Vec<[u8; 3]>> = (0..width)
                .map(|column| filtered(&rows, |row, channel| rgb[(row * width + column) * 3 + channel]))
                .collect();
            assert!(down.iter().all(|column| column.len() == grid.height as usize) && height > 0);

            let plain = Normalisation { order: ChannelOrder::Rgb, mean: [0.0; 3], std: [1.0; 3] };
            let mut expected = vec![f32::NAN; 3 * grid.pixels()];
            BilinearResize::new(&Geometry::stretch(camera, grid), plain).run(&rgb, &mut expected);
            let row_of = |row: usize| filtered(&columns, |column, channel| down[column][row][channel]);
            for (row, across) in (0..grid.height as usize).map(|row| (row, row_of(row))) {
                for (column, levels) in across.iter().enumerate() {
                    for (channel, &level) in levels.iter().enumerate() {
                        let cell = channel * grid.pixels() + row * grid.width as usize + column;
                        assert_eq!(f32::from(level), expected[cell], "{camera} {grid} {row} {column}");
                    }
                }
            }
        }
    }
}
