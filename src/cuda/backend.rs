//! The CUDA backend: the stages of the pipeline as work enqueued on a slot's stream.
//!
//! Between upload and download the host waits for nothing: how many pixels are selected stays on the device, launches
//! are sized by capacity. (The host's ONNX engine, where there is no TensorRT, is the exception.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::device::Device;
use super::error::{CudaError, During};
use super::front::{DeviceNormalisation, NON_FINITE, NON_FINITE_CELLS, SELECTED, SITES};
use super::half::Precision;
use super::host_segmenter::HostEngine;
use super::launch::Launcher;
use super::memory::{Allocator, Buffer, Number, Pinned};
use super::network::{NetworkBuffers, Scene};
use super::segmenter::{DeviceEngine, Element, SegmentError};
use super::slot::{CudaSlot, SlotBuffers, SlotSpec};
use super::weights::{NetworkWeights, Uploader};
use crate::bundle::manifest::{ChannelOrder, Resize};
use crate::bundle::refiner::{Bound, Features, RefinerSpec, RefinerWeights};
use crate::onnx::{OnnxError, Segmenter};
use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::{Normalisation, Plan, RefinerPlan, SegmenterPlan};
use crate::types::{Frame, FrameError, FrameReport, LabelImage, Size, Stage, UNLABELLED};

/// How long a frame may take before the device counts as lost. Far beyond any frame; a hung kernel must not become a
/// silent stop.
const DEADLINE: Duration = Duration::from_secs(60);

/// Networks on the device; frames live in slots.
pub struct CudaBackend {
    // Dropped before the device.
    refinement: Option<Refinement>,
    segmenter_normalisation: DeviceNormalisation,
    label_of_channel: Buffer<u8>,
    engine: Arc<dyn DeviceEngine>,
    plan: Plan,
    /// Bits of the f32 in force.
    alpha: AtomicU32,
    deadline: Duration,
    precision: Precision,
    device: Arc<Device>,
}

struct Refinement {
    plan: RefinerPlan,
    network: NetworkWeights,
    normalisation: DeviceNormalisation,
}

impl From<CudaError> for BackendError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::TooLittleMemory { .. } => Self::Resources(error.to_string()),
            error => Self::NotAvailable { backend: "cuda", why: error.to_string() },
        }
    }
}

/// A failure in a stage: whatever the driver reports, nothing on this context can be trusted afterwards.
fn lost(stage: &'static str) -> impl Fn(CudaError) -> StageError {
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
    ) -> Result<Self, BackendError> {
        Self::build(plan, device, engine, None)
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
        if plan.segmenter.resize == Resize::Bilinear {
            return Err(CudaError::BilinearResize.into());
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
                normalisation: device_normalisation(&mut uploader, &refiner.normalisation)?,
                plan: refiner.clone(),
            }),
        };
        let mut label_of_channel = [UNLABELLED; 256];
        let labels = plan.label_of_channel();
        label_of_channel[..labels.len()].copy_from_slice(&labels);
        Ok(Self {
            refinement,
            segmenter_normalisation: device_normalisation(&mut uploader, &plan.segmenter.normalisation)?,
            label_of_channel: uploader.put("tables", &label_of_channel)?,
            engine,
            alpha: AtomicU32::new(plan.alpha.to_bits()),
            plan,
            deadline: DEADLINE,
            precision,
            device,
        })
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

    fn classes(&self) -> usize {
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
        let needed = dry.device_bytes() + self.engine.workspace_bytes();
        let (free, _) = self.device.memory()?;
        if needed > free {
            return Err(CudaError::TooLittleMemory {
                free: (free >> 20) as u64,
                needed: needed.div_ceil(1 << 20) as u64,
                camera: spec.camera.to_string(),
                largest: largest(&dry),
            });
        }
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
            slot.record(stage)
        };
        enqueue(slot).map_err(lost(stage.name()))
    }

    /// Waits until all that the slot enqueued is done.
    fn wait(&self, slot: &mut CudaSlot) -> Result<(), CudaError> {
        let start = Instant::now();
        let Some(&last) = slot.recorded.last() else { return Ok(()) };
        let event = &slot.done[last as usize];
        let mut pause = Duration::from_micros(20);
        while !event.try_is_complete().during("waiting for the frame")? {
            if start.elapsed() > self.deadline {
                return Err(CudaError::Hung { seconds: self.deadline.as_secs() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_micros(500));
        }
        slot.in_flight = false;
        Ok(())
    }
}

/// The largest parts of a slot, for people.
fn largest(allocator: &Allocator) -> String {
    let mut parts = allocator.parts();
    parts.sort_by_key(|part| std::cmp::Reverse(part.1));
    let text = |part: &(&str, usize)| format!("{} {} MB", part.0, part.1.div_ceil(1 << 20));
    parts.iter().take(3).map(text).collect::<Vec<_>>().join(", ")
}

fn device_normalisation(
    uploader: &mut Uploader<'_>,
    normalisation: &Normalisation,
) -> Result<DeviceNormalisation, CudaError> {
    let values: Vec<f32> = normalisation.mean.iter().chain(&normalisation.std).copied().collect();
    let reversed = normalisation.order == ChannelOrder::Bgr;
    Ok(DeviceNormalisation { values: uploader.put("tables", &values)?, reversed })
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
        slot.report = FrameReport {
            camera: frame.camera,
            stamp: frame.stamp,
            size: frame.size,
            mode: self.plan.mode,
            ..FrameReport::default()
        };
        slot.recorded.clear();
        let start = Instant::now();
        let row = frame.format.row_bytes(frame.size.width);
        let rows = frame.format.rows(frame.size.height);
        let image = slot.buffers.pinned_image.as_mut_slice();
        for (to, from) in image.chunks_exact_mut(row).zip(frame.data.chunks(frame.step)).take(rows) {
            to.copy_from_slice(&from[..row]);
        }
        slot.report.stages.add(Stage::Upload, start.elapsed().as_secs_f64() * 1e3);
        self.stage(slot, Stage::Upload, |launcher, slot| {
            slot.begin.record(&slot.stream).during("recording an event")?;
            let buffers = &mut slot.buffers;
            launcher.upload(&buffers.pinned_image, &mut buffers.image, row * rows)?;
            launcher.to_rgb8(&buffers.image, &mut buffers.rgb, frame.size, row, frame.format)
        })
    }

    fn segment(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let geometry = slot.geometry;
        self.stage(slot, Stage::Preprocess, |launcher, slot| {
            let SlotBuffers { rgb, input, .. } = &mut slot.buffers;
            launcher.area_resize(rgb, input, self.engine.input(), &geometry, &self.segmenter_normalisation)
        })?;
        self.enqueue_network(slot)?;
        self.stage(slot, Stage::Segment, |launcher, slot| {
            let (classes, tables) = (self.classes(), &slot.buffers.tables);
            let output = self.engine.output();
            let from = Size::new(output.shape[3] as u32, output.shape[2] as u32);
            let grid = tables.grid;
            let buffers = &mut slot.buffers;
            if output.element == Element::F16 {
                launcher.widen(&buffers.output, &mut buffers.wide_logits, classes * from.pixels())?;
            }
            if from != grid {
                let logits = buffers.network_logits();
                launcher.upsample(
                    &logits,
                    &mut buffers.grid_logits,
                    classes,
                    from,
                    grid,
                    &buffers.stretch,
                )?;
            }
            Ok(())
        })
    }

    fn select(&self, slot: &mut CudaSlot, budget: PixelBudget) -> Result<(), StageError> {
        let alpha = self.alpha.load(Ordering::Relaxed);
        self.stage(slot, Stage::Select, |launcher, slot| {
            let logits = slot.buffers.logits();
            let buffers = &mut slot.buffers;
            let capacity = buffers.levels.first().map_or(0, |level| level.capacity as u32);
            buffers.pinned_settings.as_mut_slice().copy_from_slice(&[alpha, budget.0.min(capacity)]);
            launcher.upload(&buffers.pinned_settings, &mut buffers.settings, 2)?;
            let counters = &mut buffers.counters;
            launcher.fill(counters, counters.len(), 0)?;
            let (tables, lattice, settings) = (&buffers.tables, &mut buffers.lattice, &buffers.settings);
            launcher.evaluate_lattice(&logits, self.classes(), tables, settings, lattice, counters)?;
            launcher.write_labels(lattice, tables, &self.label_of_channel, &mut buffers.labels)?;
            let Some(finest) = buffers.levels.first_mut() else { return Ok(()) };
            let (bins, sums) = (&mut buffers.bins, &mut buffers.block_sums);
            launcher.keep_within_capacity(tables, lattice, settings, bins, sums, counters)?;
            launcher.mask_words(lattice, tables, finest)
        })
    }

    fn refine(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let Some(refinement) = &self.refinement else { return Ok(()) };
        self.stage(slot, Stage::Refine, |launcher, slot| {
            let logits = slot.buffers.logits();
            let buffers = &mut slot.buffers;
            let active = refinement.plan.bound == Bound::Active;
            let (sums, counters) = (&mut buffers.block_sums, &mut buffers.counters);
            launcher.build_levels(&mut buffers.levels, active, sums, counters)?;
            let scene = refinement.scene(&buffers.rgb, &buffers.tables, logits);
            let features = buffers.features.as_mut().expect("a refiner has feature rows");
            let network = &refinement.network;
            match features {
                NetworkBuffers::Single(features) => {
                    launcher.refine(network, &scene, &buffers.levels, features, counters)
                }
                NetworkBuffers::Half(features) => {
                    launcher.refine_half(network, &scene, &buffers.levels, features, counters)
                }
            }
        })
    }

    fn fuse(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let Some(refinement) = &self.refinement else { return Ok(()) };
        self.stage(slot, Stage::Fuse, |launcher, slot| {
            let logits = slot.buffers.logits();
            let buffers = &mut slot.buffers;
            let scene = refinement.scene(&buffers.rgb, &buffers.tables, logits);
            let features = buffers.features.as_ref().expect("a refiner has feature rows");
            launcher.gate_fuse(
                &refinement.network.gate,
                refinement.network.classes,
                &scene,
                &buffers.levels[0],
                features.logits(),
                &self.label_of_channel,
                &mut buffers.labels,
                &buffers.counters,
                None,
            )
        })
    }

    fn finish(
        &self,
        slot: &mut CudaSlot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        let refined = self.refinement.is_some();
        self.stage(slot, Stage::Download, |launcher, slot| {
            let CudaSlot { buffers, pinned_coarse, pinned_refined, pinned_entropy, .. } = slot;
            let camera = buffers.tables.camera;
            let pixels = camera.pixels();
            launcher.download(&buffers.labels, &mut buffers.pinned_labels, pixels)?;
            launcher.download(&buffers.counters, &mut buffers.pinned_counters, buffers.counters.len())?;
            if extras.coarse {
                launcher.write_labels(
                    &buffers.lattice,
                    &buffers.tables,
                    &self.label_of_channel,
                    &mut buffers.extra,
                )?;
                launcher.download(&buffers.extra, self.pinned(pinned_coarse, pixels)?, pixels)?;
            }
            if extras.refined && refined {
                launcher.fill(&mut buffers.extra, pixels, 0)?;
                launcher.mark_sites(&buffers.levels[0], &buffers.counters, &mut buffers.extra, camera)?;
                launcher.download(&buffers.extra, self.pinned(pinned_refined, pixels)?, pixels)?;
            }
            if extras.entropy {
                let entropy = &buffers.lattice.entropy;
                launcher.download(entropy, self.pinned(pinned_entropy, entropy.len())?, entropy.len())?;
            }
            Ok(())
        })?;
        self.wait(slot).map_err(lost("download"))?;
        self.hand_out(slot, extras, outputs);
        slot.read_times().map_err(lost("download"))?;
        Ok(slot.report.clone())
    }
}

impl Refinement {
    fn scene<'a>(
        &'a self,
        rgb: &'a Buffer<u8>,
        tables: &'a super::front::CoarseTables,
        logits: super::front::LogitsAt,
    ) -> Scene<'a> {
        let probabilities = self.plan.features == Features::RgbProbabilities;
        Scene { rgb, normalisation: &self.normalisation, logits, tables, probabilities }
    }
}

/// What the sparse network and the fusion made of a frame.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Row and column of each refined pixel, row-major.
    pub sites: Vec<(u16, u16)>,
    /// Logits of the sparse network, `[sites][classes]`.
    pub refined: Vec<f32>,
    /// Logits after gate and fuser, `[sites][classes]`.
    pub fused: Vec<f32>,
}

impl CudaBackend {
    /// Looks into the slot's last frame, once it has been fused: for tests and for looking for faults on a device.
    pub fn inspect(&self, slot: &mut CudaSlot) -> Result<Inspection, StageError> {
        let Some(refinement) = &self.refinement else { return Ok(Inspection::default()) };
        let look = |slot: &mut CudaSlot| -> Result<Inspection, CudaError> {
            self.device.context.bind_to_thread().during("binding the context")?;
            let logits = slot.buffers.logits();
            let launcher = Launcher { device: &self.device, stream: &slot.stream };
            let SlotBuffers { rgb, tables, levels, features, labels, counters, .. } = &mut slot.buffers;
            let finest = &levels[0];
            let refined = features.as_ref().expect("a refiner has feature rows").logits();
            let values = finest.capacity * self.classes();
            let mut allocator = Allocator::new(&self.device.context);
            let mut fused = allocator.buffer("inspection", values)?;
            let scene = refinement.scene(rgb, tables, logits);
            let (gate, classes) = (&refinement.network.gate, self.classes());
            let of = &self.label_of_channel;
            launcher.gate_fuse(
                gate,
                classes,
                &scene,
                finest,
                refined,
                of,
                labels,
                counters,
                Some(&mut fused),
            )?;
            let mut count = allocator.pinned(counters.len(), false)?;
            let mut sites = allocator.pinned::<u32>(finest.capacity, false)?;
            let mut logits =
                [allocator.pinned::<f32>(values, false)?, allocator.pinned::<f32>(values, false)?];
            launcher.download(counters, &mut count, counters.len())?;
            launcher.download(&finest.sites, &mut sites, finest.capacity)?;
            launcher.download(refined, &mut logits[0], values)?;
            launcher.download(&fused, &mut logits[1], values)?;
            slot.stream.synchronize().during("inspecting a slot")?;
            let count = count.as_slice()[SITES] as usize;
            let place = |site: &u32| ((site >> 16) as u16, (site & 0xffff) as u16);
            let [refined, fused] = logits.map(|logits| logits.as_slice()[..count * classes].to_vec());
            Ok(Inspection { sites: sites.as_slice()[..count].iter().map(place).collect(), refined, fused })
        };
        look(slot).map_err(lost("inspect"))
    }

    /// Enqueues the dense network. A frame it refuses is an outcome, a lost device is not.
    #[allow(unsafe_code, reason = "addresses for the engine")]
    fn enqueue_network(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let _span = tracing::info_span!("segment").entered();
        let (input, output) = (slot.buffers.input.address(), slot.buffers.output.address());
        let stream = slot.stream.cu_stream().cast();
        // SAFETY: the slot's buffers are as long as the engine's tensors and live as long as the slot, whose stream this is.
        let enqueued = unsafe { slot.segmenter.enqueue(input, output, stream) };
        enqueued.map_err(|error| match error {
            SegmentError::Frame(why) => FrameError::Segmenter { why }.into(),
            SegmentError::Device(why) => StageError::DeviceLost { stage: Stage::Segment.name(), why },
        })
    }

    /// Page-locked memory for an output, made when it is first asked for.
    fn pinned<'a, T: Number>(
        &self,
        place: &'a mut Option<Pinned<T>>,
        len: usize,
    ) -> Result<&'a mut Pinned<T>, CudaError> {
        if place.is_none() {
            *place = Some(Allocator::new(&self.device.context).pinned(len, false)?);
        }
        Ok(place.as_mut().expect("filled above"))
    }

    /// Copies what the device wrote into the caller's buffers. The slot has been waited for.
    fn hand_out(&self, slot: &mut CudaSlot, extras: Extras, outputs: &mut FrameOutputs) {
        let size = slot.buffers.tables.camera;
        let fill = |image: &mut LabelImage, wanted: bool, from: Option<&Pinned<u8>>| {
            image.size = if wanted { size } else { Size::default() };
            image.data.clear();
            match from.filter(|_| wanted) {
                Some(from) => image.data.extend_from_slice(from.as_slice()),
                None => image.data.resize(image.size.pixels(), 0),
            }
        };
        let refined = self.refinement.is_some();
        fill(&mut outputs.labels, true, Some(&slot.buffers.pinned_labels));
        fill(&mut outputs.coarse, extras.coarse, slot.pinned_coarse.as_ref());
        fill(&mut outputs.refined, extras.refined, slot.pinned_refined.as_ref().filter(|_| refined));
        outputs.entropy.clear();
        outputs.entropy_size = Size::default();
        if extras.entropy
            && let Some(entropy) = &slot.pinned_entropy
        {
            outputs.entropy_size = slot.buffers.tables.lattice;
            outputs.entropy.extend_from_slice(entropy.as_slice());
        }
        let counters = slot.buffers.pinned_counters.as_slice();
        let report = &mut slot.report;
        report.pixels_selected = counters[SELECTED];
        report.non_finite_cells = counters[NON_FINITE];
        if slot.buffers.tables.bilinear && counters[NON_FINITE] > 0 {
            report.non_finite_cells = counters[NON_FINITE_CELLS];
        }
        if refined {
            for (sites, &count) in
                report.sites.iter_mut().zip(&counters[SITES..][..slot.buffers.levels.len()])
            {
                *sites = count;
            }
            report.pixels_refined = counters[SITES];
            report.pixels_dropped = counters[SELECTED] - counters[SITES];
        }
    }
}
