//! Safe launches of `tiles.cu`.
#![allow(unsafe_code, reason = "launches")]

use cudarc::driver::result;

use crate::cuda::error::{CudaError, During};
use crate::cuda::front::{DeviceNormalisation, LogitsAt};
use crate::cuda::launch::{Args, Launcher};
use crate::cuda::memory::Buffer;
use crate::tiles::{Layout, Rect};
use crate::types::Size;

/// Numbers of a tile's record, `TileAt` of `tiles.cu`.
pub(super) const RECORD: usize = 6;

/// Where a tile lies, as the kernels read it.
pub(super) fn record(window: Rect, core: Rect) -> [u32; RECORD] {
    [window.x, window.y, core.x, core.y, core.size.width, core.size.height]
}

/// The windows of one run of the fine column.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    /// Records of all kept tiles.
    pub(super) tiles: &'a Buffer<u32>,
    /// The first one of this run.
    pub(super) first: usize,
    /// How many there are.
    pub(super) count: usize,
    /// How many windows the run has, empty ones included.
    pub(super) size: usize,
    /// Pixels of each window.
    pub(super) window: Size,
}

impl Batch<'_> {
    fn address(&self) -> u64 {
        assert!(self.tiles.len() >= (self.first + self.count) * RECORD && self.size >= self.count);
        self.tiles.address() + (self.first * RECORD * size_of::<u32>()) as u64
    }

    /// Size of each window on a grid.
    pub(super) fn on_grid(&self, unit: u32) -> Size {
        Rect { x: 0, y: 0, size: self.window }.on_grid(unit).size
    }
}

impl Launcher<'_> {
    /// The windows of a batch as normalised planes.
    pub(super) fn gather_windows(
        &self,
        rgb: &Buffer<u8>,
        camera: Size,
        batch: &Batch<'_>,
        normalisation: &DeviceNormalisation,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let pixels = batch.size * batch.window.pixels();
        assert_eq!((rgb.len(), normalisation.values.len()), (camera.pixels() * 3, 6));
        assert!(out.len() >= 3 * pixels);
        let mut args = Args::new();
        args.buffer(rgb).number(camera.width).number(camera.height).address(batch.address());
        args.number(batch.count).number(batch.size).number(batch.window.width).number(batch.window.height);
        args.buffer(&normalisation.values).number(normalisation.reversed).buffer(out);
        // SAFETY: records, image and windows have the lengths checked above; the kernel reads the camera's pixels only.
        unsafe { self.launch("gather_windows", self.over(pixels), &mut args) }
    }

    /// The coarse column's features under the windows of a batch.
    pub(super) fn gather_features(
        &self,
        features: &Buffer<f32>,
        channels: usize,
        layout: &Layout,
        batch: &Batch<'_>,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let (cells, window) = (layout.cells, batch.on_grid(layout.cell));
        let values = batch.size * channels * window.pixels();
        assert!(features.len() >= channels * cells.pixels() && out.len() >= values);
        let mut args = Args::new();
        args.buffer(features).number(channels).number(cells.width).number(cells.height);
        args.address(batch.address()).number(batch.count).number(batch.size);
        args.number(window.width).number(window.height).number(layout.cell).buffer(out);
        // SAFETY: lengths are checked above; windows lie within the canvas (`Layout::window`), their cells in the grid.
        unsafe { self.launch("gather_features", self.over(values), &mut args) }
    }

    /// The scores of a batch onto the fine grid, where its tiles lie.
    pub(super) fn scatter_scores(
        &self,
        window_scores: &Buffer<f32>,
        [channels, classes]: [usize; 2],
        layout: &Layout,
        batch: &Batch<'_>,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let (grid, window) = (layout.positions, batch.on_grid(layout.stride));
        assert!(classes <= channels && window_scores.len() >= batch.size * channels * window.pixels());
        assert!(out.len() >= classes * grid.pixels());
        let mut args = Args::new();
        args.buffer(window_scores).number(channels).number(classes).address(batch.address());
        args.number(batch.count).number(window.width).number(window.height).number(layout.stride);
        args.buffer(out).number(grid.width).number(grid.height);
        let values = batch.count * classes * window.pixels();
        // SAFETY: lengths are checked above; windows lie within the canvas, so their positions in the grid.
        unsafe { self.launch("scatter_scores", self.over(values), &mut args) }
    }

    /// Mixes the fine column's scores into the upsampled coarse ones.
    pub(super) fn fuse_columns(
        &self,
        scores: &mut Buffer<f32>,
        fine: &Buffer<f32>,
        gate: &Buffer<f32>,
        classes: usize,
        layout: &Layout,
    ) -> Result<(), CudaError> {
        let (grid, cells) = (layout.positions, layout.cells);
        assert!(scores.len().min(fine.len()) >= classes * grid.pixels() && gate.len() >= cells.pixels());
        let mut args = Args::new();
        args.buffer(scores).buffer(fine).buffer(gate).number(classes).number(grid.width).number(grid.height);
        args.number(cells.width).number(layout.cell / layout.stride);
        // SAFETY: lengths are checked above; cells are whole positions and cover the canvas (`Layout::new`).
        unsafe { self.launch("fuse_columns", self.over(grid.pixels()), &mut args) }
    }

    /// The label of every camera pixel. `taps` say where its rows and columns lie on the grid of the scores.
    pub(super) fn label_pixels(
        &self,
        scores: &Buffer<f32>,
        classes: usize,
        layout: &Layout,
        taps: &[Buffer<u32>; 2],
        label_of_channel: &Buffer<u8>,
        out: &mut Buffer<u8>,
    ) -> Result<(), CudaError> {
        let (grid, camera) = (layout.positions, layout.camera);
        assert!(scores.len() >= classes * grid.pixels() && classes <= label_of_channel.len());
        assert_eq!([taps[0].len(), taps[1].len()], [camera.height, camera.width].map(|n| 3 * n as usize));
        assert_eq!(out.len(), camera.pixels());
        let mut args = Args::new();
        args.buffer(scores).number(classes).number(grid.width).number(grid.height);
        args.buffer(&taps[0]).buffer(&taps[1]).buffer(label_of_channel).buffer(out);
        args.number(camera.width).number(camera.height);
        // SAFETY: lengths are checked above; taps point into the grid by construction.
        unsafe { self.launch("label_pixels", self.over(camera.pixels()), &mut args) }
    }

    /// How many cells have a weight or a score that is not finite.
    pub(super) fn count_tainted_cells(
        &self,
        scores: &Buffer<f32>,
        weights: &Buffer<f32>,
        classes: usize,
        cells: Size,
        count: &mut Buffer<u32>,
    ) -> Result<(), CudaError> {
        let plane = cells.pixels();
        assert!(scores.len() >= classes * plane && weights.len() >= plane);
        self.fill(count, 1, 0)?;
        let mut args = Args::new();
        args.buffer(scores).buffer(weights).number(plane).number(classes).buffer(count);
        // SAFETY: lengths are checked above and in `fill`.
        unsafe { self.launch("count_tainted_cells", self.over(plane), &mut args) }
    }

    /// The coarse scores on the fine grid; the same bits where that is the coarse one.
    pub(super) fn stretch_scores(
        &self,
        coarse: &Buffer<f32>,
        out: &mut Buffer<f32>,
        classes: usize,
        layout: &Layout,
        taps: &[Buffer<u32>; 2],
    ) -> Result<(), CudaError> {
        let values = classes * layout.cells.pixels();
        assert!(coarse.len() >= values);
        if layout.cells != layout.positions {
            let coarse = LogitsAt { address: coarse.address(), len: values };
            return self.upsample(&coarse, out, classes, layout.cells, layout.positions, taps);
        }
        assert!(out.len() >= values);
        let bytes = values * size_of::<f32>();
        // SAFETY: within both buffers, checked above; the stream keeps order.
        unsafe { result::memcpy_dtod_async(out.address(), coarse.address(), bytes, self.stream.cu_stream()) }
            .during("copying scores")
    }
}
