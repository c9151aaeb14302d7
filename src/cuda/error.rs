//! What can go wrong with the device.

use cudarc::driver::DriverError;

/// Why CUDA does not work here, or no longer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum CudaError {
    #[error("no CUDA driver: libcuda.so.1 cannot be loaded; install NVIDIA's driver")]
    NoDriver,
    #[error("the CUDA driver finds no device ({why}); check nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice { why: String },
    #[error("device {name} is sm_{capability}, the kernels need sm_70 or newer")]
    TooOld { name: String, capability: u32 },
    #[error(
        "no CUDA compiler: libnvrtc.so.12 cannot be loaded; install CUDA's NVRTC 12, or start once where it is and keep {cache}"
    )]
    NoCompiler { cache: String },
    #[error("NVRTC cannot compile the kernels for {architecture}: {log}")]
    Compile { architecture: String, log: String },
    #[error(
        "the device has {free} MB free, one slot of {camera} needs {needed} MB ({largest}); use a smaller max_fraction or fewer slots"
    )]
    TooLittleMemory { free: u64, needed: u64, camera: String, largest: String },
    #[error("{what}: {source}")]
    Driver { what: &'static str, source: DriverError },
    #[error("no answer within {seconds} s: a kernel hangs, or the device is gone")]
    Hung { seconds: u64 },
    #[error("the dense network cannot be prepared: {why}")]
    Segmenter { why: String },
    #[error("half precision needs sm_80 or newer, this is {device}: use f32")]
    NoTensorCores { device: String },
}

/// Says what was being done when the driver failed. Failures of earlier work surface at later calls, so the call blamed
/// can be innocent; the stage is logged with it.
pub(super) trait During<T> {
    fn during(self, what: &'static str) -> Result<T, CudaError>;
}

impl<T> During<T> for Result<T, DriverError> {
    fn during(self, what: &'static str) -> Result<T, CudaError> {
        self.map_err(|source| CudaError::Driver { what, source })
    }
}
