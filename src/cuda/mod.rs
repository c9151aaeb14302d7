//! The CUDA backend: the stages of [`crate::cpu`] as kernels of the same names, one stream per frame in flight.

mod axis;
mod backend;
mod count;
mod device;
mod error;
mod footprint;
mod front;
mod gate;
mod graph;
mod half;
mod host_segmenter;
mod image;
mod inspect;
mod launch;
mod levels;
mod memory;
mod modules;
mod network;
mod network_half;
mod network_single;
mod outputs;
mod precision;
pub mod segmenter;
mod slot;
mod stages;
mod tiles;
mod timeline;
mod triangle;
mod weights;

pub use backend::CudaBackend;
pub use device::{Device, has_driver};
pub use error::CudaError;
pub use footprint::Footprint;
pub use inspect::Inspection;
pub use modules::{cache_dir, compile};
pub use precision::Precision;
pub use segmenter::{
    DeviceAddress, DeviceEngine, DeviceSegmenter, DeviceTensor, Element, SegmentError, StreamHandle,
};
pub use slot::CudaSlot;
pub use tiles::{Column, ColumnEngine, CudaTileBackend, CudaTileSlot, TensorAt};

/// Whether CUDA works here, in one sentence: the device, or the step that failed and what to do.
pub fn state() -> (bool, String) {
    match Device::open() {
        Ok(device) => {
            let memory =
                device.memory().map(|(free, total)| format!("{} of {} MB free", free >> 20, total >> 20));
            let built_in = modules::built_in_architectures();
            let kernels = if built_in.is_empty() {
                "compiled here".to_owned()
            } else {
                format!("for {}", built_in.join(", "))
            };
            let memory = memory.unwrap_or_else(|error| error.to_string());
            (true, format!("{}, {memory}, kernels {kernels}", device.name()))
        }
        Err(error) => (false, error.to_string()),
    }
}
