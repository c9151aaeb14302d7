//! The sparse U-Net in halves on tensor cores, sums in 32 bits: safe launches of `tensor_cores.cu`.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::COUNTERS;
use super::launch::{Args, Launcher, Shape};
use super::memory::Buffer;
use super::network::{At, Gather, Operand, Sink};
use super::weights::{Affine, CHUNK, Convolution, TILE_OUTPUTS};

/// Threads of a block and sites of a tile of `conv_f16`.
const TENSOR_BLOCK: u32 = 128;
const TILE_SITES: usize = 64;

impl Operand for u16 {
    fn pitch(channels: usize) -> usize {
        channels.next_multiple_of(CHUNK)
    }

    fn activate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        x: &Buffer<f32>,
        y: &mut Buffer<u16>,
    ) -> Result<(), CudaError> {
        let (capacity, pitch) = (at.level.capacity, Self::pitch(channels));
        assert!(x.len() >= capacity * channels && y.len() >= capacity * pitch);
        assert_eq!(affine.scale.len(), channels);
        let mut args = Args::new();
        args.buffer(x).buffer(y).buffer(at.counters).number(at.index).number(capacity);
        args.number(channels).number(pitch).buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in both, checked above.
        unsafe { launcher.launch("affine_relu_f16", launcher.over(capacity * pitch), &mut args) }
    }

    fn concatenate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        skip: &Buffer<f32>,
        u: &Buffer<f32>,
        raw: &mut Buffer<u16>,
        activated: &mut Buffer<u16>,
    ) -> Result<(), CudaError> {
        let (capacity, pitch) = (at.level.capacity, Self::pitch(2 * channels));
        assert!(skip.len() >= capacity * channels && u.len() >= capacity * channels);
        assert!(raw.len() >= capacity * pitch && activated.len() >= capacity * pitch);
        assert_eq!(affine.scale.len(), 2 * channels);
        let mut args = Args::new();
        args.buffer(skip).buffer(u).buffer(raw).buffer(activated).buffer(at.counters).number(at.index);
        args.number(capacity).number(channels).number(pitch).buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in all four, checked above.
        unsafe { launcher.launch("concatenate_f16", launcher.over(capacity * pitch), &mut args) }
    }

    fn convolve(
        launcher: &Launcher<'_>,
        at: At<'_>,
        conv: &Convolution,
        gather: Gather<'_>,
        input: &Buffer<u16>,
        sink: Sink<'_, u16>,
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
        assert!(halves.is_none_or(|out| out.len() >= capacity * Self::pitch(conv.outputs)));
        let mut args = Args::new();
        args.buffer(input).number(conv.chunks()).number(conv.taps).address(map).number(capacity);
        args.buffer(&at.level.sites).buffer(at.counters).number(at.index).number(capacity);
        args.buffer(weights).buffer(&conv.bias).address(floats.map_or(0, Buffer::address));
        args.address(halves.map_or(0, Buffer::address))
            .number(conv.outputs)
            .number(Self::pitch(conv.outputs));
        args.number(gather.number()).number(finish);
        let work = (capacity.div_ceil(TILE_SITES) * tiles).max(1);
        let blocks = work.min(launcher.device.most_blocks as usize) as u32;
        let shape = Shape { blocks, threads: TENSOR_BLOCK, shared_bytes: 0 };
        // SAFETY: weights, bias, maps and outputs have the lengths checked above; the map names sites of the input's
        // level, whose rows of halves its producer wrote up to that level's capacity.
        unsafe { launcher.launch("conv_f16", shape, &mut args) }
    }
}
