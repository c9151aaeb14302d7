//! The CPU backend: the scalar reference of every step, parallel over rows or sites, independent of the thread count,
//! and what every other backend is compared with.

mod backend;
pub mod bilinear;
mod certain;
#[cfg(test)]
mod dense_reference;
pub mod entropy;
pub mod evaluate;
pub mod features;
pub mod fused;
pub mod gate;
pub mod kernel_map;
pub mod math;
pub mod pixels;
pub mod residual;
pub mod resize;
mod scratch;
pub mod select;
mod simd;
pub mod sites;
pub mod sparse_conv;
mod split;
mod tile;
pub mod tiles;
pub mod unet;
pub mod upsample;

pub use backend::{CpuBackend, CpuSlot};

/// Name of the instruction set that the kernels use: `avx512`, `avx2`, `neon` or `portable`.
pub fn instruction_set() -> &'static str {
    fused::InstructionSet::chosen().name()
}
