//! Everything one frame in flight owns: a stream, events, device and page-locked memory. Made once per camera size.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::axis::{Lattice, taps};
use super::device::Device;
use super::error::CudaError;
use super::front::{BINS, COUNTERS, CoarseTables, LatticeBuffers, LogitsAt, TIES_BLOCK};
use super::graph::GraphState;
use super::image::CameraImage;
use super::launch::Launcher;
use super::levels::LevelBuffers;
use super::memory::{Allocator, Buffer, Pinned};
use super::network::{FeatureBuffers, NetworkBuffers};
use super::precision::Precision;
use super::segmenter::{DeviceSegmenter, DeviceTensor, Element};
use super::timeline::Timeline;
use super::triangle::Triangle;
use super::weights::Uploader;
use crate::bundle::manifest::{Resize, Upsample};
use crate::plan::{Geometry, Plan};
use crate::types::{FrameReport, Size};

/// What a slot's memory depends on.
pub(super) struct SlotSpec<'a> {
    pub(super) plan: &'a Plan,
    pub(super) camera: Size,
    pub(super) geometry: Geometry,
    /// The engine's tensors.
    pub(super) input: DeviceTensor,
    pub(super) output: DeviceTensor,
    /// Channels of the refiner's input, where there is a refiner.
    pub(super) refiner_inputs: usize,
    pub(super) precision: Precision,
}

impl SlotSpec<'_> {
    /// Size of the network's logits.
    fn logit_size(&self) -> Size {
        let [_, _, height, width] = self.output.shape;
        Size::new(width as u32, height as u32)
    }
}

/// Memory of a slot, on the device and beside it.
pub(super) struct SlotBuffers {
    pub(super) image: CameraImage,
    pub(super) input: Buffer<u8>,
    pub(super) output: Buffer<u8>,
    /// Logits on the selection grid, where the engine's output is not that already.
    pub(super) grid_logits: Buffer<f32>,
    /// The engine's logits as floats, where it gives halves and they are stretched.
    pub(super) wide_logits: Buffer<f32>,
    pub(super) stretch: [Buffer<u32>; 2],
    /// The bilinear resize, where the bundle asks for it.
    pub(super) triangle: Option<Triangle>,
    pub(super) tables: CoarseTables,
    pub(super) lattice: LatticeBuffers,
    /// Bits of alpha, capacity.
    pub(super) settings: Buffer<u32>,
    pub(super) pinned_settings: Pinned<u32>,
    pub(super) counters: Buffer<u32>,
    pub(super) pinned_counters: Pinned<u32>,
    pub(super) bins: Buffer<u32>,
    pub(super) block_sums: Buffer<u32>,
    pub(super) levels: Vec<LevelBuffers>,
    pub(super) features: Option<NetworkBuffers>,
    pub(super) labels: Buffer<u8>,
    pub(super) pinned_labels: Pinned<u8>,
    /// Coarse labels or the refined mask on their way out.
    pub(super) extra: Buffer<u8>,
}

impl SlotBuffers {
    /// Allocates, or counts in a dry run. With a launcher the tables are filled.
    pub(super) fn new(
        allocator: &mut Allocator,
        launcher: Option<&Launcher<'_>>,
        spec: &SlotSpec<'_>,
    ) -> Result<Self, CudaError> {
        let SlotSpec { plan, camera, geometry, input, output, refiner_inputs, precision } = spec;
        let (grid, classes) = (plan.selection_grid(), plan.classes.len());
        let input_geometry = geometry;
        let geometry = geometry.with_grid(grid);
        let lattice = Lattice::new(&geometry, plan.upsample);
        let bilinear = plan.upsample == Upsample::Bilinear;
        let positions = lattice.size.pixels();
        let stretched = spec.logit_size() != grid;
        let halves = output.element == Element::F16;
        let capacity = plan.capacity(*camera) as usize;

        let mut uploader = Uploader { allocator, launcher, precision: *precision };
        let mut table = |values: &[u32]| uploader.put("tables", values);
        let [starts_y, starts_x] = &lattice.starts;
        let [cells_y, cells_x] = &lattice.cells;
        let axis_taps = |wanted: bool, count, outputs, inputs| {
            if wanted { taps(count, outputs, inputs) } else { Vec::new() }
        };
        let (canvas, logit_size) = (geometry.canvas, spec.logit_size());
        let tables = CoarseTables {
            grid,
            bilinear,
            cells: [table(cells_y)?, table(cells_x)?],
            taps: [
                table(&axis_taps(bilinear, camera.height, canvas.height, grid.height))?,
                table(&axis_taps(bilinear, camera.width, canvas.width, grid.width))?,
            ],
            starts: [table(starts_y)?, table(starts_x)?],
            lattice: lattice.size,
            camera: *camera,
        };
        let stretch = [
            table(&axis_taps(stretched, grid.height, grid.height, logit_size.height))?,
            table(&axis_taps(stretched, grid.width, grid.width, logit_size.width))?,
        ];

        let triangle = match plan.segmenter.resize {
            Resize::Area => None,
            Resize::Bilinear => Some(Triangle::new(&mut uploader, input_geometry)?),
        };
        let mut levels = Vec::new();
        let mut features = None;
        if let Some(refiner) = &plan.refiner {
            levels = LevelBuffers::all(allocator, canvas, capacity, refiner.planes.len())?;
            let (planes, inputs) = (&refiner.planes, *refiner_inputs);
            features = Some(match precision {
                Precision::Single => NetworkBuffers::Single(FeatureBuffers::new(
                    allocator, canvas, capacity, planes, inputs, classes,
                )?),
                Precision::Half => NetworkBuffers::Half(FeatureBuffers::new(
                    allocator, canvas, capacity, planes, inputs, classes,
                )?),
            });
        }
        let blocks = levels.iter().map(LevelBuffers::blocks).max().unwrap_or(0);
        let wanted = |wanted: bool, len: usize| if wanted { len } else { 0 };
        let logits = classes * logit_size.pixels();
        Ok(Self {
            image: CameraImage::new(allocator, *camera)?,
            input: allocator.buffer("segmenter input and logits", input.bytes())?,
            output: allocator.buffer("segmenter input and logits", output.bytes())?,
            grid_logits: allocator
                .buffer("segmenter input and logits", wanted(stretched, classes * grid.pixels()))?,
            wide_logits: allocator.buffer("segmenter input and logits", wanted(halves, logits))?,
            stretch,
            triangle,
            tables,
            lattice: LatticeBuffers {
                entropy: allocator.buffer("selection", positions)?,
                labels: allocator.buffer("selection", positions)?,
                kept: allocator.buffer("selection", positions)?,
            },
            settings: allocator.buffer("selection", 2)?,
            pinned_settings: allocator.pinned(2, true)?,
            counters: allocator.buffer("selection", COUNTERS)?,
            pinned_counters: allocator.pinned(COUNTERS, false)?,
            bins: allocator.buffer("selection", BINS)?,
            block_sums: allocator.buffer("selection", positions.div_ceil(TIES_BLOCK).max(blocks))?,
            levels,
            features,
            labels: allocator.buffer("labels", camera.pixels())?,
            pinned_labels: allocator.pinned(camera.pixels(), false)?,
            extra: allocator.buffer("labels", camera.pixels())?,
        })
    }

    /// The logits that selection and gate read.
    pub(super) fn logits(&self) -> LogitsAt {
        if self.grid_logits.len() > 0 {
            LogitsAt { address: self.grid_logits.address(), len: self.grid_logits.len() }
        } else {
            self.network_logits()
        }
    }

    /// The engine's logits as floats.
    pub(super) fn network_logits(&self) -> LogitsAt {
        if self.wide_logits.len() > 0 {
            LogitsAt { address: self.wide_logits.address(), len: self.wide_logits.len() }
        } else {
            LogitsAt { address: self.output.address(), len: self.output.len() / 4 }
        }
    }
}

/// One frame in flight.
pub struct CudaSlot {
    // Dropped first: memory is freed before the stream that used it goes.
    pub(super) buffers: SlotBuffers,
    /// Page-locked memory for outputs that were asked for at least once.
    pub(super) pinned_coarse: Option<Pinned<u8>>,
    pub(super) pinned_refined: Option<Pinned<u8>>,
    pub(super) pinned_entropy: Option<Pinned<f32>>,
    pub(super) segmenter: Box<dyn DeviceSegmenter>,
    pub(super) geometry: Geometry,
    pub(super) timeline: Timeline,
    /// Whether work was enqueued that nobody has waited for.
    pub(super) in_flight: bool,
    pub(super) graph: GraphState,
    /// Whether this frame's stages after the dense network were launched as the graph.
    pub(super) replayed: bool,
    pub(super) report: FrameReport,
    pub(super) stream: Arc<CudaStream>,
}

impl CudaSlot {
    pub(super) fn new(
        device: &Device,
        stream: Arc<CudaStream>,
        buffers: SlotBuffers,
        segmenter: Box<dyn DeviceSegmenter>,
        geometry: Geometry,
    ) -> Result<Self, CudaError> {
        Ok(Self {
            buffers,
            pinned_coarse: None,
            pinned_refined: None,
            pinned_entropy: None,
            segmenter,
            geometry,
            timeline: Timeline::new(device)?,
            in_flight: false,
            graph: GraphState::default(),
            replayed: false,
            report: FrameReport::default(),
            stream,
        })
    }

    /// Whether the last frame's selection, refinement and fusion were one launch of the slot's graph.
    pub fn replayed(&self) -> bool {
        self.replayed
    }
}
