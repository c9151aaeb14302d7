//! Functions of the NVIDIA driver, found at run time by name.

use std::ffi::CStr;
use std::mem::ManuallyDrop;

use crate::tensorrt::error::TensorRtError;

/// Functions of `libcuda` used here. Their signatures are the same in every CUDA version.
pub(super) struct Driver {
    /// Never unloaded: a driver that is loaded again starts again.
    library: ManuallyDrop<libloading::Library>,
}

impl Driver {
    pub(super) fn open() -> Result<Self, TensorRtError> {
        let mut tried = Vec::new();
        // The second name is what a driver that a test has loaded calls itself.
        for name in ["libcuda.so.1", "libcuda.so"] {
            // SAFETY: the driver's initialisers ask nothing of their caller.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => return Ok(Self { library: ManuallyDrop::new(library) }),
                Err(why) => tried.push(with_causes(&why)),
            }
        }
        Err(TensorRtError::NoDriver { why: tried.swap_remove(0) })
    }

    /// The function called `name`, of type `F`.
    ///
    /// # Safety
    /// `F` is its signature.
    pub(super) unsafe fn function<F: Copy>(&self, name: &'static CStr) -> Result<F, TensorRtError> {
        // SAFETY: the caller's promise; the library is never unloaded while `self` lives.
        let symbol = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        symbol.map(|symbol| *symbol).map_err(|_| TensorRtError::NoDriver {
            why: format!("libcuda has no {}: it is too old", name.to_string_lossy()),
        })
    }
}

pub(super) fn checked(what: &str, status: i32) -> Result<(), TensorRtError> {
    if status == 0 {
        return Ok(());
    }
    Err(TensorRtError::NoDevice { why: format!("{what} gives status {status}") })
}

/// An error and what caused it, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
