//! The fused network for whoever has features in memory: benchmarks, tests, other backends' references.

use std::sync::Mutex;

use super::super::sites::{Pixel, SiteSet};
use super::super::split::{Split, split};
use super::isa::{InstructionSet, LANES, Lanes};
use super::layers::{Scratch, Strip, with_scratch};
use super::network::{Network, NetworkMemory, RefinedLogits, SiteFeatures};
use super::patches::Patches;
use super::rows::{Epilogue, Rows, RowsMut};
use super::strips::Strips;
use super::winograd::Winograd;
use crate::bundle::refiner::{Kernel, RefinerWeights};

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

/// One submanifold 3x3 convolution of the network, for benchmarks and tests.
#[derive(Debug)]
pub struct FusedConvolution {
    set: InstructionSet,
    conv: Winograd,
    width: usize,
    patches: Patches,
    strips: Strips,
    scratch: Vec<Mutex<Scratch>>,
    input: Vec<Lanes>,
    output: Vec<Lanes>,
}

impl FusedConvolution {
    /// Packs a kernel, as many channels in as out, for an instruction set.
    pub fn new(kernel: &Kernel, set: InstructionSet) -> Self {
        assert_eq!(kernel.inputs, kernel.outputs);
        Self {
            set,
            conv: Winograd::new(kernel, &[kernel.inputs], |_| 1.0),
            width: kernel.inputs.div_ceil(LANES),
            patches: Patches::default(),
            strips: Strips::default(),
            scratch: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Takes sites and their features, `[sites, channels]`, and finds the tiles.
    pub fn prepare(&mut self, sites: &SiteSet, features: &[f32]) {
        self.patches.rebuild(sites);
        self.strips.rebuild(sites, 0);
        self.scratch.resize_with(rayon::current_num_threads(), Mutex::default);
        self.input.clear();
        if !sites.is_empty() {
            self.input.extend(features.chunks_exact(features.len() / sites.len()).flat_map(Lanes::pack));
        }
        self.output.clear();
        self.output.resize(self.input.len(), Lanes::ZERO);
    }

    /// The convolution at the sites that were taken, filled up to whole vectors, strips side by side.
    pub fn run(&mut self, sites: &SiteSet) -> &[f32] {
        let Self { set, ref conv, width, ref patches, ref strips, ref scratch, ref input, .. } = *self;
        let cut = Split { starts: &strips.starts, width, smallest: 1 };
        split(cut, &mut self.output, &|strip, starts, output| {
            let raw = Some(RowsMut { data: output, base: starts[0], width });
            let strip = Strip { set, sites, patches, strips, strip, width };
            let sources = [Rows { data: input, base: 0, width }];
            with_scratch(scratch, |scratch| {
                let epilogue = Epilogue { raw, ..Epilogue::default() };
                strip.convolve(conv, 0, &sources, epilogue, &mut scratch.winograd);
            });
        });
        Lanes::as_floats(&self.output)
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
            for (out, values) in out.iter_mut().zip(row.chunks(LANES)) {
                out.0[..values.len()].copy_from_slice(values);
            }
        }
    }
}
