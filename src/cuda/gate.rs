//! Gate, fuser, argmax and scatter: the safe launch of `gate.cu`.
#![allow(unsafe_code, reason = "launches")]

use super::error::CudaError;
use super::launch::{Args, Launcher, Shape};
use super::levels::LevelBuffers;
use super::memory::Buffer;
use super::network::{Scene, coarse_args};
use super::weights::GateWeights;

/// Threads of a block of the gate, `__launch_bounds__` of `gate_fuse`.
const GATE_BLOCK: u32 = 128;

impl Launcher<'_> {
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
