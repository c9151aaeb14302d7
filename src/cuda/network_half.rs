//! The sparse U-Net on tensor cores: safe launches of `tensor_cores.cu`, and their order, that of `network.rs`.
//!
//! The residual stream of a level stays in 32 bits; what convolutions read is in halves.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::COUNTERS;
use super::launch::{Args, Launcher, Shape};
use super::levels::{LevelBuffers, level_sizes};
use super::memory::{Allocator, Buffer};
use super::network::{At, Gather, Scene};
use super::weights::{Affine, Block, CHUNK, Convolution, NetworkWeights, TILE_OUTPUTS};
use crate::types::Size;

/// Threads of a block and sites of a tile of `conv_f16`.
const TENSOR_BLOCK: u32 = 128;
const TILE_SITES: usize = 64;

/// Channels of a row of halves.
fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(CHUNK)
}

/// Feature rows in 32 bits, what convolutions read in halves.
pub(super) struct HalfBuffers {
    /// Of each level, `[sites][channels]`.
    features: Vec<Buffer<f32>>,
    activated: Buffer<u16>,
    hidden: Buffer<u16>,
    /// Skip and upsampled side by side; before that the network's input.
    raw: Buffer<u16>,
    /// Upsampled features; at the end the refined logits.
    pub(super) wide: Buffer<f32>,
}

impl HalfBuffers {
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
        let double = most(|c| pitch(2 * c));
        Ok(Self {
            features: features
                .map(|(sites, channels)| allocator.buffer("features", sites * channels))
                .collect::<Result<_, _>>()?,
            activated: allocator.buffer("convolution inputs", double)?,
            hidden: allocator.buffer("convolution inputs", most(pitch))?,
            raw: allocator.buffer("convolution inputs", double.max(sites[0] * pitch(input_channels)))?,
            wide: allocator.buffer("convolution inputs", most(|c| c).max(sites[0] * classes))?,
        })
    }
}

/// Where a sum goes: `STORE`, `RELU`, `ADD` of `network.cu`.
enum Sink<'a> {
    Store(&'a mut Buffer<f32>),
    Relu(&'a mut Buffer<u16>),
    Add(&'a mut Buffer<f32>),
}

impl Launcher<'_> {
    /// Refined logits of every site, left in `buffers.wide`.
    pub(super) fn refine_half(
        &self,
        network: &NetworkWeights,
        scene: &Scene<'_>,
        levels: &[LevelBuffers],
        buffers: &mut HalfBuffers,
        counters: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        let HalfBuffers { features, activated, hidden, raw, wide } = buffers;
        let at = |index: usize| At { level: &levels[index], index, counters };
        self.site_features(at(0), scene, network, pitch(network.input_channels), raw, true)?;
        let neighbours = Gather::Nine(&levels[0].neighbours);
        self.convolve_half(at(0), &network.stem, neighbours, raw, Sink::Store(&mut features[0]))?;
        for (i, level) in network.levels.iter().enumerate() {
            let (finer, coarser) = features.split_at_mut(i + 1);
            let x = &mut finer[i];
            for block in &level.pre {
                self.affine_relu_half(at(i), &block.bn1, level.channels, x, activated)?;
                self.branch_half(at(i), block, x, activated, hidden)?;
            }
            if let Some(descent) = &level.descent {
                self.affine_relu_half(at(i), &descent.down.norm, level.channels, x, activated)?;
                let down = Gather::Nine(&levels[i + 1].down);
                self.convolve_half(
                    at(i + 1),
                    &descent.down.conv,
                    down,
                    activated,
                    Sink::Store(&mut coarser[0]),
                )?;
            }
        }
        for (i, level) in network.levels.iter().enumerate().rev() {
            let Some(descent) = &level.descent else { continue };
            let (finer, coarser) = features.split_at_mut(i + 1);
            let (x, d) = (&mut finer[i], &coarser[0]);
            self.affine_relu_half(at(i + 1), &descent.up.norm, descent.up.conv.inputs, d, activated)?;
            self.convolve_half(
                at(i),
                &descent.up.conv,
                Gather::Up(&levels[i].up),
                activated,
                Sink::Store(wide),
            )?;
            for (k, block) in descent.post.iter().enumerate() {
                if k == 0 {
                    self.concatenate_half(at(i), &block.bn1, level.channels, x, wide, raw, activated)?;
                    let projection =
                        block.projection.as_ref().expect("a block after a concatenation projects");
                    self.convolve_half(at(i), projection, Gather::Same, raw, Sink::Store(x))?;
                } else {
                    self.affine_relu_half(at(i), &block.bn1, level.channels, x, activated)?;
                }
                self.branch_half(at(i), block, x, activated, hidden)?;
            }
        }
        self.affine_relu_half(at(0), &network.head, network.levels[0].channels, &features[0], activated)?;
        self.convolve_half(at(0), &network.classifier, Gather::Same, activated, Sink::Store(wide))
    }

    /// Adds the two convolutions of `activated` to `x`.
    fn branch_half(
        &self,
        at: At<'_>,
        block: &Block,
        x: &mut Buffer<f32>,
        activated: &Buffer<u16>,
        hidden: &mut Buffer<u16>,
    ) -> Result<(), CudaError> {
        let neighbours = Gather::Nine(&at.level.neighbours);
        self.convolve_half(at, &block.conv1, neighbours, activated, Sink::Relu(hidden))?;
        self.convolve_half(at, &block.conv2, neighbours, hidden, Sink::Add(x))
    }

    fn affine_relu_half(
        &self,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        x: &Buffer<f32>,
        y: &mut Buffer<u16>,
    ) -> Result<(), CudaError> {
        let (capacity, pitch) = (at.level.capacity, pitch(channels));
        assert!(x.len() >= capacity * channels && y.len() >= capacity * pitch);
        assert_eq!(affine.scale.len(), channels);
        let mut args = Args::new();
        args.buffer(x).buffer(y).buffer(at.counters).number(at.index).number(capacity);
        args.number(channels).number(pitch).buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in both, checked above.
        unsafe { self.launch("affine_relu_f16", self.over(capacity * pitch), &mut args) }
    }

    #[allow(clippy::too_many_arguments, reason = "two inputs, two outputs")]
    fn concatenate_half(
        &self,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        skip: &Buffer<f32>,
        u: &Buffer<f32>,
        raw: &mut Buffer<u16>,
        activated: &mut Buffer<u16>,
    ) -> Result<(), CudaError> {
        let (capacity, pitch) = (at.level.capacity, pitch(2 * channels));
        assert!(skip.len() >= capacity * channels && u.len() >= capacity * channels);
        assert!(raw.len() >= capacity * pitch && activated.len() >= capacity * pitch);
        assert_eq!(affine.scale.len(), 2 * channels);
        let mut args = Args::new();
        args.buffer(skip).buffer(u).buffer(raw).buffer(activated).buffer(at.counters).number(at.index);
        args.number(capacity).number(channels).number(pitch).buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in all four, checked above.
        unsafe { self.launch("concatenate_f16", self.over(capacity * pitch), &mut args) }
    }

    fn convolve_half(
        &self,
        at: At<'_>,
        conv: &Convolution,
        gather: Gather<'_>,
        input: &Buffer<u16>,
        sink: Sink<'_>,
    ) -> Result<(), CudaError> {
        let capacity = at.level.capacity;
        let tiles = conv.outputs.div_ceil(TILE_OUTPUTS);
        let weights = conv.halves.as_ref().expect("packed for tensor cores");
        let steps = (conv.taps * conv.chunks()).div_ceil(2);
        assert_eq!(weights.len(), tiles * steps * TILE_OUTPUTS * 2 * CHUNK);
        assert!(conv.bias.len() == tiles * TILE_OUTPUTS && at.counters.len() >= COUNTERS);
        let map = gather.map(capacity, conv.taps);
        if matches!(gather, Gather::Same) {
            assert!(input.len() >= capacity * conv.chunks() * CHUNK);
        }
        let (finish, floats, halves) = match sink {
            Sink::Store(out) => (0, Some(&*out), None),
            Sink::Relu(out) => (1, None, Some(&*out)),
            Sink::Add(out) => (2, Some(&*out), None),
        };
        assert!(floats.is_none_or(|out| out.len() >= capacity * conv.outputs));
        assert!(halves.is_none_or(|out| out.len() >= capacity * pitch(conv.outputs)));
        let mut args = Args::new();
        args.buffer(input).number(conv.chunks()).number(conv.taps).address(map).number(capacity);
        args.buffer(&at.level.sites).buffer(at.counters).number(at.index).number(capacity);
        args.buffer(weights).buffer(&conv.bias).address(floats.map_or(0, Buffer::address));
        args.address(halves.map_or(0, Buffer::address)).number(conv.outputs).number(pitch(conv.outputs));
        args.number(gather.number()).number(finish);
        let work = (capacity.div_ceil(TILE_SITES) * tiles).max(1);
        let blocks = work.min(self.device.most_blocks as usize) as u32;
        let shape = Shape { blocks, threads: TENSOR_BLOCK, shared_bytes: 0 };
        // SAFETY: weights, bias, maps and outputs have the lengths checked above; the map names sites of the input's
        // level, whose rows of halves its producer wrote up to that level's capacity.
        unsafe { self.launch("conv_f16", shape, &mut args) }
    }
}
