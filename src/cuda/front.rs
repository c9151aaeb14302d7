//! Pixels to the network's input, logits to the grid, and the selection: safe launches of `pixels.cu`, `select.cu`.
#![allow(unsafe_code, reason = "launches")]

use super::axis::overlap_units;
use super::error::CudaError;
use super::launch::{Args, BLOCK, Launcher};
use super::memory::Buffer;
use super::segmenter::{DeviceTensor, Element};
use crate::plan::Geometry;
use crate::types::{PixelFormat, Size};

/// Positions one block of the tie kernels takes, `TIES_BLOCK` of `select.cu`.
pub(super) const TIES_BLOCK: usize = 4 * BLOCK as usize;
/// Bins of the histogram.
pub(super) const BINS: usize = 1 << 16;
/// Number of counters, and where the sites of each level are counted; `common.cuh`.
pub(super) const COUNTERS: usize = 32;
pub(super) const SELECTED: usize = 0;
pub(super) const NON_FINITE: usize = 1;
pub(super) const NON_FINITE_CELLS: usize = 2;
pub(super) const TIES: usize = 3;
pub(super) const SITES: usize = 8;

/// Mean and deviation of three channels in the network's order, and whether that is B, G, R.
pub(super) struct DeviceNormalisation {
    pub(super) values: Buffer<f32>,
    pub(super) reversed: bool,
}

/// Logits on the selection grid as pixels see them: `CoarseLogits` of `common.cuh`.
pub(super) struct CoarseTables {
    /// Size of the grid.
    pub(super) grid: Size,
    pub(super) bilinear: bool,
    /// Lattice row of each camera row, and columns.
    pub(super) cells: [Buffer<u32>; 2],
    /// Interpolation of each camera row, and columns; one number where not bilinear.
    pub(super) taps: [Buffer<u32>; 2],
    /// First camera row of each lattice row, and columns.
    pub(super) starts: [Buffer<u32>; 2],
    pub(super) lattice: Size,
    pub(super) camera: Size,
}

/// Entropy, best channel and selection of each lattice position.
pub(super) struct LatticeBuffers {
    pub(super) entropy: Buffer<f32>,
    pub(super) labels: Buffer<u8>,
    pub(super) kept: Buffer<u8>,
}

/// Number of a format in `pixels.cu`: its place in [`PixelFormat::ALL`].
fn format_number(format: PixelFormat) -> usize {
    PixelFormat::ALL.iter().position(|&other| other == format).expect("ALL has every format")
}

impl Launcher<'_> {
    /// Rows of `pitch` bytes in any format into packed RGB.
    pub(super) fn to_rgb8(
        &self,
        raw: &Buffer<u8>,
        rgb: &mut Buffer<u8>,
        size: Size,
        pitch: usize,
        format: PixelFormat,
    ) -> Result<(), CudaError> {
        assert!(pitch >= format.row_bytes(size.width) && raw.len() >= pitch * format.rows(size.height));
        assert_eq!(rgb.len(), size.pixels() * 3);
        let mut args = Args::new();
        args.buffer(raw).buffer(rgb).number(size.width).number(size.height).number(pitch);
        args.number(format_number(format));
        // SAFETY: both images are as long as size, pitch and format need, checked above.
        unsafe { self.launch("to_rgb8", self.over(size.pixels()), &mut args) }
    }

    /// The network's input: area means of the camera image, normalised, planar.
    pub(super) fn area_resize(
        &self,
        rgb: &Buffer<u8>,
        out: &mut Buffer<u8>,
        tensor: DeviceTensor,
        geometry: &Geometry,
        normalisation: &DeviceNormalisation,
    ) -> Result<(), CudaError> {
        let Geometry { camera, canvas, grid } = *geometry;
        assert_eq!((rgb.len(), normalisation.values.len()), (camera.pixels() * 3, 6));
        assert!(out.len() >= grid.pixels() * 3 * tensor.element.bytes());
        let (cell_x, unit_x) = overlap_units(canvas.width, grid.width);
        let (cell_y, unit_y) = overlap_units(canvas.height, grid.height);
        let mut args = Args::new();
        args.buffer(rgb).buffer(out).number(camera.width).number(camera.height);
        args.number(grid.width)
            .number(grid.height)
            .number(cell_x)
            .number(unit_x)
            .number(cell_y)
            .number(unit_y);
        args.buffer(&normalisation.values).number(normalisation.reversed);
        let name = match tensor.element {
            Element::F32 => "area_resize",
            Element::F16 => "area_resize_f16",
        };
        // SAFETY: image, tensor and normalisation have the lengths checked above; cells read only the camera's pixels.
        unsafe { self.launch(name, self.over(grid.pixels()), &mut args) }
    }

    /// Half-precision logits as floats.
    pub(super) fn widen(
        &self,
        input: &Buffer<u8>,
        out: &mut Buffer<f32>,
        count: usize,
    ) -> Result<(), CudaError> {
        assert!(input.len() >= 2 * count && out.len() >= count);
        let mut args = Args::new();
        args.buffer(input).buffer(out).number(count);
        // SAFETY: both hold `count` numbers.
        unsafe { self.launch("widen", self.over(count), &mut args) }
    }

    /// `maps` planar maps stretched bilinearly; `input` is an address of that many floats.
    pub(super) fn upsample(
        &self,
        input: &LogitsAt,
        out: &mut Buffer<f32>,
        maps: usize,
        from: Size,
        to: Size,
        taps: &[Buffer<u32>; 2],
    ) -> Result<(), CudaError> {
        assert!(input.len >= maps * from.pixels() && out.len() >= maps * to.pixels());
        assert_eq!([taps[0].len(), taps[1].len()], [to.height, to.width].map(|n| 3 * n as usize));
        let mut args = Args::new();
        args.address(input.address).buffer(out).number(maps).number(from.width).number(from.height);
        args.number(to.width).number(to.height).buffer(&taps[0]).buffer(&taps[1]);
        // SAFETY: maps and tables have the lengths checked above; taps point into the maps by construction.
        unsafe { self.launch("upsample", self.over(maps * to.pixels()), &mut args) }
    }

    /// Entropy, best channel and selection of every lattice position.
    pub(super) fn evaluate_lattice(
        &self,
        logits: &LogitsAt,
        classes: usize,
        tables: &CoarseTables,
        settings: &Buffer<u32>,
        out: &mut LatticeBuffers,
        counters: &mut Buffer<u32>,
    ) -> Result<(), CudaError> {
        let plane = tables.grid.pixels();
        assert!(logits.len >= classes * plane && counters.len() >= COUNTERS && settings.len() >= 2);
        check_lattice(tables, out);
        if !tables.bilinear {
            assert_eq!(tables.lattice, tables.grid);
        }
        let mut args = Args::new();
        args.address(logits.address).number(plane).number(tables.grid.width).number(tables.bilinear);
        args.buffer(&tables.taps[0]).buffer(&tables.taps[1]).number(classes);
        args.number(tables.lattice.width).number(tables.lattice.height);
        args.buffer(&tables.starts[0]).buffer(&tables.starts[1]).buffer(settings);
        args.buffer(&out.entropy).buffer(&out.labels).buffer(&out.kept).buffer(counters);
        // SAFETY: logits cover the grid and outputs the lattice, checked above and in `check_lattice`.
        unsafe { self.launch("evaluate_lattice", self.over(tables.lattice.pixels()), &mut args)? };
        if tables.bilinear {
            let mut args = Args::new();
            args.address(logits.address).number(plane).number(classes).buffer(counters);
            // SAFETY: as above.
            unsafe { self.launch("count_non_finite_cells", self.over(plane), &mut args)? };
        }
        Ok(())
    }

    /// Where more pixels are selected than `settings[1]` allows: drops the lowest entropies, ties by higher index.
    pub(super) fn keep_within_capacity(
        &self,
        tables: &CoarseTables,
        lattice: &mut LatticeBuffers,
        settings: &Buffer<u32>,
        bins: &mut Buffer<u32>,
        block_sums: &mut Buffer<u32>,
        counters: &mut Buffer<u32>,
    ) -> Result<(), CudaError> {
        check_lattice(tables, lattice);
        let positions = tables.lattice.pixels();
        let blocks = positions.div_ceil(TIES_BLOCK);
        assert!(bins.len() >= BINS && counters.len() >= COUNTERS && settings.len() >= 2);
        assert!(block_sums.len() >= blocks);
        let counted = counters.address();
        let describe = |args: &mut Args| {
            args.buffer(&lattice.entropy).buffer(&lattice.kept);
            args.number(tables.lattice.width).number(tables.lattice.height);
            args.buffer(&tables.starts[0]).buffer(&tables.starts[1]).buffer(settings).address(counted);
        };
        for low in [false, true] {
            self.fill(bins, BINS, 0)?;
            let mut args = Args::new();
            describe(&mut args);
            args.number(low).buffer(bins);
            // SAFETY: lattice and tables checked above; keys are 16 bits and there are as many bins.
            unsafe { self.launch("histogram", self.over(positions), &mut args)? };
            let mut args = Args::new();
            args.buffer(bins).buffer(settings).buffer(counters).number(low);
            // SAFETY: one block over all bins.
            unsafe { self.launch("find_bucket", self.exactly(1), &mut args)? };
        }
        let mut args = Args::new();
        describe(&mut args);
        args.buffer(block_sums);
        // SAFETY: one number per block, checked above.
        unsafe { self.launch("count_ties", self.exactly(blocks), &mut args)? };
        self.scan_blocks(block_sums, blocks, counters, TIES)?;
        let mut args = Args::new();
        describe(&mut args);
        args.buffer(block_sums);
        // SAFETY: the same positions and blocks.
        unsafe { self.launch("keep_highest", self.exactly(blocks), &mut args) }
    }

    /// The first `count` numbers become the exclusive prefix sum of themselves, their sum the counter `slot`.
    pub(super) fn scan_blocks(
        &self,
        numbers: &mut Buffer<u32>,
        count: usize,
        counters: &mut Buffer<u32>,
        slot: usize,
    ) -> Result<(), CudaError> {
        assert!(numbers.len() >= count && counters.len() > slot);
        let mut args = Args::new();
        args.buffer(numbers).number(count).buffer(counters).number(slot);
        // SAFETY: within both, checked above.
        unsafe { self.launch("scan_blocks", self.exactly(1), &mut args) }
    }

    /// The base label of every camera pixel.
    pub(super) fn write_labels(
        &self,
        lattice: &LatticeBuffers,
        tables: &CoarseTables,
        label_of_channel: &Buffer<u8>,
        out: &mut Buffer<u8>,
    ) -> Result<(), CudaError> {
        check_lattice(tables, lattice);
        assert_eq!((out.len(), label_of_channel.len()), (tables.camera.pixels(), 256));
        let mut args = Args::new();
        args.buffer(&lattice.labels)
            .number(tables.lattice.width)
            .buffer(&tables.cells[0])
            .buffer(&tables.cells[1]);
        args.buffer(label_of_channel).buffer(out).number(tables.camera.width).number(tables.camera.height);
        // SAFETY: cells point into the lattice by construction, labels are bytes and the table has 256.
        unsafe { self.launch("write_labels", self.over(tables.camera.pixels()), &mut args) }
    }
}

/// Where logits are: an engine's output or a buffer of ours, and how many floats are there.
#[derive(Clone, Copy)]
pub(super) struct LogitsAt {
    pub(super) address: u64,
    pub(super) len: usize,
}

fn check_lattice(tables: &CoarseTables, lattice: &LatticeBuffers) {
    let positions = tables.lattice.pixels();
    assert_eq!(
        (lattice.entropy.len(), lattice.labels.len(), lattice.kept.len()),
        (positions, positions, positions)
    );
    let starts = [tables.lattice.height, tables.lattice.width].map(|n| n as usize + 1);
    assert_eq!([tables.starts[0].len(), tables.starts[1].len()], starts);
    let pixels = [tables.camera.height, tables.camera.width].map(|n| n as usize);
    assert_eq!([tables.cells[0].len(), tables.cells[1].len()], pixels);
    if tables.bilinear {
        assert_eq!([tables.taps[0].len(), tables.taps[1].len()], pixels.map(|n| 3 * n));
    }
}
