//! The CUDA backend: the stages of [`crate::cpu`] as kernels of the same names, one stream per frame in flight.

mod axis;
mod backend;
mod device;
mod error;
mod footprint;
mod front;
mod half;
mod host_segmenter;
mod launch;
mod levels;
mod memory;
mod modules;
mod network;
mod network_half;
pub mod segmenter;
mod slot;
mod weights;

pub use backend::{CudaBackend, Inspection};
pub use device::{Device, has_driver};
pub use error::CudaError;
pub use footprint::Footprint;
pub use half::Precision;
pub use modules::{cache_dir, compile};
pub use segmenter::{
    DeviceAddress, DeviceEngine, DeviceSegmenter, DeviceTensor, Element, SegmentError, StreamHandle,
};
pub use slot::CudaSlot;

/// Whether CUDA works here, in one sentence: the device, or the step that failed and what to do.
pub fn state() -> (bool, String) {
    match Device::open() {
        Ok(device) => {
            let memory =
                device.memory().map(|(free, total)| format!("{} of {} MB free", free >> 20, total >> 20));
            (true, format!("{}, {}", device.name(), memory.unwrap_or_else(|error| error.to_string())))
        }
        Err(error) => (false, error.to_string()),
    }
}
