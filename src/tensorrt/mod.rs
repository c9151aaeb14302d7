//! TensorRT: dense networks on NVIDIA's own engine, built ahead of time and kept in a folder.
//!
//! TensorRT is opened at run time and never linked. A build without the feature `tensorrt` has the same functions; they
//! say how to get it. Addresses and streams are plain numbers, so this module knows no CUDA library.

pub mod build_options;
pub mod device;
#[cfg(not(feature = "tensorrt"))]
#[path = "disabled.rs"]
mod native;
#[cfg(feature = "tensorrt")]
mod native;

mod engines;
pub mod error;
#[cfg(not(feature = "cuda"))]
#[path = "no_device.rs"]
mod on_device;
#[cfg(feature = "cuda")]
mod on_device;
pub mod settings;
pub mod sidecar;
pub mod store;
pub mod tensors;
pub mod version;

pub use engines::{Built, Loaded, Probe, Request, build, networks, probe};
pub use error::{Step, TensorRtError};
pub use native::{Context, Engine, Library, Runtime, built_for};
#[cfg(feature = "cuda")]
pub use on_device::TensorRtEngine;
pub use on_device::{cuda_backend, cuda_tile_backend};
pub use settings::Settings;

/// TensorRT itself, without files and folders; for tests.
pub mod raw {
    pub use super::native::{build, device, make_current, warm_up};
}
