//! The sparse U-Net on the device: its order, that of `cpu::unet`, whatever its convolutions compute with.
//!
//! The residual stream of a level is in 32 bits; what convolutions read is an [`Operand`].
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::{CoarseTables, DeviceNormalisation, LogitsAt};
use super::launch::{Args, Launcher};
use super::levels::{LevelBuffers, level_sizes};
use super::memory::{Allocator, Buffer, Number};
use super::weights::{Affine, Block, Convolution, NetworkWeights};
use crate::types::Size;

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

/// Where a sum goes, `STORE`, `RELU`, `ADD` of `network.cu`: to feature rows, to the next convolution, onto feature rows.
pub(super) enum Sink<'a, T> {
    Store(&'a mut Buffer<f32>),
    Relu(&'a mut Buffer<T>),
    Add(&'a mut Buffer<f32>),
}

/// Numbers that convolutions read: floats on ordinary cores (`network_single.rs`), halves on tensor cores
/// (`network_half.rs`).
pub(super) trait Operand: Number {
    /// Numbers of a row of so many channels.
    fn pitch(channels: usize) -> usize;

    /// `y = relu(affine(x))`, rows of `channels`.
    fn activate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        x: &Buffer<f32>,
        y: &mut Buffer<Self>,
    ) -> Result<(), CudaError>;

    /// Rows of `channels` side by side, the skip first: as they are, and as [`Self::activate`] makes them.
    #[allow(clippy::too_many_arguments, reason = "two inputs, two outputs")]
    fn concatenate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        skip: &Buffer<f32>,
        u: &Buffer<f32>,
        raw: &mut Buffer<Self>,
        activated: &mut Buffer<Self>,
    ) -> Result<(), CudaError>;

    /// Output rows of the sites of `at` from `input` by `gather`.
    fn convolve(
        launcher: &Launcher<'_>,
        at: At<'_>,
        conv: &Convolution,
        gather: Gather<'_>,
        input: &Buffer<Self>,
        sink: Sink<'_, Self>,
    ) -> Result<(), CudaError>;
}

/// Feature rows of every level and what lies between convolutions.
pub(super) struct FeatureBuffers<T> {
    /// Of each level, `[sites][channels]`.
    features: Vec<Buffer<f32>>,
    /// Normalised, rectified input of a convolution.
    activated: Buffer<T>,
    /// A block's first output.
    hidden: Buffer<T>,
    /// Skip and upsampled side by side; before that the network's input.
    raw: Buffer<T>,
    /// Upsampled features; at the end the refined logits.
    pub(super) wide: Buffer<f32>,
}

impl<T: Operand> FeatureBuffers<T> {
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
        let most =
            |row: fn(usize) -> usize| sites.iter().zip(planes).map(|(n, &c)| n * row(c)).max().unwrap_or(0);
        let features = sites.iter().zip(planes);
        let double = most(|c| T::pitch(2 * c));
        Ok(Self {
            features: features
                .map(|(sites, channels)| allocator.buffer("features", sites * channels))
                .collect::<Result<_, _>>()?,
            activated: allocator.buffer("convolution inputs", double)?,
            hidden: allocator.buffer("convolution inputs", most(T::pitch))?,
            raw: allocator.buffer("convolution inputs", double.max(sites[0] * T::pitch(input_channels)))?,
            wide: allocator.buffer("convolution inputs", most(|c| c).max(sites[0] * classes))?,
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
    /// Refined logits of every site, left in `buffers.wide`.
    pub(super) fn refine<T: Operand>(
        &self,
        network: &NetworkWeights,
        scene: &Scene<'_>,
        levels: &[LevelBuffers],
        buffers: &mut FeatureBuffers<T>,
        counters: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        let FeatureBuffers { features, activated, hidden, raw, wide } = buffers;
        let at = |index: usize| At { level: &levels[index], index, counters };
        self.site_features(at(0), scene, network, raw)?;
        let neighbours = Gather::Nine(&levels[0].neighbours);
        T::convolve(self, at(0), &network.stem, neighbours, raw, Sink::Store(&mut features[0]))?;
        for (i, level) in network.levels.iter().enumerate() {
            let (finer, coarser) = features.split_at_mut(i + 1);
            let x = &mut finer[i];
            for block in &level.pre {
                T::activate(self, at(i), &block.bn1, level.channels, x, activated)?;
                self.branch(at(i), block, x, activated, hidden)?;
            }
            if let Some(descent) = &level.descent {
                T::activate(self, at(i), &descent.down.norm, level.channels, x, activated)?;
                let (conv, gather) = (&descent.down.conv, Gather::Nine(&levels[i + 1].down));
                T::convolve(self, at(i + 1), conv, gather, activated, Sink::Store(&mut coarser[0]))?;
            }
        }
        for (i, level) in network.levels.iter().enumerate().rev() {
            let Some(descent) = &level.descent else { continue };
            let (finer, coarser) = features.split_at_mut(i + 1);
            let (x, d) = (&mut finer[i], &coarser[0]);
            let (conv, gather) = (&descent.up.conv, Gather::Up(&levels[i].up));
            T::activate(self, at(i + 1), &descent.up.norm, conv.inputs, d, activated)?;
            T::convolve(self, at(i), conv, gather, activated, Sink::Store(wide))?;
            for (k, block) in descent.post.iter().enumerate() {
                if k == 0 {
                    T::concatenate(self, at(i), &block.bn1, level.channels, x, wide, raw, activated)?;
                    let conv = block.projection.as_ref().expect("a block after a concatenation projects");
                    T::convolve(self, at(i), conv, Gather::Same, raw, Sink::Store(x))?;
                } else {
                    T::activate(self, at(i), &block.bn1, level.channels, x, activated)?;
                }
                self.branch(at(i), block, x, activated, hidden)?;
            }
        }
        T::activate(self, at(0), &network.head, network.levels[0].channels, &features[0], activated)?;
        T::convolve(self, at(0), &network.classifier, Gather::Same, activated, Sink::Store(wide))
    }

    /// Adds the two convolutions of `activated` to `x`.
    fn branch<T: Operand>(
        &self,
        at: At<'_>,
        block: &Block,
        x: &mut Buffer<f32>,
        activated: &Buffer<T>,
        hidden: &mut Buffer<T>,
    ) -> Result<(), CudaError> {
        let neighbours = Gather::Nine(&at.level.neighbours);
        T::convolve(self, at, &block.conv1, neighbours, activated, Sink::Relu(hidden))?;
        T::convolve(self, at, &block.conv2, neighbours, hidden, Sink::Add(x))
    }

    /// The network's input.
    fn site_features<T: Operand>(
        &self,
        at: At<'_>,
        scene: &Scene<'_>,
        network: &NetworkWeights,
        out: &mut Buffer<T>,
    ) -> Result<(), CudaError> {
        let (pitch, halves) = (T::pitch(network.input_channels), size_of::<T>() == 2);
        let Scene { rgb, normalisation, logits, tables, probabilities } = scene;
        let classes = if *probabilities { network.classes } else { 0 };
        assert!(pitch >= 3 + classes && out.len() >= at.level.capacity * pitch);
        assert_eq!(rgb.len(), tables.camera.pixels() * 3);
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
}

/// The logits of the selection grid as kernels take them: `CoarseLogits` of `common.cuh`.
pub(super) fn coarse_args(args: &mut Args, logits: LogitsAt, tables: &CoarseTables) {
    args.address(logits.address)
        .number(tables.grid.pixels())
        .number(tables.grid.width)
        .number(tables.bilinear);
    args.buffer(&tables.cells[0]).buffer(&tables.cells[1]).buffer(&tables.taps[0]).buffer(&tables.taps[1]);
}

/// Feature rows in either precision.
pub(super) enum NetworkBuffers {
    Single(FeatureBuffers<f32>),
    Half(FeatureBuffers<u16>),
}

impl NetworkBuffers {
    /// Refined logits of the last run.
    pub(super) fn logits(&self) -> &Buffer<f32> {
        match self {
            Self::Single(buffers) => &buffers.wide,
            Self::Half(buffers) => &buffers.wide,
        }
    }
}
