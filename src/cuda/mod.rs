//! The CUDA backend: the stages of [`crate::cpu`] as kernels of the same names, one stream per frame in flight.

pub mod segmenter;

pub use segmenter::{
    DeviceAddress, DeviceEngine, DeviceSegmenter, DeviceTensor, Element, SegmentError, StreamHandle,
};
