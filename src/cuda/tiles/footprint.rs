//! What a camera takes, counted without a device.

use super::host::Staging;
use super::slot::{TileBuffers, TileSpec};
use crate::cuda::footprint::Footprint;
use crate::cuda::memory::Allocator;
use crate::pipeline::BackendError;
use crate::plan::Plan;
use crate::types::Size;

/// Counts for a plan of `spatial_sparsity`, both columns on the host.
pub(in crate::cuda) fn footprint(plan: &Plan, camera: Size) -> Result<Footprint, BackendError> {
    let spec = TileSpec::new(plan, camera).map_err(|error| BackendError::Model(error.to_string()))?;
    let mut slot = Allocator::dry();
    TileBuffers::new(&mut slot, None, &spec)?;
    let [inputs, outputs] = spec.coarse_lengths();
    Staging::new(&mut slot, &inputs, &outputs)?;
    if plan.columns.as_ref().is_some_and(|columns| columns.fine.is_some()) {
        let [inputs, outputs] = spec.fine_lengths();
        Staging::new(&mut slot, &inputs, &outputs)?;
    }
    Ok(Footprint {
        slot: slot.parts(),
        pinned_bytes: slot.pinned_bytes(),
        weights_bytes: 0,
        levels: Vec::new(),
        blocks: Vec::new(),
    })
}
