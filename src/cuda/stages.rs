//! What each stage enqueues on a slot's stream, in the order of `pipeline::process`.

use super::backend::{CudaBackend, Refinement};
use super::error::CudaError;
use super::front::{CoarseTables, LogitsAt};
use super::launch::Launcher;
use super::memory::Buffer;
use super::network::{NetworkBuffers, Scene};
use super::segmenter::Element;
use super::slot::{CudaSlot, SlotBuffers};
use crate::bundle::refiner::{Bound, Features};
use crate::pipeline::StageError;
use crate::types::{Size, Stage};

impl CudaBackend {
    /// A stage that depends on nothing but what is on the device.
    pub(super) fn enqueue(
        &self,
        stage: Stage,
        launcher: &Launcher<'_>,
        slot: &mut CudaSlot,
    ) -> Result<(), CudaError> {
        match (stage, &self.refinement) {
            (Stage::Preprocess, _) => self.enqueue_resize(launcher, slot),
            (Stage::Segment, _) => self.enqueue_logits(launcher, slot),
            (Stage::Select, _) => self.enqueue_selection(launcher, slot),
            (Stage::Refine, Some(refinement)) => refinement.enqueue(launcher, &mut slot.buffers),
            (Stage::Fuse, Some(refinement)) => self.enqueue_fusion(refinement, launcher, slot),
            _ => Ok(()),
        }
    }

    fn enqueue_resize(&self, launcher: &Launcher<'_>, slot: &mut CudaSlot) -> Result<(), CudaError> {
        let SlotBuffers { image, input, triangle, .. } = &mut slot.buffers;
        let (geometry, tensor, normalisation) =
            (&slot.geometry, self.engine.input(), &self.segmenter_normalisation);
        match triangle {
            Some(triangle) => {
                launcher.bilinear_resize(&image.rgb, input, tensor, geometry, normalisation, triangle)
            }
            None => launcher.area_resize(&image.rgb, input, tensor, geometry, normalisation),
        }
    }

    /// Enqueues the dense network. A frame it refuses is an outcome, a lost device is not.
    #[allow(unsafe_code, reason = "addresses for the engine")]
    pub(super) fn enqueue_network(&self, slot: &mut CudaSlot) -> Result<(), StageError> {
        let _span = tracing::info_span!("segment").entered();
        let (input, output) = (slot.buffers.input.address(), slot.buffers.output.address());
        let stream = slot.stream.cu_stream().cast();
        // SAFETY: the slot's buffers are as long as the engine's tensors and live as long as the slot, whose stream this is.
        let enqueued = unsafe { slot.segmenter.enqueue(input, output, stream) };
        enqueued.map_err(|error| error.in_stage(Stage::Segment))
    }

    /// The engine's logits as floats on the selection grid.
    fn enqueue_logits(&self, launcher: &Launcher<'_>, slot: &mut CudaSlot) -> Result<(), CudaError> {
        let (classes, output) = (self.classes(), self.engine.output());
        let (from, grid) =
            (Size::new(output.shape[3] as u32, output.shape[2] as u32), slot.buffers.tables.grid);
        let buffers = &mut slot.buffers;
        if output.element == Element::F16 {
            launcher.widen(&buffers.output, &mut buffers.wide_logits, classes * from.pixels())?;
        }
        if from != grid {
            let logits = buffers.network_logits();
            launcher.upsample(&logits, &mut buffers.grid_logits, classes, from, grid, &buffers.stretch)?;
        }
        Ok(())
    }

    /// Entropy, base labels, and the pixels to refine; alpha and budget lie in the page-locked settings.
    fn enqueue_selection(&self, launcher: &Launcher<'_>, slot: &mut CudaSlot) -> Result<(), CudaError> {
        let logits = slot.buffers.logits();
        let buffers = &mut slot.buffers;
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
    }

    fn enqueue_fusion(
        &self,
        refinement: &Refinement,
        launcher: &Launcher<'_>,
        slot: &mut CudaSlot,
    ) -> Result<(), CudaError> {
        let logits = slot.buffers.logits();
        let buffers = &mut slot.buffers;
        let scene = refinement.scene(&buffers.image.rgb, &buffers.tables, logits);
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
    }
}

impl Refinement {
    pub(super) fn scene<'a>(
        &'a self,
        rgb: &'a Buffer<u8>,
        tables: &'a CoarseTables,
        logits: LogitsAt,
    ) -> Scene<'a> {
        let probabilities = self.plan.features == Features::RgbProbabilities;
        Scene { rgb, normalisation: &self.normalisation, logits, tables, probabilities }
    }

    /// Sites and maps of every level, and the sparse network over them.
    fn enqueue(&self, launcher: &Launcher<'_>, buffers: &mut SlotBuffers) -> Result<(), CudaError> {
        let logits = buffers.logits();
        let active = self.plan.bound == Bound::Active;
        let (sums, counters) = (&mut buffers.block_sums, &mut buffers.counters);
        launcher.build_levels(&mut buffers.levels, active, sums, counters)?;
        let scene = self.scene(&buffers.image.rgb, &buffers.tables, logits);
        let features = buffers.features.as_mut().expect("a refiner has feature rows");
        match features {
            NetworkBuffers::Single(rows) => {
                launcher.refine(&self.network, &scene, &buffers.levels, rows, counters)
            }
            NetworkBuffers::Half(rows) => {
                launcher.refine(&self.network, &scene, &buffers.levels, rows, counters)
            }
        }
    }
}
