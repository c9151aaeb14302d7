//! The stages of the pipeline for `spatial_sparsity`, on the CPU.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::fuse::fuse_tile;
use super::gather::{Levels, copy_maps};
use super::labels::Columns;
use crate::cpu::backend::span;
use crate::cpu::pixels;
use crate::cpu::resize::AreaResize;
use crate::cpu::upsample::Upsampler;
use crate::onnx::{Input, Network, OnnxError};
use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::{ColumnsPlan, FinePlan, Plan};
use crate::tiles::{Layout, Networks, Rect, TileSelection, launches, map_shape};
use crate::types::{Frame, FrameError, FrameReport, LabelImage, Size, Stage};

/// Networks and threads; frames live in slots.
pub struct TileBackend {
    plan: Plan,
    columns: ColumnsPlan,
    coarse: Network,
    fine: Option<(FinePlan, Network)>,
    levels: Levels,
    label_of_channel: Vec<u8>,
    /// Bits of the f32 in force.
    threshold: AtomicU32,
    pool: ThreadPool,
}

/// One frame in flight.
pub struct TileSlot {
    pub(super) layout: Layout,
    resize: AreaResize,
    upsampler: Upsampler,
    label_columns: Columns,
    rgb: Vec<u8>,
    input: Vec<f32>,
    /// The coarse column's scores, weights and, with cross-column connections, features.
    coarse_scores: Vec<f32>,
    pub(super) weights: Vec<f32>,
    features: Vec<f32>,
    pub(super) selection: TileSelection,
    /// What goes into one launch of the fine column, and what comes out.
    windows: Vec<f32>,
    window_features: Vec<f32>,
    window_scores: Vec<f32>,
    /// The fine column's scores on its grid; old where no tile of this frame lies.
    fine_scores: Vec<f32>,
    /// Upsampled coarse scores, then the fused ones.
    pub(super) scores: Vec<f32>,
    labels: LabelImage,
    pub(super) report: FrameReport,
}

fn frame_error(error: &OnnxError) -> StageError {
    StageError::Frame(FrameError::Segmenter { why: error.to_string() })
}

impl TileBackend {
    /// Loads the networks of a plan for `spatial_sparsity` and runs the fine one on an empty window.
    ///
    /// # Panics
    /// If the plan is for the other method.
    pub fn new(plan: Plan) -> Result<Self, BackendError> {
        let columns = plan.columns.clone().expect("a plan of spatial_sparsity");
        let pool = ThreadPoolBuilder::new()
            .num_threads(plan.threads)
            .thread_name(|index| format!("cpu-{index}"))
            .build()
            .map_err(|why| {
                BackendError::Resources(format!("cannot start {} threads: {why}", plan.threads))
            })?;
        let Networks { coarse, fine } = Networks::load(&plan)?;
        Ok(Self {
            coarse,
            fine: columns.fine.clone().zip(fine),
            levels: Levels::new(&plan.segmenter.normalisation),
            label_of_channel: plan.label_of_channel(),
            threshold: AtomicU32::new(plan.alpha.to_bits()),
            columns,
            plan,
            pool,
        })
    }

    /// What it was built for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn classes(&self) -> usize {
        self.plan.classes.len()
    }

    fn feature_channels(&self) -> usize {
        self.columns.features.as_ref().map_or(0, |(_, channels)| *channels)
    }

    /// Runs a stage on the backend's threads, timed and traced.
    fn stage<R: Send>(
        &self,
        slot: &mut TileSlot,
        stage: Stage,
        work: impl FnOnce(&mut TileSlot) -> R + Send,
    ) -> R {
        let _span = span(stage).entered();
        let start = Instant::now();
        let result = self.pool.install(|| work(slot));
        slot.report.stages.add(stage, start.elapsed().as_secs_f64() * 1e3);
        result
    }

    fn write_labels(&self, slot: &mut TileSlot) {
        let TileSlot { label_columns, scores, layout, labels, .. } = slot;
        label_columns.write_labels(scores, layout, &self.label_of_channel, &mut labels.data);
    }

    /// Coarse scores on the fine column's grid.
    fn upsample(&self, slot: &TileSlot, out: &mut [f32]) {
        slot.upsampler.run(&slot.coarse_scores[..self.classes() * slot.layout.cells.pixels()], out);
    }

    /// The fine column on the kept tiles, or on the whole image where that is no more work.
    fn run_fine(&self, slot: &mut TileSlot, plan: &FinePlan, network: &Network) -> Result<(), OnnxError> {
        let layout = slot.layout;
        let kept = std::mem::take(&mut slot.selection);
        let tiles = kept.kept();
        let result = if layout.whole_is_less_work(tiles.len()) {
            slot.report.sites[1] = layout.tiles().pixels() as u32;
            self.launch(slot, network, &[layout.whole()], 1).map(|()| {
                std::mem::swap(&mut slot.window_scores, &mut slot.fine_scores);
            })
        } else {
            slot.report.sites[1] = tiles.len() as u32;
            self.run_tiles(slot, plan, network, tiles)
        };
        slot.selection = kept;
        result
    }

    fn run_tiles(
        &self,
        slot: &mut TileSlot,
        plan: &FinePlan,
        network: &Network,
        tiles: &[u32],
    ) -> Result<(), OnnxError> {
        let layout = slot.layout;
        let positions = layout.positions;
        slot.fine_scores.resize(self.classes() * positions.pixels(), 0.0);
        let mut done = 0;
        for (count, size) in launches(tiles.len(), &plan.batch) {
            let tiles = &tiles[done..done + count];
            done += count;
            let windows: Vec<Rect> = tiles.iter().map(|&tile| layout.window(tile)).collect();
            self.launch(slot, network, &windows, size)?;
            let window_size = layout.window_size();
            let grid = Rect { x: 0, y: 0, size: window_size }.on_grid(layout.stride).size;
            let each = slot.window_scores.len() / size;
            for ((&tile, window), scores) in
                tiles.iter().zip(&windows).zip(slot.window_scores.chunks_exact(each))
            {
                let core = layout.core(tile).on_grid(layout.stride);
                let window = window.on_grid(layout.stride);
                let inside = Rect { x: core.x - window.x, y: core.y - window.y, size: core.size };
                // The first classes; channels beyond them come after.
                let scores = &scores[..self.classes() * grid.pixels()];
                copy_maps(scores, (grid, inside), &mut slot.fine_scores, (positions, core));
            }
        }
        Ok(())
    }

    /// Runs the fine column on windows of one size, with empty ones after them up to `size`. The scores are left in
    /// `window_scores`.
    fn launch(
        &self,
        slot: &mut TileSlot,
        network: &Network,
        windows: &[Rect],
        size: usize,
    ) -> Result<(), OnnxError> {
        let layout = slot.layout;
        let window = windows[0].size;
        let (image, each) = (3 * window.pixels(), windows[0].on_grid(layout.cell).size);
        slot.windows.resize(size * image, 0.0);
        slot.windows[windows.len() * image..].fill(0.0);
        for (rect, out) in windows.iter().zip(slot.windows.chunks_exact_mut(image)) {
            self.levels.window(&slot.rgb, layout.camera, *rect, out);
        }
        let channels = self.feature_channels();
        let mut inputs: Vec<Input<'_>> = vec![(map_shape(size, 3, window), &slot.windows)];
        if channels > 0 {
            let features = channels * each.pixels();
            slot.window_features.resize(size * features, 0.0);
            slot.window_features[windows.len() * features..].fill(0.0);
            for (rect, out) in windows.iter().zip(slot.window_features.chunks_exact_mut(features)) {
                let from = rect.on_grid(layout.cell);
                let to = Rect { x: 0, y: 0, ..from };
                copy_maps(&slot.features, (layout.cells, from), out, (each, to));
            }
            inputs.push((map_shape(size, channels, each), &slot.window_features));
        }
        let scores = windows[0].on_grid(layout.stride).size;
        let shape = map_shape(size, self.plan.segmenter.tensors.channels, scores);
        network.run(&inputs, &mut [(shape, &mut slot.window_scores)])?;
        if windows.len() == 1 && size == 1 {
            slot.window_scores.truncate(self.classes() * scores.pixels());
        }
        Ok(())
    }
}

impl Backend for TileBackend {
    type Slot = TileSlot;

    /// Here alpha is the threshold on the weight map; `ctf` has none.
    fn set_alpha(&self, alpha: f32) {
        self.threshold.store(alpha.to_bits(), Ordering::Relaxed);
    }

    fn slot(&self, camera: Size) -> Result<TileSlot, StageError> {
        let (geometry, layout) = (self.plan.geometry(camera)?, Layout::of(&self.plan, camera)?);
        let segmenter = &self.plan.segmenter;
        Ok(TileSlot {
            layout,
            resize: AreaResize::new(&geometry, segmenter.normalisation),
            upsampler: Upsampler::new(layout.cells, layout.positions),
            label_columns: Columns::new(&layout),
            rgb: vec![0; camera.pixels() * 3],
            input: vec![0.0; 3 * segmenter.tensors.size.pixels()],
            coarse_scores: Vec::new(),
            weights: Vec::new(),
            features: Vec::new(),
            selection: TileSelection::default(),
            windows: Vec::new(),
            window_features: Vec::new(),
            window_scores: Vec::new(),
            fine_scores: Vec::new(),
            scores: vec![0.0; self.classes() * layout.positions.pixels()],
            labels: LabelImage::unlabelled(camera),
            report: FrameReport::default(),
        })
    }

    fn upload(&self, slot: &mut TileSlot, frame: &Frame<'_>) -> Result<(), StageError> {
        slot.report = FrameReport::of(frame, self.plan.mode);
        self.stage(slot, Stage::Upload, |slot| pixels::to_rgb8(frame, &mut slot.rgb));
        Ok(())
    }

    fn segment(&self, slot: &mut TileSlot) -> Result<(), StageError> {
        self.stage(slot, Stage::Preprocess, |slot| slot.resize.run(&slot.rgb, &mut slot.input));
        self.stage(slot, Stage::Segment, |slot| {
            let tensors = &self.plan.segmenter.tensors;
            let cells = slot.layout.cells;
            let mut outputs = vec![
                (map_shape(1, tensors.channels, cells), &mut slot.coarse_scores),
                (map_shape(1, 1, cells), &mut slot.weights),
            ];
            if self.columns.features.is_some() {
                outputs.push((map_shape(1, self.feature_channels(), cells), &mut slot.features));
            }
            self.coarse.run(&[(map_shape(1, 3, tensors.size), &slot.input)], &mut outputs)
        })
        .map_err(|error| frame_error(&error))
    }

    fn select(&self, slot: &mut TileSlot, budget: PixelBudget) -> Result<(), StageError> {
        self.stage(slot, Stage::Select, |slot| {
            let mut scores = std::mem::take(&mut slot.scores);
            self.upsample(slot, &mut scores);
            slot.scores = scores;
            let plane = slot.layout.cells.pixels();
            let coarse = &slot.coarse_scores[..self.classes() * plane];
            let tainted = |cell: &usize| {
                !slot.weights[*cell].is_finite()
                    || coarse[*cell..].iter().step_by(plane).any(|score| !score.is_finite())
            };
            slot.report.non_finite_cells = (0..plane).filter(tainted).count() as u32;
            if self.fine.is_none() {
                self.write_labels(slot);
                return;
            }
            let alpha = f32::from_bits(self.threshold.load(Ordering::Relaxed));
            slot.selection.select(&slot.weights, &slot.layout, self.columns.threshold(alpha), budget.0);
            slot.selection.report(&slot.layout, &mut slot.report);
        });
        Ok(())
    }

    fn refine(&self, slot: &mut TileSlot) -> Result<(), StageError> {
        let Some((plan, network)) = &self.fine else { return Ok(()) };
        self.stage(slot, Stage::Refine, |slot| match slot.selection.kept() {
            [] => Ok(()),
            _ => self.run_fine(slot, plan, network),
        })
        .map_err(|error| frame_error(&error))
    }

    fn fuse(&self, slot: &mut TileSlot) -> Result<(), StageError> {
        if self.fine.is_none() {
            return Ok(());
        }
        self.stage(slot, Stage::Fuse, |slot| {
            for &tile in slot.selection.kept() {
                let gate = slot.selection.gate();
                fuse_tile(&mut slot.scores, &slot.fine_scores, gate, &slot.layout, tile);
            }
            self.write_labels(slot);
        });
        Ok(())
    }

    fn finish(
        &self,
        slot: &mut TileSlot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        self.stage(slot, Stage::Download, |slot| {
            let size = slot.labels.size;
            // The caller's old buffer becomes the slot's next one: nothing is copied.
            std::mem::swap(&mut outputs.labels, &mut slot.labels);
            slot.labels.size = size;
            slot.labels.data.resize(size.pixels(), 0);
            outputs.entropy.clear();
            outputs.entropy_size = Size::default();
            if extras.entropy {
                outputs.entropy_size = slot.layout.cells;
                outputs.entropy.extend_from_slice(&slot.weights);
            }
            outputs.refined.data.clear();
            outputs.refined.size = if extras.refined { size } else { Size::default() };
            outputs.refined.data.resize(outputs.refined.size.pixels(), 0);
            if extras.refined {
                slot.selection.draw(&slot.layout, &mut outputs.refined.data);
            }
            outputs.coarse.size = if extras.coarse { size } else { Size::default() };
            outputs.coarse.data.resize(outputs.coarse.size.pixels(), 0);
            if extras.coarse {
                // The fused scores are not needed any more.
                let mut scores = std::mem::take(&mut slot.scores);
                self.upsample(slot, &mut scores);
                let columns = &slot.label_columns;
                columns.write_labels(&scores, &slot.layout, &self.label_of_channel, &mut outputs.coarse.data);
                slot.scores = scores;
            }
        });
        Ok(slot.report.clone())
    }
}
