//! The CPU reference: what every other backend is compared with.

#[cfg(test)]
mod dense_reference;
pub mod entropy;
pub mod gate;
pub mod kernel_map;
pub mod residual;
pub mod sites;
pub mod sparse_conv;
mod tile;
pub mod unet;
