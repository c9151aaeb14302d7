//! The sparse U-Net on the device: safe launches of `network.cu` and `gate.cu`, and their order, that of `cpu::unet`.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::{COUNTERS, CoarseTables, DeviceNormalisation, LogitsAt};
use super::launch::{Args, Launcher, Shape};
use super::levels::{LevelBuffers, level_sizes};
use super::memory::{Allocator, Buffer, Number};
use super::network_half::HalfBuffers;
use super::weights::{Affine, Block, Convolution, GateWeights, NetworkWeights};
use crate::types::Size;

/// Threads of a block of the gate, `__launch_bounds__` of `gate_fuse`.
const GATE_BLOCK: u32 = 128;

/// Where the inputs of an output site are: `GATHER_*` of `network.cu`.
#[derive(Clone, Copy)]
pub(super) enum Gather<'a> {
    /// At the same index.
    Same,
    /// By tap.
    Nine(&'a Buffer<u32>),
    /// By slot and parity.
    Up(&'a Buffer<u32>),
}

impl Gather<'_> {
    /// Number in the kernels.
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Same => 0,
            Self::Nine(_) => 1,
            Self::Up(_) => 2,
        }
    }

    /// Address of the map, checked against the sites and taps it is for.
    pub(super) fn map(&self, capacity: usize, taps: usize) -> u64 {
        match self {
            Self::Same => {
                assert_eq!(taps, 1);
                0
            }
            Self::Nine(map) => {
                assert!(taps == 9 && map.len() == 9 * capacity);
                map.address()
            }
            Self::Up(map) => {
                assert!(taps == 9 && map.len() == 4 * capacity);
                map.address()
            }
        }
    }
}

/// What happens to a sum: `STORE`, `RELU`, `ADD` of `network.cu`.
#[derive(Clone, Copy)]
enum Finish {
    Store = 0,
    Relu = 1,
    Add = 2,
}

/// Feature rows of every level and what lies between convolutions.
pub(super) struct FeatureBuffers {
    /// Of each level, `[sites][channels]`.
    features: Vec<Buffer<f32>>,
    /// Normalised, rectified input of a convolution.
    activated: Buffer<f32>,
    /// A block's first output; the way up.
    hidden: Buffer<f32>,
    /// Skip and upsampled side by side; before that the network's input, after it the refined logits.
    pub(super) concat: Buffer<f32>,
}

impl FeatureBuffers {
    pub(super) fn new(
        allocator: &mut Allocator,
        canvas: Size,
        capacity: usize,
        planes: &[usize],
        input_channels: usize,
        classes: usize,
    ) -> Result<Self, CudaError> {
        let sites: Vec<usize> =
            level_sizes(canvas, capacity, planes.len()).into_iter().map(|(_, capacity)| capacity).collect();
        let most = |factor: usize| sites.iter().zip(planes).map(|(n, c)| n * c * factor).max().unwrap_or(0);
        let ends = sites[0] * input_channels.max(classes);
        let features = sites.iter().zip(planes);
        Ok(Self {
            features: features
                .map(|(sites, channels)| allocator.buffer("features", sites * channels))
                .collect::<Result<_, _>>()?,
            activated: allocator.buffer("convolution inputs", most(2))?,
            hidden: allocator.buffer("convolution inputs", most(1))?,
            concat: allocator.buffer("convolution inputs", most(2).max(ends))?,
        })
    }
}

/// What a pass over the sites of one level needs to know.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) level: &'a LevelBuffers,
    pub(super) index: usize,
    pub(super) counters: &'a Buffer<u32>,
}

/// The image side of a refinement.
pub(super) struct Scene<'a> {
    pub(super) rgb: &'a Buffer<u8>,
    pub(super) normalisation: &'a DeviceNormalisation,
    pub(super) logits: LogitsAt,
    pub(super) tables: &'a CoarseTables,
    /// Whether the softmax of the coarse logits is part of the input.
    pub(super) probabilities: bool,
}

impl Launcher<'_> {
    /// Refined logits of every site, left in `buffers.concat`.
    pub(super) fn refine(
        &self,
        network: &NetworkWeights,
        scene: &Scene<'_>,
        levels: &[LevelBuffers],
        buffers: &mut FeatureBuffers,
        counters: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        let FeatureBuffers { features, activated, hidden, concat } = buffers;
        let at = |index: usize| At { level: &levels[index], index, counters };
        self.site_features(at(0), scene, network, network.input_channels, concat, false)?;
        let neighbours = Gather::Nine(&levels[0].neighbours);
        self.convolve(at(0), &network.stem, neighbours, concat, &mut features[0], Finish::Store)?;
        for (i, level) in network.levels.iter().enumerate() {
            let (finer, coarser) = features.split_at_mut(i + 1);
            let x = &mut finer[i];
            for block in &level.pre {
                self.block_in_place(at(i), block, x, activated, hidden)?;
            }
            if let Some(descent) = &level.descent {
                self.affine_relu(at(i), &descent.down.norm, level.channels, x, activated)?;
                let down = Gather::Nine(&levels[i + 1].down);
                self.convolve(
                    at(i + 1),
                    &descent.down.conv,
                    down,
                    activated,
                    &mut coarser[0],
                    Finish::Store,
                )?;
            }
        }
        for (i, level) in network.levels.iter().enumerate().rev() {
            let Some(descent) = &level.descent else { continue };
            let (finer, coarser) = features.split_at_mut(i + 1);
            let (x, d) = (&mut finer[i], &coarser[0]);
            self.affine_relu(at(i + 1), &descent.up.norm, descent.up.conv.inputs, d, activated)?;
            self.convolve(
                at(i),
                &descent.up.conv,
                Gather::Up(&levels[i].up),
                activated,
                hidden,
                Finish::Store,
            )?;
            self.concatenate(at(i), level.channels, x, hidden, concat)?;
            for (k, block) in descent.post.iter().enumerate() {
                if k == 0 {
                    self.block(at(i), block, concat, x, activated, hidden)?;
                } else {
                    self.block_in_place(at(i), block, x, activated, hidden)?;
                }
            }
        }
        self.affine_relu(at(0), &network.head, network.levels[0].channels, &features[0], activated)?;
        self.convolve(at(0), &network.classifier, Gather::Same, activated, concat, Finish::Store)
    }

    /// `output = block(input)` where the channels change.
    fn block(
        &self,
        at: At<'_>,
        block: &Block,
        input: &Buffer<f32>,
        output: &mut Buffer<f32>,
        activated: &mut Buffer<f32>,
        hidden: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let projection = block.projection.as_ref().expect("a block after a concatenation has a projection");
        self.convolve(at, projection, Gather::Same, input, output, Finish::Store)?;
        self.affine_relu(at, &block.bn1, block.conv1.inputs, input, activated)?;
        self.branch(at, block, output, activated, hidden)
    }

    /// `x = block(x)`.
    fn block_in_place(
        &self,
        at: At<'_>,
        block: &Block,
        x: &mut Buffer<f32>,
        activated: &mut Buffer<f32>,
        hidden: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        self.affine_relu(at, &block.bn1, block.conv1.inputs, x, activated)?;
        self.branch(at, block, x, activated, hidden)
    }

    /// Adds the two convolutions of `activated` to `x`.
    fn branch(
        &self,
        at: At<'_>,
        block: &Block,
        x: &mut Buffer<f32>,
        activated: &Buffer<f32>,
        hidden: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let neighbours = Gather::Nine(&at.level.neighbours);
        self.convolve(at, &block.conv1, neighbours, activated, hidden, Finish::Relu)?;
        self.convolve(at, &block.conv2, neighbours, hidden, x, Finish::Add)
    }

    /// The network's input: rows of `pitch` floats or halves.
    pub(super) fn site_features<T: Number>(
        &self,
        at: At<'_>,
        scene: &Scene<'_>,
        network: &NetworkWeights,
        pitch: usize,
        out: &mut Buffer<T>,
        halves: bool,
    ) -> Result<(), CudaError> {
        let Scene { rgb, normalisation, logits, tables, probabilities } = scene;
        let classes = if *probabilities { network.classes } else { 0 };
        assert!(pitch >= 3 + classes && size_of::<T>() == if halves { 2 } else { 4 });
        assert!(out.len() >= at.level.capacity * pitch && rgb.len() == tables.camera.pixels() * 3);
        assert!(logits.len >= network.classes * tables.grid.pixels() && normalisation.values.len() == 6);
        let mut args = Args::new();
        args.buffer(&at.level.sites).buffer(at.counters).number(at.level.capacity).buffer(rgb);
        args.number(tables.camera.width).buffer(&normalisation.values).number(normalisation.reversed);
        coarse_args(&mut args, *logits, tables);
        let address = out.address();
        args.number(classes).number(pitch).address(if halves { 0 } else { address });
        args.address(if halves { address } else { 0 });
        // SAFETY: sites lie in the camera image, whose rows and columns the tables map into the grid.
        unsafe { self.launch("site_features", self.over(at.level.capacity), &mut args) }
    }

    fn affine_relu(
        &self,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        x: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let values = at.level.capacity * channels;
        assert!(x.len() >= values && y.len() >= values && affine.scale.len() == channels);
        let mut args = Args::new();
        args.buffer(x)
            .buffer(y)
            .buffer(at.counters)
            .number(at.index)
            .number(at.level.capacity)
            .number(channels);
        args.buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in both, checked above.
        unsafe { self.launch("affine_relu", self.over(values), &mut args) }
    }

    fn concatenate(
        &self,
        at: At<'_>,
        channels: usize,
        skip: &Buffer<f32>,
        u: &Buffer<f32>,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let values = at.level.capacity * channels;
        assert!(skip.len() >= values && u.len() >= values && out.len() >= 2 * values);
        let mut args = Args::new();
        args.buffer(skip).buffer(u).buffer(out).buffer(at.counters).number(at.index);
        args.number(at.level.capacity).number(channels);
        // SAFETY: rows of the capacity in all three, checked above.
        unsafe { self.launch("concatenate", self.over(2 * values), &mut args) }
    }

    /// Output rows of the sites of `at` from `input` by `gather`.
    fn convolve(
        &self,
        at: At<'_>,
        conv: &Convolution,
        gather: Gather<'_>,
        input: &Buffer<f32>,
        output: &mut Buffer<f32>,
        finish: Finish,
    ) -> Result<(), CudaError> {
        let capacity = at.level.capacity;
        let padded = Convolution::padded(conv.outputs);
        assert!(output.len() >= capacity * conv.outputs && at.counters.len() >= COUNTERS);
        assert_eq!((conv.weights.len(), conv.bias.len()), (conv.taps * conv.inputs * padded, padded));
        if matches!(gather, Gather::Same) {
            assert!(input.len() >= capacity * conv.inputs);
        }
        let map = gather.map(capacity, conv.taps);
        let mut args = Args::new();
        args.buffer(input).address(map).number(capacity).buffer(&at.level.sites).buffer(at.counters);
        args.number(at.index).number(capacity).buffer(&conv.weights).buffer(&conv.bias).buffer(output);
        args.number(conv.inputs).number(conv.outputs).number(gather.number()).number(finish as u32);
        let work = capacity * (padded / super::weights::GROUP);
        // SAFETY: outputs, weights and map have the lengths checked above; the map names sites of the input's level,
        // whose rows the feature buffers hold up to that level's capacity.
        unsafe { self.launch("conv_f32", self.over(work), &mut args) }
    }

    /// Gate, argmax and scatter of the refined logits `[sites][classes]`; `fused` gets the fused logits if given.
    #[allow(clippy::too_many_arguments, reason = "the last stage meets everything")]
    pub(super) fn gate_fuse(
        &self,
        gate: &GateWeights,
        classes: usize,
        scene: &Scene<'_>,
        finest: &LevelBuffers,
        refined: &Buffer<f32>,
        label_of_channel: &Buffer<u8>,
        labels: &mut Buffer<u8>,
        counters: &Buffer<u32>,
        fused: Option<&mut Buffer<f32>>,
    ) -> Result<(), CudaError> {
        let tables = scene.tables;
        let hidden = crate::bundle::refiner::HIDDEN;
        let sizes = |layer: &(Buffer<f32>, Buffer<f32>)| (layer.0.len(), layer.1.len());
        assert_eq!(sizes(&gate.gate[0]), ((2 * classes + 2) * hidden, hidden));
        assert_eq!(sizes(&gate.gate[1]), (2 * hidden, 2));
        assert_eq!(sizes(&gate.fuser[0]), (classes * hidden, hidden));
        assert_eq!(sizes(&gate.fuser[1]), (classes * hidden, classes));
        assert!(refined.len() >= finest.capacity * classes && label_of_channel.len() == 256);
        assert_eq!(labels.len(), tables.camera.pixels());
        let mut args = Args::new();
        args.buffer(&finest.sites).buffer(counters).number(finest.capacity);
        coarse_args(&mut args, scene.logits, tables);
        args.buffer(refined).number(classes);
        for (weights, bias) in gate.gate.iter().chain(&gate.fuser) {
            args.buffer(weights).buffer(bias);
        }
        args.buffer(label_of_channel).buffer(labels).number(tables.camera.width).number(tables.camera.height);
        args.address(fused.map_or(0, |fused| {
            assert!(fused.len() >= finest.capacity * classes);
            fused.address()
        }));
        let blocks = self.over(finest.capacity).blocks;
        let shape = Shape { blocks: blocks * 2, threads: GATE_BLOCK, shared_bytes: 0 };
        // SAFETY: all layers, rows and images have the lengths checked above.
        unsafe { self.launch("gate_fuse", shape, &mut args) }
    }
}

fn coarse_args(args: &mut Args, logits: LogitsAt, tables: &CoarseTables) {
    args.address(logits.address)
        .number(tables.grid.pixels())
        .number(tables.grid.width)
        .number(tables.bilinear);
    args.buffer(&tables.cells[0]).buffer(&tables.cells[1]).buffer(&tables.taps[0]).buffer(&tables.taps[1]);
}

/// Feature rows in either precision.
pub(super) enum NetworkBuffers {
    Single(FeatureBuffers),
    Half(HalfBuffers),
}

impl NetworkBuffers {
    /// Refined logits of the last run.
    pub(super) fn logits(&self) -> &Buffer<f32> {
        match self {
            Self::Single(buffers) => &buffers.concat,
            Self::Half(buffers) => &buffers.wide,
        }
    }
}
