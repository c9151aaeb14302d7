//! A look at a slot's logits: for tests, and for looking for faults on a device.

use super::backend::{CudaBackend, lost};
use super::error::{CudaError, During};
use super::front::SITES;
use super::launch::Launcher;
use super::memory::Allocator;
use super::slot::{CudaSlot, SlotBuffers};
use crate::pipeline::StageError;

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
    /// Looks into the slot's last frame, once it has been fused: .
    pub fn inspect(&self, slot: &mut CudaSlot) -> Result<Inspection, StageError> {
        let Some(refinement) = &self.refinement else { return Ok(Inspection::default()) };
        let look = |slot: &mut CudaSlot| -> Result<Inspection, CudaError> {
            self.device.context.bind_to_thread().during("binding the context")?;
            let logits = slot.buffers.logits();
            let launcher = Launcher { device: &self.device, stream: &slot.stream };
            let SlotBuffers { image, tables, levels, features, labels, counters, .. } = &mut slot.buffers;
            let finest = &levels[0];
            let refined = features.as_ref().expect("a refiner has feature rows").logits();
            let values = finest.capacity * self.classes();
            let mut allocator = Allocator::new(&self.device.context);
            let mut fused = allocator.buffer("inspection", values)?;
            let scene = refinement.scene(&image.rgb, tables, logits);
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
}
