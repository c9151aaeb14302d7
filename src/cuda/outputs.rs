//! The end of a frame: copies to the host, the wait for them, and what the caller gets.

use std::time::{Duration, Instant};

use super::backend::CudaBackend;
use super::error::{CudaError, During};
use super::front::{NON_FINITE, NON_FINITE_CELLS, SELECTED, SITES};
use super::launch::Launcher;
use super::memory::{Allocator, Number, Pinned};
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
        let refined = self.refinement.is_some();
        let CudaSlot { buffers, pinned_coarse, pinned_refined, pinned_entropy, .. } = slot;
        let camera = buffers.tables.camera;
        let pixels = camera.pixels();
        launcher.download(&buffers.labels, &mut buffers.pinned_labels, pixels)?;
        launcher.download(&buffers.counters, &mut buffers.pinned_counters, buffers.counters.len())?;
        if extras.coarse {
            let (lattice, tables) = (&buffers.lattice, &buffers.tables);
            launcher.write_labels(lattice, tables, &self.label_of_channel, &mut buffers.extra)?;
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

    /// Waits until all that the slot enqueued is done.
    pub(super) fn wait(&self, slot: &mut CudaSlot) -> Result<(), CudaError> {
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

    /// Copies what the device wrote into the caller's buffers. The slot has been waited for.
    pub(super) fn hand_out(&self, slot: &mut CudaSlot, extras: Extras, outputs: &mut FrameOutputs) {
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
