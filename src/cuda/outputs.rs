//! The end of a frame: copies to the host, and what the caller gets.

use super::backend::CudaBackend;
use super::error::CudaError;
use super::front::{NON_FINITE, NON_FINITE_CELLS, SELECTED, SITES};
use super::launch::Launcher;
use super::memory::Pinned;
use super::slot::CudaSlot;
use crate::pipeline::{Extras, FrameOutputs};
use crate::types::{LabelImage, Size};

impl CudaBackend {
    /// Enqueues the copies of labels, counters and what else is asked for.
    pub(super) fn enqueue_download(
        &self,
        launcher: &Launcher<'_>,
        slot: &mut CudaSlot,
        extras: Extras,
    ) -> Result<(), CudaError> {
        let (refined, context) = (self.refinement.is_some(), &self.device.context);
        let CudaSlot { buffers, pinned_coarse, pinned_refined, pinned_entropy, .. } = slot;
        let camera = buffers.tables.camera;
        let pixels = camera.pixels();
        launcher.download(&buffers.labels, &mut buffers.pinned_labels, pixels)?;
        launcher.download(&buffers.counters, &mut buffers.pinned_counters, buffers.counters.len())?;
        if extras.coarse {
            let (lattice, tables) = (&buffers.lattice, &buffers.tables);
            launcher.write_labels(lattice, tables, &self.label_of_channel, &mut buffers.extra)?;
            launcher.download(&buffers.extra, Pinned::on_demand(pinned_coarse, context, pixels)?, pixels)?;
        }
        if extras.refined && refined {
            launcher.fill(&mut buffers.extra, pixels, 0)?;
            launcher.mark_sites(&buffers.levels[0], &buffers.counters, &mut buffers.extra, camera)?;
            launcher.download(&buffers.extra, Pinned::on_demand(pinned_refined, context, pixels)?, pixels)?;
        }
        if extras.entropy {
            let entropy = &buffers.lattice.entropy;
            launcher.download(
                entropy,
                Pinned::on_demand(pinned_entropy, context, entropy.len())?,
                entropy.len(),
            )?;
        }
        Ok(())
    }

    /// Copies what the device wrote into the caller's buffers. The slot has been waited for.
    pub(super) fn hand_out(&self, slot: &mut CudaSlot, extras: Extras, outputs: &mut FrameOutputs) {
        let refined = self.refinement.is_some();
        let downloaded = Downloaded {
            camera: slot.buffers.tables.camera,
            labels: &slot.buffers.pinned_labels,
            coarse: slot.pinned_coarse.as_ref(),
            refined: slot.pinned_refined.as_ref().filter(|_| refined),
            entropy: slot.pinned_entropy.as_ref(),
            entropy_size: slot.buffers.tables.lattice,
        };
        downloaded.hand_out(extras, outputs);
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

/// What a slot's copies to the host wrote. The slot has been waited for.
pub(super) struct Downloaded<'a> {
    pub(super) camera: Size,
    pub(super) labels: &'a Pinned<u8>,
    pub(super) coarse: Option<&'a Pinned<u8>>,
    /// Where there is none, no pixel was refined.
    pub(super) refined: Option<&'a Pinned<u8>>,
    pub(super) entropy: Option<&'a Pinned<f32>>,
    pub(super) entropy_size: Size,
}

impl Downloaded<'_> {
    /// Copies what is asked for into the caller's buffers; what is not becomes empty.
    pub(super) fn hand_out(&self, extras: Extras, outputs: &mut FrameOutputs) {
        let fill = |image: &mut LabelImage, wanted: bool, from: Option<&Pinned<u8>>| {
            image.size = if wanted { self.camera } else { Size::default() };
            image.data.clear();
            match from.filter(|_| wanted) {
                Some(from) => image.data.extend_from_slice(from.as_slice()),
                None => image.data.resize(image.size.pixels(), 0),
            }
        };
        fill(&mut outputs.labels, true, Some(self.labels));
        fill(&mut outputs.coarse, extras.coarse, self.coarse);
        fill(&mut outputs.refined, extras.refined, self.refined);
        outputs.entropy.clear();
        outputs.entropy_size = Size::default();
        if let Some(entropy) = self.entropy.filter(|_| extras.entropy) {
            outputs.entropy_size = self.entropy_size;
            outputs.entropy.extend_from_slice(entropy.as_slice());
        }
    }
}
