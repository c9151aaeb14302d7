//! A column on a stream: device tensors in, device tensors out, on whatever engine.
//!
//! The types are plain numbers and handles of the driver, so that an engine needs nothing of this module's library.

use crate::cuda::segmenter::{DeviceAddress, SegmentError, StreamHandle};

/// A dense tensor of 32-bit floats in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorAt {
    /// Batch, channels, height, width.
    pub shape: [usize; 4],
    /// Where its first number is.
    pub address: DeviceAddress,
}

impl TensorAt {
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A loaded column, shared by all slots. It gives every slot a [`Column`] of its own.
pub trait ColumnEngine: Send + Sync {
    /// Name and version, for reports.
    fn name(&self) -> String;

    /// Device memory one [`Column`] takes for itself, beside its tensors, in bytes.
    fn workspace_bytes(&self) -> usize;

    /// Whether it can be run on inputs of these shapes.
    fn accepts(&self, inputs: &[[usize; 4]]) -> bool;

    /// What one frame in flight needs, for inputs and outputs that have at most so many numbers. The caller's thread
    /// has the device's primary context current.
    fn column(&self, inputs: &[usize], outputs: &[usize]) -> Result<Box<dyn Column>, SegmentError>;
}

/// The state of a column for one frame in flight.
pub trait Column: Send {
    /// Enqueues the network: reads `inputs`, the image first, and writes `outputs`, the scores first, both in the order
    /// of the bundle, all in the order of `stream`. The engine accepts the shapes of the inputs, which differ from call
    /// to call. The primary context is current.
    ///
    /// # Safety
    /// Every address holds its tensor and stays valid until the stream has been waited for; `stream` is a live stream
    /// of the primary context.
    #[allow(unsafe_code, reason = "device addresses cannot be checked")]
    unsafe fn enqueue(
        &mut self,
        inputs: &[TensorAt],
        outputs: &[TensorAt],
        stream: StreamHandle,
    ) -> Result<(), SegmentError>;
}
