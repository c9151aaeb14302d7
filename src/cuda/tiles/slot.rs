//! Everything one frame in flight owns: a stream, events, device and page-locked memory, the columns' state.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream};

use super::column::Column;
use super::launch::RECORD;
use crate::cuda::axis::taps;
use crate::cuda::device::Device;
use crate::cuda::error::CudaError;
use crate::cuda::image::CameraImage;
use crate::cuda::launch::Launcher;
use crate::cuda::memory::{Allocator, Buffer, Number, Pinned};
use crate::cuda::precision::Precision;
use crate::cuda::timeline::{Timeline, new_event};
use crate::cuda::weights::Uploader;
use crate::plan::{Geometry, Plan};
use crate::tiles::{Layout, Rect, TileSelection, launches, map_shape};
use crate::types::{FrameError, FrameReport, Size};

/// What a slot's memory depends on.
pub(super) struct TileSpec<'a> {
    pub(super) plan: &'a Plan,
    pub(super) geometry: Geometry,
    pub(super) layout: Layout,
}

/// What the fine column is run on, at most.
struct Work {
    /// Tiles that are kept.
    tiles: usize,
    /// Windows of one run.
    batch: usize,
    /// Whether the whole canvas may be less work than so many windows.
    whole: bool,
}

impl<'a> TileSpec<'a> {
    pub(super) fn new(plan: &'a Plan, camera: Size) -> Result<Self, FrameError> {
        Ok(Self { plan, geometry: plan.geometry(camera)?, layout: Layout::of(plan, camera)? })
    }

    pub(super) fn classes(&self) -> usize {
        self.plan.classes.len()
    }

    /// Maps of scores of each column, the classes first.
    pub(super) fn channels(&self) -> usize {
        self.plan.segmenter.tensors.channels
    }

    /// Maps of features that go from the coarse column to the fine one.
    pub(super) fn feature_channels(&self) -> usize {
        let columns = self.plan.columns.as_ref();
        columns.and_then(|columns| columns.features.as_ref()).map_or(0, |(_, channels)| *channels)
    }

    fn work(&self) -> Work {
        let (layout, fine) = (&self.layout, self.plan.columns.as_ref().and_then(|c| c.fine.as_ref()));
        let Some(fine) = fine else { return Work { tiles: 0, batch: 0, whole: false } };
        let mut pixels: Vec<u32> =
            (0..layout.tiles().pixels() as u32).map(|tile| layout.camera_pixels(tile)).collect();
        pixels.retain(|&pixels| pixels > 0);
        pixels.sort_unstable();
        let mut left = self.plan.capacity(layout.camera);
        let fits = |pixels: &&u32| {
            let rest = left.checked_sub(**pixels);
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let tiles = pixels.iter().take_while(fits).count();
        let whole = tiles > 0 && layout.whole_is_less_work(tiles);
        let windows = (0..=tiles).rev().find(|&tiles| !layout.whole_is_less_work(tiles)).unwrap_or(0);
        let batch = launches(windows, &fine.batch).map(|(_, size)| size).max().unwrap_or(0);
        Work { tiles, batch, whole }
    }

    /// Most numbers of a batch of windows with so many maps on a grid, or of the whole canvas.
    fn most(&self, channels: usize, unit: u32) -> usize {
        let work = self.work();
        let window = Rect { size: self.layout.window_size(), ..self.layout.whole() };
        let whole = if work.whole { self.layout.whole().on_grid(unit).size.pixels() } else { 0 };
        channels * whole.max(work.batch * window.on_grid(unit).size.pixels())
    }

    /// Most numbers of the coarse column's inputs and outputs.
    pub(super) fn coarse_lengths(&self) -> [Vec<usize>; 2] {
        let (cells, features) = (self.layout.cells.pixels(), self.feature_channels());
        let mut outputs = vec![self.channels() * cells, cells];
        if features > 0 {
            outputs.push(features * cells);
        }
        [vec![3 * self.plan.segmenter.tensors.size.pixels()], outputs]
    }

    /// The same for the fine column.
    pub(super) fn fine_lengths(&self) -> [Vec<usize>; 2] {
        let (layout, features) = (&self.layout, self.feature_channels());
        let mut inputs = vec![self.most(3, 1)];
        if features > 0 {
            inputs.push(self.most(features, layout.cell));
        }
        [inputs, vec![self.most(self.channels(), layout.stride)]]
    }

    /// Shapes of the fine column's inputs in every run that a frame may need.
    pub(super) fn fine_runs(&self) -> Vec<Vec<[usize; 4]>> {
        let (work, layout) = (self.work(), &self.layout);
        let sizes =
            self.plan.columns.as_ref().and_then(|c| c.fine.as_ref()).map_or(&[][..], |fine| &fine.batch);
        let windows =
            sizes.iter().filter(|&&size| size <= work.batch).map(|&size| (size, layout.window_size()));
        let runs = windows.chain(work.whole.then_some((1, layout.canvas)));
        runs.map(|(size, window)| fine_inputs(layout, self.feature_channels(), size, window)).collect()
    }
}

/// Shapes of what the fine column reads of so many windows: the image and, where there are some, the features.
pub(super) fn fine_inputs(layout: &Layout, features: usize, size: usize, window: Size) -> Vec<[usize; 4]> {
    let mut shapes = vec![map_shape(size, 3, window)];
    if features > 0 {
        shapes.push(map_shape(
            size,
            features,
            Rect { size: window, ..layout.whole() }.on_grid(layout.cell).size,
        ));
    }
    shapes
}

/// Memory of a slot, on the device and beside it.
pub(super) struct TileBuffers {
    pub(super) image: CameraImage,
    pub(super) input: Buffer<u8>,
    /// The coarse column's scores, weights and features.
    pub(super) coarse_scores: Buffer<f32>,
    pub(super) weights: Buffer<f32>,
    pub(super) pinned_weights: Pinned<f32>,
    pub(super) features: Buffer<f32>,
    /// The selection: weight of each cell in the fusion, records of the kept tiles.
    pub(super) gate: Buffer<f32>,
    pub(super) pinned_gate: Pinned<f32>,
    pub(super) tiles: Buffer<u32>,
    pub(super) pinned_tiles: Pinned<u32>,
    /// What goes into one run of the fine column, and what comes out.
    pub(super) windows: Buffer<f32>,
    pub(super) window_features: Buffer<f32>,
    pub(super) window_scores: Buffer<f32>,
    /// The fine column's scores on its grid; old where no tile of this frame lies.
    pub(super) fine_scores: Buffer<f32>,
    /// Upsampled coarse scores, then the fused ones.
    pub(super) scores: Buffer<f32>,
    /// Where rows and columns of positions lie on the cells, and those of camera pixels on the positions.
    pub(super) stretch: [Buffer<u32>; 2],
    pub(super) taps: [Buffer<u32>; 2],
    pub(super) tainted: Buffer<u32>,
    pub(super) pinned_tainted: Pinned<u32>,
    pub(super) labels: Buffer<u8>,
    pub(super) pinned_labels: Pinned<u8>,
    /// Coarse labels on their way out.
    pub(super) extra: Buffer<u8>,
}

impl TileBuffers {
    /// Allocates, or counts in a dry run. With a launcher the tables are filled.
    pub(super) fn new(
        allocator: &mut Allocator,
        launcher: Option<&Launcher<'_>>,
        spec: &TileSpec<'_>,
    ) -> Result<Self, CudaError> {
        let Layout { camera, canvas, cells, positions, .. } = spec.layout;
        let (classes, channels, features) = (spec.classes(), spec.channels(), spec.feature_channels());
        let work = spec.work();
        let mut uploader = Uploader { allocator, launcher, precision: Precision::Single };
        let mut table = |values: Vec<u32>| uploader.put("tables", &values);
        let stretch = [
            table(taps(positions.height, positions.height, cells.height))?,
            table(taps(positions.width, positions.width, cells.width))?,
        ];
        let taps = [
            table(taps(camera.height, canvas.height, positions.height))?,
            table(taps(camera.width, canvas.width, positions.width))?,
        ];
        let input = spec.plan.segmenter.tensors.size.pixels() * 3 * size_of::<f32>();
        let refined = |len: usize| if work.tiles > 0 { len } else { 0 };
        Ok(Self {
            image: CameraImage::new(allocator, camera)?,
            input: allocator.buffer("coarse column", input)?,
            coarse_scores: allocator.buffer("coarse column", channels * cells.pixels())?,
            weights: allocator.buffer("coarse column", cells.pixels())?,
            pinned_weights: allocator.pinned(cells.pixels(), false)?,
            features: allocator.buffer("coarse column", features * cells.pixels())?,
            gate: allocator.buffer("selection", cells.pixels())?,
            pinned_gate: allocator.pinned(cells.pixels(), true)?,
            tiles: allocator.buffer("selection", work.tiles * RECORD)?,
            pinned_tiles: allocator.pinned(work.tiles * RECORD, true)?,
            windows: allocator.buffer("windows of the fine column", spec.most(3, 1))?,
            window_features: allocator
                .buffer("windows of the fine column", spec.most(features, spec.layout.cell))?,
            window_scores: allocator
                .buffer("windows of the fine column", work.batch * spec.window_scores())?,
            fine_scores: allocator.buffer("scores", refined(channels * positions.pixels()))?,
            scores: allocator.buffer("scores", classes * positions.pixels())?,
            stretch,
            taps,
            tainted: allocator.buffer("selection", 1)?,
            pinned_tainted: allocator.pinned(1, false)?,
            labels: allocator.buffer("labels", camera.pixels())?,
            pinned_labels: allocator.pinned(camera.pixels(), false)?,
            extra: allocator.buffer("labels", camera.pixels())?,
        })
    }
}

impl TileSpec<'_> {
    /// Numbers of one window's scores.
    fn window_scores(&self) -> usize {
        let window = Rect { size: self.layout.window_size(), ..self.layout.whole() };
        self.channels() * window.on_grid(self.layout.stride).size.pixels()
    }
}

/// One frame in flight.
pub struct CudaTileSlot {
    // Dropped first: memory is freed before the stream that used it goes.
    pub(super) buffers: TileBuffers,
    /// Made when coarse labels are first asked for.
    pub(super) pinned_coarse: Option<Pinned<u8>>,
    pub(super) coarse: Box<dyn Column>,
    pub(super) fine: Option<Box<dyn Column>>,
    pub(super) geometry: Geometry,
    pub(super) layout: Layout,
    /// Most pixels that the slot's memory allows to refine.
    pub(super) capacity: u32,
    pub(super) selection: TileSelection,
    pub(super) timeline: Timeline,
    /// The weight map is on the host.
    pub(super) weights_read: CudaEvent,
    /// Whether work was enqueued that nobody has waited for.
    pub(super) in_flight: bool,
    pub(super) report: FrameReport,
    pub(super) stream: Arc<CudaStream>,
}

impl CudaTileSlot {
    pub(super) fn new(
        device: &Device,
        stream: Arc<CudaStream>,
        buffers: TileBuffers,
        columns: (Box<dyn Column>, Option<Box<dyn Column>>),
        spec: &TileSpec<'_>,
    ) -> Result<Self, CudaError> {
        let (coarse, fine) = columns;
        Ok(Self {
            buffers,
            pinned_coarse: None,
            coarse,
            fine,
            geometry: spec.geometry,
            layout: spec.layout,
            capacity: spec.plan.capacity(spec.layout.camera),
            selection: TileSelection::default(),
            timeline: Timeline::new(device)?,
            weights_read: new_event(device)?,
            in_flight: false,
            report: FrameReport::default(),
            stream,
        })
    }
}

/// Writes numbers at the start of page-locked memory; how many.
pub(super) fn put<T: Number>(to: &mut Pinned<T>, from: &[T]) -> usize {
    to.as_mut_slice()[..from.len()].copy_from_slice(from);
    from.len()
}
