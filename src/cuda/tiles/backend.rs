//! The stages of the pipeline for `spatial_sparsity` as work enqueued on a slot's stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::column::{ColumnEngine, TensorAt};
use super::host::HostEngine;
use super::launch::{Batch, RECORD, record};
use super::slot::{CudaTileSlot, TileBuffers, TileSpec, fine_inputs, put};
use crate::cuda::backend::{DEADLINE, lost};
use crate::cuda::device::Device;
use crate::cuda::error::{CudaError, During};
use crate::cuda::front::DeviceNormalisation;
use crate::cuda::launch::Launcher;
use crate::cuda::memory::{Allocator, Buffer, Pinned};
use crate::cuda::outputs::Downloaded;
use crate::cuda::precision::Precision;
use crate::cuda::segmenter::{DeviceTensor, Element, SegmentError};
use crate::cuda::timeline::until_done;
use crate::cuda::weights::Uploader;
use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::{ColumnsPlan, Plan};
use crate::tiles::{Layout, Networks, launches, map_shape};
use crate::types::{Frame, FrameError, FrameReport, Size, Stage};

/// Networks and tables; frames live in slots.
pub struct CudaTileBackend {
    // Dropped before the device.
    normalisation: DeviceNormalisation,
    label_of_channel: Buffer<u8>,
    coarse: Arc<dyn ColumnEngine>,
    fine: Option<Arc<dyn ColumnEngine>>,
    plan: Plan,
    columns: ColumnsPlan,
    /// Bits of the f32 in force.
    threshold: AtomicU32,
    device: Arc<Device>,
}

/// Why a stage's work was not enqueued.
enum Refusal {
    Device(CudaError),
    Network(SegmentError),
}

impl From<CudaError> for Refusal {
    fn from(error: CudaError) -> Self {
        Self::Device(error)
    }
}

impl From<SegmentError> for Refusal {
    fn from(error: SegmentError) -> Self {
        Self::Network(error)
    }
}

impl Refusal {
    fn in_stage(self, stage: Stage) -> StageError {
        match self {
            Self::Device(error) => lost(stage.name())(error),
            Self::Network(error) => error.in_stage(stage),
        }
    }
}

impl CudaTileBackend {
    /// Opens the device and loads the columns of a plan for `spatial_sparsity`; both run on the host.
    ///
    /// # Panics
    /// If the plan is for the other method.
    pub fn new(plan: Plan) -> Result<Self, BackendError> {
        let device = Arc::new(Device::open()?);
        let Networks { coarse, fine } = Networks::load(&plan)?;
        let host = |network| -> Arc<dyn ColumnEngine> {
            Arc::new(HostEngine::new(network, plan.segmenter.engine, device.clone()))
        };
        let (coarse, fine) = (host(coarse), fine.map(host));
        Self::with_engines(plan, device, coarse, fine)
    }

    /// With columns that run anywhere. There is a fine one if the plan has one.
    ///
    /// # Panics
    /// If the plan is for the other method.
    pub fn with_engines(
        plan: Plan,
        device: Arc<Device>,
        coarse: Arc<dyn ColumnEngine>,
        fine: Option<Arc<dyn ColumnEngine>>,
    ) -> Result<Self, BackendError> {
        let columns = plan.columns.clone().expect("a plan of spatial_sparsity");
        assert_eq!(columns.fine.is_some(), fine.is_some(), "an engine for every column");
        device.context.bind_to_thread().during("binding the context")?;
        let stream = device.context.new_stream().during("a stream")?;
        let mut allocator = Allocator::new(&device.context);
        let launcher = Launcher { device: &device, stream: &stream };
        let mut uploader =
            Uploader { allocator: &mut allocator, launcher: Some(&launcher), precision: Precision::Single };
        Ok(Self {
            normalisation: uploader.normalisation(&plan.segmenter.normalisation)?,
            label_of_channel: uploader.label_of_channel(&plan)?,
            coarse,
            fine,
            threshold: AtomicU32::new(plan.alpha.to_bits()),
            plan,
            columns,
            device,
        })
    }

    /// The device's name and architecture.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// What runs the columns.
    pub fn engine_name(&self) -> String {
        self.coarse.name()
    }

    fn classes(&self) -> usize {
        self.plan.classes.len()
    }

    fn feature_channels(&self) -> usize {
        self.columns.features.as_ref().map_or(0, |(_, channels)| *channels)
    }

    /// Whether the fine column's engine can be run on the windows and the image of a camera.
    fn check_runs(&self, spec: &TileSpec<'_>) -> Result<(), FrameError> {
        let Some(engine) = &self.fine else { return Ok(()) };
        match spec.fine_runs().into_iter().find(|run| !engine.accepts(run)) {
            None => Ok(()),
            Some(run) => {
                let [size, _, height, width] = run[0];
                let (camera, engine) = (spec.layout.camera, engine.name());
                Err(FrameError::Segmenter {
                    why: format!(
                        "at {camera} the fine column runs on {size} windows of {width}x{height}, for which there is no \
                         engine ({engine}); use --backend cuda or cpu"
                    ),
                })
            }
        }
    }

    /// Makes the memory, streams and events of a slot, after checking that they fit.
    fn make_slot(&self, spec: &TileSpec<'_>) -> Result<CudaTileSlot, CudaError> {
        let mut dry = Allocator::dry();
        TileBuffers::new(&mut dry, None, spec)?;
        let workspaces = [Some(&self.coarse), self.fine.as_ref()].into_iter().flatten();
        let beside = workspaces.map(|engine| engine.workspace_bytes()).sum();
        self.device.ensure_fits(&dry, beside, spec.layout.camera)?;
        let stream = self.device.context.new_stream().during("a stream")?;
        let launcher = Launcher { device: &self.device, stream: &stream };
        let mut allocator = Allocator::new(&self.device.context);
        let buffers = TileBuffers::new(&mut allocator, Some(&launcher), spec)?;
        let column = |engine: &Arc<dyn ColumnEngine>, [inputs, outputs]: [Vec<usize>; 2]| {
            let column = engine.column(&inputs, &outputs);
            column.map_err(|error| CudaError::Segmenter { why: error.to_string() })
        };
        let coarse = column(&self.coarse, spec.coarse_lengths())?;
        let fine = self.fine.as_ref().map(|engine| column(engine, spec.fine_lengths())).transpose()?;
        CudaTileSlot::new(&self.device, stream, buffers, (coarse, fine), spec)
    }

    /// Enqueues a stage's work and marks its end.
    fn stage(
        &self,
        slot: &mut CudaTileSlot,
        stage: Stage,
        work: impl FnOnce(&Launcher<'_>, &mut CudaTileSlot) -> Result<(), Refusal>,
    ) -> Result<(), StageError> {
        let enqueue = |slot: &mut CudaTileSlot| {
            self.device.context.bind_to_thread().during("binding the context")?;
            let stream = slot.stream.clone();
            slot.in_flight = true;
            work(&Launcher { device: &self.device, stream: &stream }, slot)?;
            Ok(slot.timeline.record(stage, &stream)?)
        };
        enqueue(slot).map_err(|refusal: Refusal| refusal.in_stage(stage))
    }

    fn stretch_scores(&self, launcher: &Launcher<'_>, slot: &mut CudaTileSlot) -> Result<(), CudaError> {
        let TileBuffers { coarse_scores, scores, stretch, .. } = &mut slot.buffers;
        launcher.stretch_scores(coarse_scores, scores, self.classes(), &slot.layout, stretch)
    }

    fn label(&self, launcher: &Launcher<'_>, slot: &mut CudaTileSlot) -> Result<(), CudaError> {
        let TileBuffers { scores, taps, labels, .. } = &mut slot.buffers;
        launcher.label_pixels(scores, self.classes(), &slot.layout, taps, &self.label_of_channel, labels)
    }

    #[allow(unsafe_code, reason = "addresses for the network")]
    fn run_coarse(&self, launcher: &Launcher<'_>, slot: &mut CudaTileSlot) -> Result<(), SegmentError> {
        let tensors = &self.plan.segmenter.tensors;
        let (cells, buffers) = (slot.layout.cells, &slot.buffers);
        let of = |channels, address| TensorAt { shape: map_shape(1, channels, cells), address };
        let input = TensorAt { shape: map_shape(1, 3, tensors.size), address: buffers.input.address() };
        let mut outputs =
            vec![of(tensors.channels, buffers.coarse_scores.address()), of(1, buffers.weights.address())];
        if self.feature_channels() > 0 {
            outputs.push(of(self.feature_channels(), buffers.features.address()));
        }
        // SAFETY: the slot's buffers are as long as these tensors and live as long as the slot, whose stream this is.
        unsafe { slot.coarse.enqueue(&[input], &outputs, launcher.stream.cu_stream().cast()) }
    }

    /// The fine column on the kept tiles, or on the whole image where that is no more work.
    fn run_fine(&self, launcher: &Launcher<'_>, slot: &mut CudaTileSlot) -> Result<(), Refusal> {
        let (layout, kept) = (slot.layout, slot.selection.kept().len());
        if layout.whole_is_less_work(kept) {
            slot.report.sites[1] = layout.tiles().pixels() as u32;
            return self.run_batch(launcher, slot, (0, 1, 1), layout.canvas);
        }
        slot.report.sites[1] = kept as u32;
        let sizes = self.columns.fine.as_ref().map_or(&[][..], |fine| &fine.batch);
        let mut first = 0;
        for (count, size) in launches(kept, sizes) {
            self.run_batch(launcher, slot, (first, count, size), layout.window_size())?;
            first += count;
        }
        Ok(())
    }

    /// Runs the fine column on `count` windows from the `first` on, with empty ones after them up to `size`, and puts
    /// its scores where they belong. The whole canvas is a window whose scores are the grid's.
    #[allow(unsafe_code, reason = "addresses for the network")]
    fn run_batch(
        &self,
        launcher: &Launcher<'_>,
        slot: &mut CudaTileSlot,
        (first, count, size): (usize, usize, usize),
        window: Size,
    ) -> Result<(), Refusal> {
        let (layout, features) = (slot.layout, self.feature_channels());
        let channels = self.plan.segmenter.tensors.channels;
        let whole = window == layout.canvas;
        let buffers = &mut slot.buffers;
        let TileBuffers { image, tiles, windows, window_features, window_scores, fine_scores, .. } = buffers;
        let batch = Batch { tiles, first, count, size, window };
        launcher.gather_windows(&image.rgb, layout.camera, &batch, &self.normalisation, windows)?;
        if features > 0 {
            launcher.gather_features(&buffers.features, features, &layout, &batch, window_features)?;
        }
        let shapes = fine_inputs(&layout, features, size, window);
        let addresses = [windows.address(), window_features.address()];
        let inputs: Vec<_> =
            shapes.into_iter().zip(addresses).map(|(shape, address)| TensorAt { shape, address }).collect();
        let shape = map_shape(size, channels, batch.on_grid(layout.stride));
        let out = if whole { &*fine_scores } else { &*window_scores };
        assert!(out.len() >= shape.iter().product(), "{shape:?}");
        let scores = TensorAt { shape, address: out.address() };
        let column = slot.fine.as_mut().expect("tiles are selected for a fine column");
        // SAFETY: the slot's buffers are as long as these tensors, checked here and by the launches, and live as long as
        // the slot, whose stream this is.
        unsafe { column.enqueue(&inputs, &[scores], launcher.stream.cu_stream().cast())? };
        if !whole {
            let maps = [channels, self.classes()];
            launcher.scatter_scores(window_scores, maps, &layout, &batch, fine_scores)?;
        }
        Ok(())
    }

    /// Selects on the host, and sends gate and tiles up.
    fn select_tiles(
        &self,
        launcher: &Launcher<'_>,
        slot: &mut CudaTileSlot,
        budget: PixelBudget,
    ) -> Result<(), CudaError> {
        let CudaTileSlot { buffers, selection, layout, report, .. } = slot;
        let layout: &Layout = layout;
        let threshold = self.columns.threshold(f32::from_bits(self.threshold.load(Ordering::Relaxed)));
        let capacity = budget.0.min(slot.capacity);
        selection.select(buffers.pinned_weights.as_slice(), layout, threshold, capacity);
        selection.report(layout, report);
        let count = put(&mut buffers.pinned_gate, selection.gate());
        launcher.upload(&buffers.pinned_gate, &mut buffers.gate, count)?;
        let kept = selection.kept();
        let at = |&tile: &u32| record(layout.window(tile), layout.core(tile));
        let whole = record(layout.whole(), layout.whole());
        let records = buffers.pinned_tiles.as_mut_slice().chunks_exact_mut(RECORD);
        if layout.whole_is_less_work(kept.len()) {
            records.take(1).for_each(|to| to.copy_from_slice(&whole));
        } else {
            records.zip(kept).for_each(|(to, tile)| to.copy_from_slice(&at(tile)));
        }
        launcher.upload(&buffers.pinned_tiles, &mut buffers.tiles, kept.len() * RECORD)
    }
}

impl Backend for CudaTileBackend {
    type Slot = CudaTileSlot;

    /// Here alpha is the threshold on the weight map; `ctf` has none.
    fn set_alpha(&self, alpha: f32) {
        self.threshold.store(alpha.to_bits(), Ordering::Relaxed);
    }

    fn slot(&self, camera: Size) -> Result<CudaTileSlot, StageError> {
        let spec = TileSpec::new(&self.plan, camera)?;
        self.check_runs(&spec)?;
        self.device.context.bind_to_thread().during("binding the context").map_err(lost("plan"))?;
        self.make_slot(&spec).map_err(lost("plan"))
    }

    fn upload(&self, slot: &mut CudaTileSlot, frame: &Frame<'_>) -> Result<(), StageError> {
        if slot.in_flight {
            // The frame before ended early: its copies may still read the page-locked image.
            let stream = slot.stream.clone();
            slot.timeline.drain(&stream, DEADLINE).map_err(lost("upload"))?;
        }
        slot.report = FrameReport::of(frame, self.plan.mode);
        let start = Instant::now();
        slot.buffers.image.fill(frame);
        slot.report.stages.add(Stage::Upload, start.elapsed().as_secs_f64() * 1e3);
        self.stage(slot, Stage::Upload, |launcher, slot| {
            slot.timeline.begin(launcher.stream)?;
            Ok(slot.buffers.image.enqueue(launcher, frame)?)
        })
    }

    fn segment(&self, slot: &mut CudaTileSlot) -> Result<(), StageError> {
        let geometry = slot.geometry;
        self.stage(slot, Stage::Preprocess, |launcher, slot| {
            let TileBuffers { image, input, .. } = &mut slot.buffers;
            let shape = map_shape(1, 3, geometry.grid);
            let tensor = DeviceTensor { shape, element: Element::F32 };
            Ok(launcher.area_resize(&image.rgb, input, tensor, &geometry, &self.normalisation)?)
        })?;
        self.stage(slot, Stage::Segment, |launcher, slot| Ok(self.run_coarse(launcher, slot)?))
    }

    fn select(&self, slot: &mut CudaTileSlot, budget: PixelBudget) -> Result<(), StageError> {
        self.stage(slot, Stage::Select, |launcher, slot| {
            let (cells, classes) = (slot.layout.cells, self.classes());
            let TileBuffers { weights, pinned_weights, coarse_scores, tainted, .. } = &mut slot.buffers;
            launcher.download(weights, pinned_weights, cells.pixels())?;
            slot.weights_read.record(launcher.stream).during("recording an event")?;
            launcher.count_tainted_cells(coarse_scores, weights, classes, cells, tainted)?;
            self.stretch_scores(launcher, slot)?;
            if self.fine.is_none() {
                return Ok(self.label(launcher, slot)?);
            }
            until_done(&slot.weights_read, DEADLINE)?;
            Ok(self.select_tiles(launcher, slot, budget)?)
        })
    }

    fn refine(&self, slot: &mut CudaTileSlot) -> Result<(), StageError> {
        if self.fine.is_none() {
            return Ok(());
        }
        self.stage(slot, Stage::Refine, |launcher, slot| match slot.selection.kept() {
            [] => Ok(()),
            _ => self.run_fine(launcher, slot),
        })
    }

    fn fuse(&self, slot: &mut CudaTileSlot) -> Result<(), StageError> {
        if self.fine.is_none() {
            return Ok(());
        }
        self.stage(slot, Stage::Fuse, |launcher, slot| {
            if !slot.selection.kept().is_empty() {
                let TileBuffers { scores, fine_scores, gate, .. } = &mut slot.buffers;
                launcher.fuse_columns(scores, fine_scores, gate, self.classes(), &slot.layout)?;
            }
            Ok(self.label(launcher, slot)?)
        })
    }

    fn finish(
        &self,
        slot: &mut CudaTileSlot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        self.stage(slot, Stage::Download, |launcher, slot| {
            let pixels = slot.layout.camera.pixels();
            let buffers = &mut slot.buffers;
            launcher.download(&buffers.labels, &mut buffers.pinned_labels, pixels)?;
            launcher.download(&buffers.tainted, &mut buffers.pinned_tainted, 1)?;
            if extras.coarse {
                // The fused scores are not needed any more.
                self.stretch_scores(launcher, slot)?;
                let TileBuffers { scores, taps, extra, .. } = &mut slot.buffers;
                let of = &self.label_of_channel;
                launcher.label_pixels(scores, self.classes(), &slot.layout, taps, of, extra)?;
                let pinned = Pinned::on_demand(&mut slot.pinned_coarse, &self.device.context, pixels)?;
                launcher.download(extra, pinned, pixels)?;
            }
            Ok(())
        })?;
        slot.timeline.wait(DEADLINE).map_err(lost("download"))?;
        slot.in_flight = false;
        slot.report.non_finite_cells = slot.buffers.pinned_tainted.as_slice()[0];
        let downloaded = Downloaded {
            camera: slot.layout.camera,
            labels: &slot.buffers.pinned_labels,
            coarse: slot.pinned_coarse.as_ref(),
            refined: None,
            entropy: Some(&slot.buffers.pinned_weights),
            entropy_size: slot.layout.cells,
        };
        downloaded.hand_out(extras, outputs);
        if extras.refined {
            slot.selection.draw(&slot.layout, &mut outputs.refined.data);
        }
        slot.timeline.add_times(&mut slot.report).map_err(lost("download"))?;
        Ok(slot.report.clone())
    }
}
