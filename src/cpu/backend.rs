//! The CPU backend: the stages of the pipeline, in terms of the kernels beside it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::bilinear::BilinearResize;
use super::evaluate::Logits;
use super::fused::{
    CameraFeatures, Coarse, FusedGate, InstructionSet, LevelTable, Network, NetworkMemory, RefinedLogits,
    Scene,
};
use super::pixels;
use super::resize::AreaResize;
use super::select::Selection;
use super::sites::SiteSet;
use super::upsample::Upsampler;
use crate::bundle::manifest::Resize;
use crate::bundle::refiner::{Features, RefinerSpec, RefinerWeights};
use crate::onnx::{OnnxError, Segmenter};
use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::{Geometry, Plan, SegmenterPlan};
use crate::types::{Frame, FrameError, FrameReport, LabelImage, Size, Stage};

/// Networks and threads; frames live in slots.
pub struct CpuBackend {
    plan: Plan,
    segmenter: Segmenter,
    refinement: Option<Refinement>,
    label_of_channel: Vec<u8>,
    /// Bits of the f32 in force.
    alpha: AtomicU32,
    pool: ThreadPool,
}

struct Refinement {
    network: Network,
    gate: FusedGate,
    table: LevelTable,
    probabilities: bool,
    /// Work memory of one frame at a time: all share the threads, so taking turns costs nothing. Locked outside the
    /// thread pool only; a pool thread that waits may pick up another frame's work.
    memory: Mutex<NetworkMemory>,
}

/// One frame in flight.
pub struct CpuSlot {
    resize: Resizer,
    /// Camera pixels to the grid that pixels are selected on.
    grid_geometry: Geometry,
    upsampler: Upsampler,
    rgb: Vec<u8>,
    input: Vec<f32>,
    /// Logits as the network gives them.
    network_logits: Vec<f32>,
    /// Logits on the selection grid; unused where that is the network's own.
    grid_logits: Vec<f32>,
    selection: Selection,
    sites: SiteSet,
    refined: RefinedLogits,
    labels: LabelImage,
    report: FrameReport,
}

/// The way to the segmenter's grid that the bundle asks for.
enum Resizer {
    Area(AreaResize),
    Bilinear(Box<BilinearResize>),
}

impl Resizer {
    fn new(geometry: &Geometry, segmenter: &SegmenterPlan) -> Self {
        match segmenter.resize {
            Resize::Area => Self::Area(AreaResize::new(geometry, segmenter.normalisation)),
            Resize::Bilinear => {
                Self::Bilinear(Box::new(BilinearResize::new(geometry, segmenter.normalisation)))
            }
        }
    }

    fn run(&mut self, rgb: &[u8], out: &mut [f32]) {
        match self {
            Self::Area(resize) => resize.run(rgb, out),
            Self::Bilinear(resize) => resize.run(rgb, out),
        }
    }
}

impl CpuSlot {
    fn logits(&self, classes: usize) -> Logits<'_> {
        let data = if self.upsampler.is_identity() { &self.network_logits } else { &self.grid_logits };
        Logits::new(data, self.grid_geometry.grid, classes)
    }
}

impl CpuBackend {
    /// Loads the networks of a plan.
    pub fn new(plan: Plan) -> Result<Self, BackendError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(plan.threads)
            .thread_name(|index| format!("cpu-{index}"))
            .build()
            .map_err(|why| {
                BackendError::Resources(format!("cannot start {} threads: {why}", plan.threads))
            })?;
        let SegmenterPlan { path, tensors, engine, .. } = &plan.segmenter;
        let segmenter =
            Segmenter::load(path, tensors, *engine, plan.threads).map_err(|error| match error {
                OnnxError::NotInBuild { .. } | OnnxError::Library { .. } => {
                    BackendError::NotAvailable { backend: "onnx", why: error.to_string() }
                }
                error => BackendError::Model(error.to_string()),
            })?;
        let refinement = match &plan.refiner {
            None => None,
            Some(refiner) => {
                let spec = RefinerSpec {
                    classes: plan.classes.len(),
                    planes: refiner.planes.clone(),
                    blocks: refiner.blocks,
                    features: refiner.features,
                    bound: refiner.bound,
                };
                let weights = RefinerWeights::load(&refiner.path, &spec)
                    .map_err(|error| BackendError::Model(error.to_string()))?;
                let set = InstructionSet::chosen();
                Some(Refinement {
                    network: Network::new(&weights, set),
                    gate: FusedGate::new(&weights, set),
                    table: LevelTable::new(&refiner.normalisation),
                    probabilities: refiner.features == Features::RgbProbabilities,
                    memory: Mutex::default(),
                })
            }
        };
        let alpha = AtomicU32::new(plan.alpha.to_bits());
        Ok(Self { label_of_channel: plan.label_of_channel(), plan, segmenter, refinement, alpha, pool })
    }

    fn classes(&self) -> usize {
        self.plan.classes.len()
    }

    fn coarse<'a>(&self, slot: &'a CpuSlot) -> Coarse<'a> {
        Coarse {
            logits: slot.logits(self.classes()),
            geometry: &slot.grid_geometry,
            upsample: self.plan.upsample,
        }
    }

    /// Runs a stage on the backend's threads, timed and traced.
    fn stage<R: Send>(
        &self,
        slot: &mut CpuSlot,
        stage: Stage,
        work: impl FnOnce(&mut CpuSlot) -> R + Send,
    ) -> R {
        let _span = span(stage).entered();
        let start = Instant::now();
        let result = self.pool.install(|| work(slot));
        slot.report.stages.add(stage, start.elapsed().as_secs_f64() * 1e3);
        result
    }
}

pub(super) fn span(stage: Stage) -> tracing::Span {
    match stage {
        Stage::Upload => tracing::info_span!("upload"),
        Stage::Preprocess => tracing::info_span!("preprocess"),
        Stage::Segment => tracing::info_span!("segment"),
        Stage::Select => tracing::info_span!("select"),
        Stage::Refine => tracing::info_span!("refine"),
        Stage::Fuse => tracing::info_span!("fuse"),
        Stage::Download => tracing::info_span!("download"),
    }
}

impl Backend for CpuBackend {
    type Slot = CpuSlot;

    fn set_alpha(&self, alpha: f32) {
        self.alpha.store(alpha.to_bits(), Ordering::Relaxed);
    }

    fn slot(&self, camera: Size) -> Result<CpuSlot, StageError> {
        let geometry = self.plan.geometry(camera)?;
        let grid = self.plan.selection_grid();
        let upsampler = Upsampler::new(self.plan.segmenter.tensors.logit_size(), grid);
        let grid_logits = if upsampler.is_identity() { 0 } else { self.classes() * grid.pixels() };
        Ok(CpuSlot {
            resize: Resizer::new(&geometry, &self.plan.segmenter),
            grid_geometry: geometry.with_grid(grid),
            upsampler,
            rgb: vec![0; camera.pixels() * 3],
            input: vec![0.0; 3 * self.plan.segmenter.tensors.size.pixels()],
            network_logits: vec![0.0; self.classes() * self.plan.segmenter.tensors.logit_size().pixels()],
            grid_logits: vec![0.0; grid_logits],
            selection: Selection::default(),
            sites: SiteSet::default(),
            refined: RefinedLogits::default(),
            labels: LabelImage::unlabelled(camera),
            report: FrameReport::default(),
        })
    }

    fn upload(&self, slot: &mut CpuSlot, frame: &Frame<'_>) -> Result<(), StageError> {
        slot.report = FrameReport::of(frame, self.plan.mode);
        self.stage(slot, Stage::Upload, |slot| pixels::to_rgb8(frame, &mut slot.rgb));
        Ok(())
    }

    fn segment(&self, slot: &mut CpuSlot) -> Result<(), StageError> {
        self.stage(slot, Stage::Preprocess, |slot| slot.resize.run(&slot.rgb, &mut slot.input));
        self.stage(slot, Stage::Segment, |slot| -> Result<(), FrameError> {
            let logits = &mut slot.network_logits;
            self.segmenter
                .run(&slot.input, logits)
                .map_err(|why| FrameError::Segmenter { why: why.to_string() })?;
            if !slot.upsampler.is_identity() {
                slot.upsampler.run(&slot.network_logits, &mut slot.grid_logits);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn select(&self, slot: &mut CpuSlot, budget: PixelBudget) -> Result<(), StageError> {
        self.stage(slot, Stage::Select, |slot| {
            let mut selection = std::mem::take(&mut slot.selection);
            let capacity = if self.refinement.is_some() { budget.0 } else { 0 };
            let upsample = self.plan.upsample;
            let alpha = f32::from_bits(self.alpha.load(Ordering::Relaxed));
            selection.select(&slot.logits(self.classes()), &slot.grid_geometry, upsample, alpha, capacity);
            selection.write_labels(&self.label_of_channel, &mut slot.labels.data);
            let counts = selection.counts();
            slot.report.pixels_selected = counts.selected;
            slot.report.non_finite_cells = counts.non_finite_cells;
            if self.refinement.is_some() {
                slot.report.pixels_refined = counts.kept;
                slot.report.pixels_dropped = counts.dropped;
                slot.report.dropped_entropy = counts.dropped_entropy;
                slot.sites.rebuild_from_words(slot.grid_geometry.canvas, |words, words_per_row| {
                    selection.write_mask(words, words_per_row);
                });
            }
            slot.selection = selection;
        });
        Ok(())
    }

    fn refine(&self, slot: &mut CpuSlot) -> Result<(), StageError> {
        let Some(Refinement { network, table, probabilities, memory, .. }) = &self.refinement else {
            return Ok(());
        };
        let start = Instant::now();
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut *memory;
        slot.report.stages.add(Stage::Refine, start.elapsed().as_secs_f64() * 1e3);
        self.stage(slot, Stage::Refine, |slot| {
            let mut refined = std::mem::take(&mut slot.refined);
            let features = CameraFeatures {
                set: InstructionSet::chosen(),
                table,
                rgb: &slot.rgb,
                width: slot.grid_geometry.camera.width,
                coarse: self.coarse(slot),
                probabilities: *probabilities,
            };
            network.run(&slot.sites, &features, memory, &mut refined);
            slot.report.sites = memory.sites();
            slot.refined = refined;
        });
        Ok(())
    }

    fn fuse(&self, slot: &mut CpuSlot) -> Result<(), StageError> {
        let Some(Refinement { gate, .. }) = &self.refinement else { return Ok(()) };
        self.stage(slot, Stage::Fuse, |slot| {
            let mut labels = std::mem::take(&mut slot.labels.data);
            let scene = Scene {
                coarse: self.coarse(slot),
                selection: &slot.selection,
                sites: &slot.sites,
                refined: &slot.refined,
                label_of_channel: &self.label_of_channel,
            };
            gate.label(&scene, &mut labels);
            slot.labels.data = labels;
        });
        Ok(())
    }

    fn finish(
        &self,
        slot: &mut CpuSlot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        self.stage(slot, Stage::Download, |slot| {
            let size = slot.labels.size;
            // The caller's old buffer becomes the slot's next one: nothing is copied.
            std::mem::swap(&mut outputs.labels, &mut slot.labels);
            slot.labels.size = size;
            slot.labels.data.resize(size.pixels(), 0);
            outputs.coarse.size = if extras.coarse { size } else { Size::default() };
            outputs.coarse.data.resize(outputs.coarse.size.pixels(), 0);
            if extras.coarse {
                slot.selection.write_labels(&self.label_of_channel, &mut outputs.coarse.data);
            }
            outputs.entropy.clear();
            outputs.entropy_size = Size::default();
            if extras.entropy {
                let mut selection = std::mem::take(&mut slot.selection);
                selection.complete_entropy(&slot.logits(self.classes()), &slot.grid_geometry);
                slot.selection = selection;
                outputs.entropy_size = slot.selection.lattice();
                outputs.entropy.extend_from_slice(slot.selection.entropy());
            }
            outputs.refined.data.clear();
            outputs.refined.size = if extras.refined { size } else { Size::default() };
            outputs.refined.data.resize(outputs.refined.size.pixels(), 0);
            if extras.refined && self.refinement.is_some() {
                for pixel in slot.sites.pixels() {
                    outputs.refined.data
                        [usize::from(pixel.row) * size.width as usize + usize::from(pixel.col)] = 255;
                }
            }
        });
        Ok(slot.report.clone())
    }
}
