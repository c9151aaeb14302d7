//! The CUDA backend: the stages of the pipeline as work enqueued on a slot's stream.
//!
//! Between upload and download the host waits for nothing: how many pixels are selected stays on the device, launches
//! are sized by capacity. (The host's ONNX engine, where there is no TensorRT, is the exception.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::device::Device;
use super::error::{CudaError, During};
use super::front::DeviceNormalisation;
use super::graph::{Graph, GraphState};
use super::host_segmenter::HostEngine;
use super::launch::Launcher;
use super::memory::{Allocator, Buffer};
use super::precision::Precision;
use super::segmenter::DeviceEngine;
use super::slot::{CudaSlot, SlotBuffers, SlotSpec};
use super::weights::{NetworkWeights, Uploader};
use crate::bundle::refiner::{RefinerSpec, RefinerWeights};
use crate::onnx::{OnnxError, Segmenter};
use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::{Plan, RefinerPlan, SegmenterPlan};
use crate::types::{Frame, FrameError, FrameReport, Size, Stage};

/// How long a frame may take before the device counts as lost. Far beyond any frame; a hung kernel must not become a
/// silent stop.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Networks on the device; frames live in slots.
pub struct CudaBackend {
    // Dropped before the device.
    pub(super) refinement: Option<Refinement>,
    pub(super) segmenter_normalisation: DeviceNormalisation,
    pub(super) label_of_channel: Buffer<u8>,
    pub(super) engine: Arc<dyn DeviceEngine>,
    plan: Plan,
    /// Bits of the f32 in force.
    alpha: AtomicU32,
    pub(super) deadline: Duration,
    precision: Precision,
    graphs: bool,
    pub(super) device: Arc<Device>,
}

/// The refiner of a plan, on the device.
pub(super) struct Refinement {
    pub(super) plan: RefinerPlan,
    pub(super) network: NetworkWeights,
    pub(super) normalisation: DeviceNormalisation,
}

/// Set to `1`: slots launch selection, refinement and fusion as one CUDA graph.
const GRAPHS: &str = "SPARSE_REFINE_CUDA_GRAPHS";

impl From<CudaError> for BackendError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::TooLittleMemory { .. } => Self::Resources(error.to_string()),
            error => Self::NotAvailable { backend: "cuda", why: error.to_string() },
        }
    }
}

/// A failure in a stage: whatever the driver reports, nothing on this context can be trusted afterwards.
pub(super) fn lost(stage: &'static str) -> impl Fn(CudaError) -> StageError {
    move |error| {
        tracing::error!(stage, "CUDA: {error}");
        StageError::DeviceLost { stage, why: error.to_string() }
    }
}

/// Loads the dense network of a plan for the host.
fn host_segmenter(plan: &SegmenterPlan, threads: usize) -> Result<Segmenter, BackendError> {
    let loaded = Segmenter::load(&plan.path, &plan.tensors, plan.engine, threads);
    loaded.map_err(|error| match error {
        OnnxError::NotInBuild { .. } | OnnxError::Library { .. } => {
            BackendError::NotAvailable { backend: "onnx", why: error.to_string() }
        }
        error => BackendError::Model(error.to_string()),
    })
}

/// Weights of a plan's refiner.
pub(super) fn refiner_weights(plan: &Plan) -> Result<Option<(RefinerPlan, RefinerWeights)>, BackendError> {
    let Some(refiner) = &plan.refiner else { return Ok(None) };
    let spec = RefinerSpec {
        classes: plan.classes.len(),
        planes: refiner.planes.clone(),
        blocks: refiner.blocks,
        features: refiner.features,
        bound: refiner.bound,
    };
    let weights =
        RefinerWeights::load(&refiner.path, &spec).map_err(|error| BackendError::Model(error.to_string()))?;
    Ok(Some((refiner.clone(), weights)))
}

impl CudaBackend {
    /// Opens the device and loads the networks of a plan; the dense one runs on the host, the sparse one on tensor cores
    /// where there are some.
    pub fn new(plan: Plan) -> Result<Self, BackendError> {
        Self::with_precision(plan, None)
    }

    /// The same with a precision of the sparse network, if it is given.
    pub fn with_precision(plan: Plan, precision: Option<Precision>) -> Result<Self, BackendError> {
        let device = Arc::new(Device::open()?);
        let segmenter = host_segmenter(&plan.segmenter, plan.threads)?;
        let engine = Arc::new(HostEngine::new(segmenter, device.context.clone()));
        Self::build(plan, device, engine, precision)
    }

    /// With a dense network that runs on the device.
    pub fn with_engine(
        plan: Plan,
        device: Arc<Device>,
        engine: Arc<dyn DeviceEngine>,
        precision: Option<Precision>,
    ) -> Result<Self, BackendError> {
        Self::build(plan, device, engine, precision)
    }

    fn build(
        plan: Plan,
        device: Arc<Device>,
        engine: Arc<dyn DeviceEngine>,
        precision: Option<Precision>,
    ) -> Result<Self, BackendError> {
        let fastest = if device.has_tensor_cores() { Precision::Half } else { Precision::Single };
        let precision = precision.unwrap_or(fastest);
        if precision == Precision::Half && !device.has_tensor_cores() {
            return Err(CudaError::NoTensorCores { device: device.name() }.into());
        }
        let weights = refiner_weights(&plan)?;
        device.context.bind_to_thread().during("binding the context")?;
        let stream = device.context.new_stream().during("a stream")?;
        let mut allocator = Allocator::new(&device.context);
        let launcher = Launcher { device: &device, stream: &stream };
        let mut uploader = Uploader { allocator: &mut allocator, launcher: Some(&launcher), precision };
        let refinement = match &weights {
            None => None,
            Some((refiner, weights)) => Some(Refinement {
                network: NetworkWeights::new(&mut uploader, weights)?,
                normalisation: uploader.normalisation(&refiner.normalisation)?,
                plan: refiner.clone(),
            }),
        };
        Ok(Self {
            refinement,
            segmenter_normalisation: uploader.normalisation(&plan.segmenter.normalisation)?,
            label_of_channel: uploader.label_of_channel(&plan)?,
            engine,
            alpha: AtomicU32::new(plan.alpha.to_bits()),
            plan,
            deadline: DEADLINE,
            precision,
            graphs: std::env::var_os(GRAPHS).is_some_and(|value| value == "1"),
            device,
        })
    }

    /// Whether selection, refinement and fusion of a frame are one launch of a CUDA graph, from a slot's second frame on.
    pub fn with_graphs(mut self, graphs: bool) -> Self {
        self.graphs = graphs;
        self
    }

    /// How long a frame may take before the device counts as lost: 60 s unless this says otherwise. An emulated device
    /// takes longer for 8 MP.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// The device's name and architecture.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// How the sparse network computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What runs the dense network.
    pub fn engine_name(&self) -> String {
        self.engine.name()
    }

    pub(super) fn classes(&self) -> usize {
        self.plan.classes.len()
    }

    fn spec(&self, camera: Size) -> Result<SlotSpec<'_>, FrameError> {
        Ok(SlotSpec {
            plan: &self.plan,
            camera,
            geometry: self.plan.geometry(camera)?,
            input: self.engine.input(),
            output: self.engine.output(),
            refiner_inputs: self.refinement.as_ref().map_or(0, |r| r.network.input_channels),
            precision: self.precision,
        })
    }

    /// Makes the memory, streams and events of a slot, after checking that they fit.
    fn make_slot(&self, spec: &SlotSpec<'_>) -> Result<CudaSlot, CudaError> {
        let mut dry = Allocator::dry();
        SlotBuffers::new(&mut dry, None, spec)?;
        self.device.ensure_fits(&dry, self.engine.workspace_bytes(), spec.camera)?;
        let stream = self.device.context.new_stream().during("a stream")?;
        let launcher = Launcher { device: &self.device, stream: &stream };
        let mut allocator = Allocator::new(&self.device.context);
        let buffers = SlotBuffers::new(&mut allocator, Some(&launcher), spec)?;
        let segmenter =
            self.engine.segmenter().map_err(|error| CudaError::Segmenter { why: error.to_string() })?;
        CudaSlot::new(&self.device, stream, buffers, segmenter, spec.geometry)
    }

    /// Runs a stage's launches with the slot's buffers and marks its end.
    fn stage(
        &self,
        slot: &mut CudaSlot,
        stage: Stage,
        work: impl FnOnce(&Launcher<'_>, &mut CudaSlot) -> Result<(), CudaError>,
    ) -> Result<(), StageError> {
        let enqueue = |slot: &mut CudaSlot| {
            self.device.context.bind_to_thread().during("binding the context")?;
            let stream = slot.stream.clone();
            slot.in_flight = true;
            work(&Launcher { device: &self.device, stream: &stream }, slot)?;
            slot.timeline.record(stage, &stream)
        };
        enqueue(slot).map_err(lost(stage.name()))
    }

    /// A stage of the refiner, unless the slot's graph has run it or there is no refiner.
    fn refining(&self, slot: &mut CudaSlot, stage: Stage) -> Result<(), StageError> {
        if slot.replayed || self.refinement.is_none() {
            return Ok(());
        }
        self.stage(slot, stage, |launcher, slot| self.enqueue(stage, launcher, slot))
    }

    /// Launches the slot's graph in place of the stages after the dense network. `false`: there is none, run them one by one.
    ///
    /// The first frame of a slot loads what the driver loads lazily; the second one's launches are recorded.
    fn replay(&self, slot: &mut CudaSlot) -> Result<bool, CudaError> {
        const BOTH: [Stage; 3] = [Stage::Select, Stage::Refine, Stage::Fuse];
        let stages = if self.refinement.is_some() { &BOTH[..] } else { &BOTH[..1] };
        self.device.context.bind_to_thread().during("binding the context")?;
        let stream = slot.stream.clone();
        match slot.graph {
            GraphState::Recorded(_) => {}
            GraphState::Refused => return Ok(false),
            GraphState::Cold => {
                slot.graph = GraphState::Warm;
                return Ok(false);
            }
            GraphState::Warm => {
                let launcher = Launcher { device: &self.device, stream: &stream };
                let recorded = Graph::record(&stream, |graph| {
                    stages.iter().try_for_each(|&stage| {
                        self.enqueue(stage, &launcher, slot)?;
                        graph.mark(slot.timeline.done(stage))
                    })
                });
                slot.graph = match recorded {
                    Ok(graph) => GraphState::Recorded(graph),
                    Err(why) => {
                        tracing::warn!("no CUDA graph, stages are launched one by one: {why}");
                        GraphState::Refused
                    }
                };
            }
        }
        let GraphState::Recorded(graph) = &slot.graph else { return Ok(false) };
        slot.in_flight = true;
        graph.launch(&stream)?;
        slot.timeline.launched(stages);
        slot.replayed = true;
        Ok(true)
    }
}

impl Backend for CudaBackend {
    type Slot = CudaSlot;

    fn set_alpha(&self, alpha: f32) {
        self.alpha.store(alpha.to_bits(), Ordering::Relaxed);
    }

    fn slot(&self, camera: Size) -> Result<CudaSlot, StageError> {
        let spec = self.spec(camera)?;
        self.device.context.bind_to_thread().during("binding the context").map_err(lost("plan"))?;
        self.make_slot(&spec).map_err(lost("plan"))
    }

    fn upload(&self, slot: &mut CudaSlot, frame: &Frame<'_>) -> Result<(), StageError> {
        if slot.in_flight {
            // The frame before ended early: its copies may still read the page-locked image.
            slot.stream.synchronize().during("waiting for the frame before").map_err(lost("upload"))?;
        }
        slot.report = FrameReport::of(frame, self.plan.mode);
        slot.replayed = false;
        let start = Instant::now();
        slot.buffers.image.fill(frame);
        slot.report.stages.add(Stage::Upload, start.elapsed().as_secs_f64() * 1e3);
        self.stage(slot, Stage::Upload, |launcher, slot| {
            slot.timeline.begin(launcher.stream)?;
            slot.buffers.image.enqueue(launcher, frame)
        })
    }

    fn segment(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let stage = Stage::Preprocess;
        self.stage(slot, stage, |launcher, slot| self.enqueue(stage, launcher, slot))?;
        self.enqueue_network(slot)?;
        let stage = Stage::Segment;
        self.stage(slot, stage, |launcher, slot| self.enqueue(stage, launcher, slot))
    }

    fn select(&self, slot: &mut CudaSlot, budget: PixelBudget) -> Result<(), StageError> {
        let capacity = slot.buffers.levels.first().map_or(0, |level| level.capacity as u32);
        let settings = [self.alpha.load(Ordering::Relaxed), budget.0.min(capacity)];
        slot.buffers.pinned_settings.as_mut_slice().copy_from_slice(&settings);
        let stage = Stage::Select;
        if self.graphs && self.replay(slot).map_err(lost(stage.name()))? {
            return Ok(());
        }
        self.stage(slot, stage, |launcher, slot| self.enqueue(stage, launcher, slot))
    }

    fn refine(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        self.refining(slot, Stage::Refine)
    }

    fn fuse(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        self.refining(slot, Stage::Fuse)
    }

    fn finish(
        &self,
        slot: &mut CudaSlot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        let stage = Stage::Download;
        self.stage(slot, stage, |launcher, slot| self.enqueue_download(launcher, slot, extras))?;
        slot.timeline.wait(self.deadline).map_err(lost(stage.name()))?;
        slot.in_flight = false;
        self.hand_out(slot, extras, outputs);
        slot.timeline.add_times(&mut slot.report).map_err(lost(stage.name()))?;
        Ok(slot.report.clone())
    }
}
