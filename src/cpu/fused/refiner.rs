//! The fused network for whoever has features in memory: benchmarks, tests, other backends' references.

use super::super::sites::{Pixel, SiteSet};
use super::isa::{InstructionSet, Lanes};
use super::network::{Network, NetworkMemory, RefinedLogits, SiteFeatures};
use crate::bundle::refiner::RefinerWeights;

/// A refiner with its memory.
#[derive(Debug)]
pub struct FusedRefiner {
    network: Network,
    memory: NetworkMemory,
    logits: RefinedLogits,
}

impl FusedRefiner {
    /// Packs the weights for an instruction set.
    pub fn new(weights: &RefinerWeights, set: InstructionSet) -> Self {
        let network = Network::new(weights, set);
        Self { network, memory: NetworkMemory::default(), logits: RefinedLogits::default() }
    }

    /// What [`super::super::unet::Refiner::run`] computes: refined logits of features `[sites, input channels]`.
    ///
    /// The rows of the answer are one for each site, [`FusedRefiner::classes`] values used of each.
    pub fn run(&mut self, sites: &SiteSet, features: &[f32]) -> impl Iterator<Item = &[f32]> {
        let channels = self.network.spec().input_channels();
        assert_eq!(features.len(), sites.len() * channels, "features of {} sites", sites.len());
        let given = Given { features, channels };
        self.network.run(sites, &given, &mut self.memory, &mut self.logits);
        let width = self.network.logit_width();
        let (rows, classes) = (&self.logits.0[..sites.len() * width], self.classes());
        rows.chunks_exact(width).map(move |row| &Lanes::as_floats(row)[..classes])
    }

    /// Length of a logit vector.
    pub fn classes(&self) -> usize {
        self.network.spec().classes
    }

    /// Sites of each level in the last run.
    pub fn sites(&self) -> [u32; crate::types::MAX_LEVELS] {
        self.memory.sites()
    }
}

/// Features that were computed before.
struct Given<'a> {
    features: &'a [f32],
    channels: usize,
}

impl SiteFeatures for Given<'_> {
    fn fill(&self, first: u32, pixels: &[Pixel], width: usize, out: &mut [Lanes]) {
        let rows = self.features[first as usize * self.channels..].chunks_exact(self.channels);
        assert_eq!(out.len(), pixels.len() * width);
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            out.fill(Lanes::ZERO);
            for (out, values) in out.iter_mut().zip(row.chunks(super::isa::LANES)) {
                out.0[..values.len()].copy_from_slice(values);
            }
        }
    }
}
