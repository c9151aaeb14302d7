//! The sparse U-Net in 32-bit floats on ordinary cores: safe launches of `network.cu`.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::front::COUNTERS;
use super::launch::{Args, Launcher};
use super::memory::Buffer;
use super::network::{At, Gather, Operand, Sink};
use super::weights::{Affine, Convolution, GROUP};

impl Operand for f32 {
    fn pitch(channels: usize) -> usize {
        channels
    }

    fn activate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        x: &Buffer<f32>,
        y: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let values = at.level.capacity * channels;
        assert!(x.len() >= values && y.len() >= values && affine.scale.len() == channels);
        let mut args = Args::new();
        args.buffer(x).buffer(y).buffer(at.counters).number(at.index).number(at.level.capacity);
        args.number(channels).buffer(&affine.scale).buffer(&affine.shift);
        // SAFETY: rows of the capacity in both, checked above.
        unsafe { launcher.launch("affine_relu", launcher.over(values), &mut args) }
    }

    fn concatenate(
        launcher: &Launcher<'_>,
        at: At<'_>,
        affine: &Affine,
        channels: usize,
        skip: &Buffer<f32>,
        u: &Buffer<f32>,
        raw: &mut Buffer<f32>,
        activated: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let values = at.level.capacity * channels;
        assert!(skip.len() >= values && u.len() >= values && raw.len() >= 2 * values);
        let mut args = Args::new();
        args.buffer(skip).buffer(u).buffer(raw).buffer(at.counters).number(at.index);
        args.number(at.level.capacity).number(channels);
        // SAFETY: rows of the capacity in all three, checked above.
        unsafe { launcher.launch("concatenate", launcher.over(2 * values), &mut args)? };
        Self::activate(launcher, at, affine, 2 * channels, raw, activated)
    }

    fn convolve(
        launcher: &Launcher<'_>,
        at: At<'_>,
        conv: &Convolution,
        gather: Gather<'_>,
        input: &Buffer<f32>,
        sink: Sink<'_, f32>,
    ) -> Result<(), CudaError> {
        let capacity = at.level.capacity;
        let (finish, output) = match sink {
            Sink::Store(output) => (0, output),
            Sink::Relu(output) => (1, output),
            Sink::Add(output) => (2, output),
        };
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
        args.number(conv.inputs).number(conv.outputs).number(gather.number()).number(finish);
        let work = capacity * (padded / GROUP);
        // SAFETY: outputs, weights and map have the lengths checked above; the map names sites of the input's level,
        // whose rows the feature buffers hold up to that level's capacity.
        unsafe { launcher.launch("conv_f32", launcher.over(work), &mut args) }
    }
}
