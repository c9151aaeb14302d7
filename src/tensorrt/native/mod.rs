//! TensorRT itself, behind the C++ shim. The one place of this crate that calls it.
#![allow(unsafe_code, reason = "calls into TensorRT and the NVIDIA driver")]

mod builder;
mod device;
mod driver;
mod ffi;
mod library;
mod log;
mod runtime;
mod warm_up;

pub use builder::build;
pub use device::{device, make_current};
pub use library::{Library, built_for};
pub use runtime::{Context, Engine, Runtime};
pub use warm_up::warm_up;
