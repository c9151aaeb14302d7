//! What a plan takes on a device, counted by the code that allocates it, without a device.

use super::axis;
use super::backend::refiner_weights;
use super::footprint::Footprint;
use super::front::TIES_BLOCK;
use super::levels::{LevelBuffers, level_sizes};
use super::memory::Allocator;
use super::precision::Precision;
use super::segmenter::{DeviceTensor, Element};
use super::slot::{SlotBuffers, SlotSpec};
use super::tiles::footprint;
use super::weights::{NetworkWeights, Uploader};
use crate::pipeline::BackendError;
use crate::plan::Plan;
use crate::types::Size;

impl Footprint {
    /// Counts for a plan, the dense network's inputs and outputs in 32 bits.
    pub fn new(plan: &Plan, camera: Size, precision: Precision) -> Result<Self, BackendError> {
        if plan.columns.is_some() {
            return footprint(plan, camera);
        }
        let geometry = plan.geometry(camera).map_err(|error| BackendError::Model(error.to_string()))?;
        let mut weights = Allocator::dry();
        let mut refiner_inputs = 0;
        if let Some((_, loaded)) = refiner_weights(plan)? {
            let mut uploader = Uploader { allocator: &mut weights, launcher: None, precision };
            refiner_inputs = NetworkWeights::new(&mut uploader, &loaded)?.input_channels;
        }
        let tensor = |channels: usize, size: Size| DeviceTensor {
            shape: [1, channels, size.height as usize, size.width as usize],
            element: Element::F32,
        };
        let tensors = &plan.segmenter.tensors;
        let spec = SlotSpec {
            plan,
            camera,
            geometry,
            input: tensor(3, tensors.size),
            output: tensor(tensors.channels, tensors.logit_size()),
            refiner_inputs,
            precision,
        };
        let mut slot = Allocator::dry();
        let buffers = SlotBuffers::new(&mut slot, None, &spec)?;
        let lattice = axis::Lattice::new(&geometry.with_grid(plan.selection_grid()), plan.upsample).size;
        let mut blocks = vec![("count_ties, keep_highest".to_owned(), lattice.pixels().div_ceil(TIES_BLOCK))];
        let number = |(level, buffers): (usize, &LevelBuffers)| {
            (format!("count_words, number_sites at level {level}"), buffers.blocks())
        };
        blocks.extend(buffers.levels.iter().enumerate().map(number));
        let levels = plan.refiner.as_ref().map_or(Vec::new(), |refiner| {
            level_sizes(geometry.canvas, plan.capacity(camera) as usize, refiner.planes.len())
        });
        Ok(Self {
            slot: slot.parts(),
            pinned_bytes: slot.pinned_bytes(),
            weights_bytes: weights.device_bytes(),
            levels,
            blocks,
        })
    }
}
