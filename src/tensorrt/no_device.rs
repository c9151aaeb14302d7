//! The CUDA pipeline with TensorRT, for a build without CUDA.

use crate::cuda::{CudaBackend, CudaTileBackend};
use crate::pipeline::BackendError;
use crate::plan::Plan;

/// Says how to get it.
pub fn cuda_backend(_plan: Plan) -> Result<CudaBackend, BackendError> {
    Err(BackendError::NotAvailable { backend: "tensorrt", why: super::TensorRtError::NotInBuild.to_string() })
}

/// Says how to get it.
pub fn cuda_tile_backend(_plan: Plan) -> Result<CudaTileBackend, BackendError> {
    Err(BackendError::NotAvailable { backend: "tensorrt", why: super::TensorRtError::NotInBuild.to_string() })
}
