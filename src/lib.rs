//! Camera-resolution semantic labels in real time.
//!
//! A dense network sees a low-resolution copy of each frame; the pixels where it is unsure are refined at full
//! resolution by a sparse convolutional network; a gate decides per pixel whom to believe.
//!
//! ```text
//! Frame -> upload -> preprocess -> segment -> select -> refine -> fuse -> download -> labels + FrameReport
//! ```

pub mod bag;
pub mod bundle;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/disabled.rs"]
pub mod cuda;
pub mod eval;
pub mod onnx;
pub mod pipeline;
pub mod plan;
pub mod replay;
#[cfg(feature = "ros")]
pub mod ros;
pub mod start;
pub mod synth;
pub mod tensorrt;
pub mod tiles;
pub mod types;

// Fixtures that unit tests share with `tests/` name the crate as those do.
#[cfg(test)]
extern crate self as sparse_refine;
