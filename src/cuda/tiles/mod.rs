//! The method `spatial_sparsity` on CUDA: the stages of [`crate::cpu::tiles`] as kernels and copies on a slot's stream.
//!
//! Both columns run where a [`ColumnEngine`] takes them: on the host's ONNX engine or on TensorRT. The weight map comes
//! to the host once a frame, where [`crate::tiles::TileSelection`] selects for every backend: how many windows the fine
//! column is run on decides about its launches.

mod backend;
mod column;
mod footprint;
mod host;
mod launch;
mod slot;

pub use backend::CudaTileBackend;
pub use column::{Column, ColumnEngine, TensorAt};
pub(super) use footprint::footprint;
pub use slot::CudaTileSlot;
