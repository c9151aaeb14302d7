//! The method `spatial_sparsity` on CUDA: the stages of [`crate::cpu::tiles`] as kernels and copies on a slot's stream.
//!
//! Both columns run where [`Column`](engine::Column) takes them: so far on the host's ONNX engine. The weight map comes
//! to the host once a frame, where [`crate::tiles::TileSelection`] selects for every backend: how many windows the fine
//! column is run on decides about its launches.

mod backend;
mod engine;
mod footprint;
mod launch;
mod slot;

pub use backend::CudaTileBackend;
pub(super) use footprint::footprint;
pub use slot::CudaTileSlot;
