//! The dense network on this path: whatever turns a device tensor into another, enqueued on a stream.
//!
//! The types are plain numbers and handles of the driver, so that an engine needs nothing of this module's library.

use std::ffi::c_void;

use crate::pipeline::StageError;
use crate::types::{FrameError, Stage};

/// Address in device memory, the driver's `CUdeviceptr`.
pub type DeviceAddress = u64;

/// The driver's `CUstream`.
pub type StreamHandle = *mut c_void;

/// What a tensor's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// A dense tensor in device memory, rows without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTensor {
    /// `[1, channels, height, width]`.
    pub shape: [usize; 4],
    /// Its numbers.
    pub element: Element,
}

impl DeviceTensor {
    /// Numbers in it.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.len() * self.element.bytes()
    }
}

/// Why a frame was not segmented.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// This frame has no logits; the next may.
    #[error("{0}")]
    Frame(String),
    /// The device is gone.
    #[error("{0}")]
    Device(String),
}

impl SegmentError {
    /// A frame that a network refuses is an outcome, a lost device is not.
    pub(super) fn in_stage(self, stage: Stage) -> StageError {
        match self {
            Self::Frame(why) => FrameError::Segmenter { why }.into(),
            Self::Device(why) => StageError::DeviceLost { stage: stage.name(), why },
        }
    }
}

/// A loaded dense network, shared by all slots. It gives every slot a [`DeviceSegmenter`] of its own.
pub trait DeviceEngine: Send + Sync {
    /// Name and version, such as `tensorrt 10.3 (fp16)`, for reports.
    fn name(&self) -> String;
    /// What it reads: the normalised image, `[1, 3, height, width]`.
    fn input(&self) -> DeviceTensor;
    /// What it writes: logits, `[1, channels, height', width']`. The backend reads the first channels as its classes.
    fn output(&self) -> DeviceTensor;
    /// Device memory one segmenter takes for itself, beside input and output, in bytes.
    fn workspace_bytes(&self) -> usize;
    /// What one frame in flight needs. The caller's thread has the device's primary context current.
    fn segmenter(&self) -> Result<Box<dyn DeviceSegmenter>, SegmentError>;
}

/// The state of one frame in flight.
pub trait DeviceSegmenter: Send {
    /// Enqueues the network: reads [`DeviceEngine::input`] at `input`, writes [`DeviceEngine::output`] at `output`, all in
    /// the order of `stream`. The addresses of a slot never change. The primary context is current.
    ///
    /// # Safety
    /// Both addresses hold as many bytes as the tensors take and stay valid until the stream has been waited for;
    /// `stream` is a live stream of the primary context.
    #[allow(unsafe_code, reason = "device addresses cannot be checked")]
    unsafe fn enqueue(
        &mut self,
        input: DeviceAddress,
        output: DeviceAddress,
        stream: StreamHandle,
    ) -> Result<(), SegmentError>;
}
