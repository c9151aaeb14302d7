//! Why TensorRT cannot be used, in the order in which it is found out.

use std::fmt;
use std::path::PathBuf;

use crate::onnx::OnnxError;

/// The steps of a probe; each fails in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The NVIDIA driver's library.
    Driver,
    /// A CUDA device.
    Device,
    /// TensorRT's library.
    Library,
    /// Its version is the one of this build.
    Version,
    /// It starts.
    Runtime,
    /// An engine for this network, this TensorRT and this device.
    Engine,
    /// Its inputs and outputs are the bundle's.
    Tensors,
    /// It runs.
    WarmUp,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Driver,
        Self::Device,
        Self::Library,
        Self::Version,
        Self::Runtime,
        Self::Engine,
        Self::Tensors,
        Self::WarmUp,
    ];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Device => "device",
            Self::Library => "library",
            Self::Version => "version",
            Self::Runtime => "runtime",
            Self::Engine => "engine",
            Self::Tensors => "tensors",
            Self::WarmUp => "warm-up",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum TensorRtError {
    #[error("TensorRT is not in this build: rebuild with `--features tensorrt`")]
    NotInBuild,
    #[error("no NVIDIA driver ({why}); install the driver, or run on a machine with an NVIDIA GPU")]
    NoDriver { why: String },
    #[error("no CUDA device: {why}; check `nvidia-smi` and CUDA_VISIBLE_DEVICES")]
    NoDevice { why: String },
    #[error(
        "no TensorRT library; install TensorRT, or set SPARSE_REFINE_TENSORRT to its file or folder; tried {tried}"
    )]
    NoLibrary { tried: String },
    #[error("not a TensorRT library, it has no getInferLibVersion: {}", path.display())]
    NotTensorRt { path: PathBuf },
    #[error(
        "this build is for {built_for}, the library is {library}: rebuild against its headers \
         (TENSORRT_INCLUDE_DIR), or set SPARSE_REFINE_TENSORRT to a library that fits: {}", path.display()
    )]
    VersionMismatch { library: String, built_for: String, path: PathBuf },
    #[error(
        "the library has no {name}; a lean or dispatch runtime cannot do this, install the full library: {}",
        path.display()
    )]
    NoFactory { name: String, path: PathBuf },
    #[error("TensorRT does not start: {log}")]
    RuntimeInit { log: String },
    #[error("no engine for this network, TensorRT and device; make one: sparse_refine engine build --model {}{}",
        model.display(), nearest.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    NoEngine { model: PathBuf, nearest: Option<String> },
    #[error("the engine is damaged: {why}; build it again: {}", path.display())]
    EngineDamaged { why: String, path: PathBuf },
    #[error("the engine's sidecar is wrong: {why}; build the engine again: {}", path.display())]
    Sidecar { why: String, path: PathBuf },
    #[error("TensorRT refuses the engine: {log}; build it again with this TensorRT on this device")]
    EngineRejected { log: String },
    #[error("the engine's {role} is {has}, the bundle says {wants}; build it again from the bundle's ONNX")]
    EngineMismatch { role: &'static str, has: String, wants: String },
    #[error(
        "TensorRT cannot make a context: {log}; a smaller network or fewer slots need less device memory"
    )]
    ContextInit { log: String },
    #[error("TensorRT failed at {stage}: {log}")]
    Enqueue { stage: &'static str, log: String },
    #[error("the engine does not run: {why}")]
    WarmUp { why: String },
    #[error("{0}")]
    Model(#[from] OnnxError),
    #[error("TensorRT cannot read the model: {log}: {}", path.display())]
    Parser { log: String, path: PathBuf },
    #[error("TensorRT cannot build the engine: {log}: {}", path.display())]
    Build { log: String, path: PathBuf },
    #[error("{library} cannot build for compute capability {asked:?}: {log}")]
    ComputeCapability { library: String, asked: Vec<u32>, log: String },
    #[error(
        "{library} has no precision flags; export the network in 16 or 8 bits (training/README.md, quantize) and build \
         it with --precision typed"
    )]
    NoPrecisionFlags { library: String },
    #[error("{0}")]
    Option(String),
    #[error("cannot {what} ({why}): {}", path.display())]
    Cache { what: &'static str, why: std::io::Error, path: PathBuf },
}

impl TensorRtError {
    /// The step of a probe that fails so; `None` for what is no part of one.
    pub fn step(&self) -> Option<Step> {
        Some(match self {
            Self::NoDriver { .. } => Step::Driver,
            Self::NoDevice { .. } => Step::Device,
            Self::NotInBuild | Self::NoLibrary { .. } | Self::NotTensorRt { .. } => Step::Library,
            Self::VersionMismatch { .. } => Step::Version,
            Self::RuntimeInit { .. } | Self::NoFactory { .. } => Step::Runtime,
            Self::NoEngine { .. }
            | Self::EngineDamaged { .. }
            | Self::Sidecar { .. }
            | Self::EngineRejected { .. }
            | Self::Cache { .. } => Step::Engine,
            Self::EngineMismatch { .. } | Self::Model(_) => Step::Tensors,
            Self::ContextInit { .. } | Self::Enqueue { .. } | Self::WarmUp { .. } => Step::WarmUp,
            Self::Parser { .. }
            | Self::Build { .. }
            | Self::ComputeCapability { .. }
            | Self::NoPrecisionFlags { .. }
            | Self::Option(_) => return None,
        })
    }
}
