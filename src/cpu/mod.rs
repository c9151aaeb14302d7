//! The CPU backend: the scalar reference of every step, parallel over rows or sites, independent of the thread count,
//! and what every other backend is compared with.

mod backend;
pub mod bilinear;
#[cfg(test)]
mod dense_reference;
pub mod entropy;
pub mod evaluate;
pub mod features;
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
mod tile;
pub mod tiles;
pub mod unet;
pub mod upsample;

pub use backend::{CpuBackend, CpuSlot};
pub use tile::instruction_set;
