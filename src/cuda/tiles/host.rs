//! The host's ONNX engine as a column: for machines without TensorRT, and for tests.
#![allow(unsafe_code, reason = "device addresses")]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, DriverError, result, sys};

use super::column::{Column, ColumnEngine, TensorAt};
use crate::config::OnnxEngine;
use crate::cuda::backend::DEADLINE;
use crate::cuda::device::Device;
use crate::cuda::error::CudaError;
use crate::cuda::memory::{Allocator, Pinned};
use crate::cuda::segmenter::{SegmentError, StreamHandle};
use crate::cuda::timeline::{new_event, until_done};
use crate::onnx::{Input, Network};

/// Page-locked memory for tensors on their way through the host.
pub(super) struct Staging {
    inputs: Vec<Pinned<f32>>,
    outputs: Vec<Pinned<f32>>,
}

impl Staging {
    /// For tensors of at most these lengths.
    pub(super) fn new(
        allocator: &mut Allocator,
        inputs: &[usize],
        outputs: &[usize],
    ) -> Result<Self, CudaError> {
        let mut all = |lengths: &[usize], written: bool| {
            lengths.iter().map(|&len| allocator.pinned(len, written)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { inputs: all(inputs, false)?, outputs: all(outputs, true)? })
    }
}

/// A network on the host, shared by all slots.
pub(super) struct HostEngine {
    network: Arc<Network>,
    engine: OnnxEngine,
    device: Arc<Device>,
}

impl HostEngine {
    pub(super) fn new(network: Network, engine: OnnxEngine, device: Arc<Device>) -> Self {
        Self { network: Arc::new(network), engine, device }
    }
}

impl ColumnEngine for HostEngine {
    fn name(&self) -> String {
        format!("onnx ({}) on the host", self.engine.name())
    }

    fn workspace_bytes(&self) -> usize {
        0
    }

    fn accepts(&self, _: &[[usize; 4]]) -> bool {
        // What the file states was checked when it was loaded; what it leaves free may be any length.
        true
    }

    fn column(&self, inputs: &[usize], outputs: &[usize]) -> Result<Box<dyn Column>, SegmentError> {
        let device = |error: CudaError| SegmentError::Device(error.to_string());
        let mut allocator = Allocator::new(&self.device.context);
        Ok(Box::new(HostColumn {
            network: self.network.clone(),
            staging: Staging::new(&mut allocator, inputs, outputs).map_err(device)?,
            results: vec![Vec::new(); outputs.len()],
            inputs_read: new_event(&self.device).map_err(device)?,
        }))
    }
}

/// One frame's way through the host: inputs down, network on the CPU, outputs up. It waits for the stream in the middle,
/// as it must.
struct HostColumn {
    network: Arc<Network>,
    staging: Staging,
    results: Vec<Vec<f32>>,
    inputs_read: CudaEvent,
}

fn device(error: DriverError) -> SegmentError {
    SegmentError::Device(error.to_string())
}

impl Column for HostColumn {
    unsafe fn enqueue(
        &mut self,
        inputs: &[TensorAt],
        outputs: &[TensorAt],
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        let stream: sys::CUstream = stream.cast();
        let Staging { inputs: down, outputs: up } = &mut self.staging;
        assert_eq!((inputs.len(), outputs.len()), (down.len(), up.len()), "as the network was loaded");
        for (tensor, pinned) in inputs.iter().zip(down.iter_mut()) {
            let to = &mut pinned.as_mut_slice()[..tensor.len()];
            // SAFETY: the caller vouches for the address; the slice is as long as the tensor and is not touched before
            // the stream has been waited for, below.
            unsafe { result::memcpy_dtoh_async(to, tensor.address, stream) }.map_err(device)?;
        }
        // SAFETY: both handles are live.
        unsafe { result::event::record(self.inputs_read.cu_event(), stream) }.map_err(device)?;
        until_done(&self.inputs_read, DEADLINE).map_err(|error| SegmentError::Device(error.to_string()))?;
        let tensors: Vec<Input<'_>> = inputs
            .iter()
            .zip(down.iter())
            .map(|(tensor, pinned)| (tensor.shape, &pinned.as_slice()[..tensor.len()]))
            .collect();
        let mut results: Vec<_> =
            outputs.iter().zip(&mut self.results).map(|(tensor, result)| (tensor.shape, result)).collect();
        self.network.run(&tensors, &mut results).map_err(|why| SegmentError::Frame(why.to_string()))?;
        for ((tensor, pinned), result) in outputs.iter().zip(up.iter_mut()).zip(&self.results) {
            // The copy of the run before has been done since the wait above.
            pinned.as_mut_slice()[..tensor.len()].copy_from_slice(result);
            let from = &pinned.as_slice()[..tensor.len()];
            // SAFETY: as above; the next run waits for this copy before it writes to the slice.
            unsafe { result::memcpy_htod_async(tensor.address, from, stream) }.map_err(device)?;
        }
        Ok(())
    }
}
