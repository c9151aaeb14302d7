//! A column on a stream: device tensors in, device tensors out. Today that is the host's ONNX engine; an engine that
//! runs on the device takes its place behind the same trait.
#![allow(unsafe_code, reason = "device addresses")]

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaEvent, DriverError, result, sys};

use crate::cuda::device::Device;
use crate::cuda::error::CudaError;
use crate::cuda::memory::{Allocator, Pinned};
use crate::cuda::segmenter::{DeviceAddress, SegmentError, StreamHandle};
use crate::cuda::timeline::{new_event, until_done};
use crate::onnx::{Input, Network};

/// A dense tensor of 32-bit floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    /// Batch, channels, height, width.
    pub(super) shape: [usize; 4],
    pub(super) address: DeviceAddress,
}

impl Tensor {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The state of a network for one frame in flight.
pub(super) trait Column: Send {
    /// Enqueues the network: reads `inputs`, writes `outputs`, both in the order in which the network was loaded with
    /// them, all in the order of `stream`. Shapes may differ from call to call as far as the plan says. The primary
    /// context is current.
    ///
    /// # Safety
    /// Every address holds its tensor and stays valid until the stream has been waited for; `stream` is a live stream
    /// of the primary context.
    unsafe fn enqueue(
        &mut self,
        inputs: &[Tensor],
        outputs: &[Tensor],
        stream: StreamHandle,
    ) -> Result<(), SegmentError>;
}

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

/// The network on the host: inputs down, network on the CPU, outputs up. It waits for the stream in the middle, as it
/// must.
pub(super) struct HostColumn {
    network: Arc<Network>,
    staging: Staging,
    results: Vec<Vec<f32>>,
    inputs_read: CudaEvent,
    deadline: Duration,
}

impl HostColumn {
    pub(super) fn new(
        device: &Device,
        network: Arc<Network>,
        staging: Staging,
        deadline: Duration,
    ) -> Result<Self, CudaError> {
        let results = staging.outputs.iter().map(|_| Vec::new()).collect();
        Ok(Self { network, staging, results, inputs_read: new_event(device)?, deadline })
    }
}

fn device(error: DriverError) -> SegmentError {
    SegmentError::Device(error.to_string())
}

impl Column for HostColumn {
    unsafe fn enqueue(
        &mut self,
        inputs: &[Tensor],
        outputs: &[Tensor],
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
        until_done(&self.inputs_read, self.deadline)
            .map_err(|error| SegmentError::Device(error.to_string()))?;
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
