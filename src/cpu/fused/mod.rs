//! The refiner as the CPU backend runs it: strips of rows, Winograd convolutions, vectors of any instruction set.
//!
//! [`super::unet`] and [`super::gate`] compute the same, layer by layer over whole frames; they are the reference this is
//! tested against.

#[cfg(target_arch = "aarch64")]
mod arm;
mod beliefs;
mod block;
mod gate;
mod inputs;
mod isa;
mod layers;
mod network;
mod patches;
mod refiner;
mod rows;
mod strided;
mod strips;
#[cfg(test)]
mod tests;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use beliefs::Coarse;
pub(crate) use gate::{FusedGate, Scene};
pub(crate) use inputs::{CameraFeatures, LevelTable};
pub use isa::{FORCE_VARIABLE, InstructionSet};
pub(crate) use network::{Network, NetworkMemory, RefinedLogits};
pub use refiner::{FusedConvolution, FusedRefiner};
