//! What goes into a build and what comes out of it.

use serde::{Deserialize, Serialize};

use super::tensors::NetworkEnds;

/// Where the precision of an engine comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// From the types and the QuantizeLinear nodes in the ONNX. Works with every version.
    #[default]
    Typed,
    /// TensorRT 10 may also compute in 16-bit floats where it thinks that it is faster.
    Fp16,
    /// TensorRT 10 may also compute in 8-bit integers; without QuantizeLinear nodes the scales are guesses.
    Int8,
}

impl Precision {
    /// As the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Typed => "typed",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// How an engine is built.
#[derive(Clone, Debug)]
pub struct BuildOptions<'a> {
    /// What the network must be; its input gets this shape where the model leaves lengths free. `None`: nothing is
    /// checked or set, for tests of what TensorRT itself says.
    pub ends: Option<&'a NetworkEnds>,
    /// See [`Precision`].
    pub precision: Precision,
    /// TensorRT-RTX: devices to build for, such as 86; none: all it knows. Full TensorRT builds for the one it finds.
    pub compute_capabilities: &'a [u32],
    /// Most device memory for intermediate results.
    pub workspace_bytes: usize,
    /// What an earlier build measured.
    pub timing_cache: &'a [u8],
}

/// A serialised engine.
#[derive(Debug)]
pub struct Plan {
    /// For `Engine::open`.
    pub engine: Vec<u8>,
    /// What this build measured, and earlier ones.
    pub timing_cache: Option<Vec<u8>>,
}

/// Where a build is. Phases nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in TensorRT")]
pub enum Progress<'a> {
    /// A phase of so many steps begins, inside `parent` or, if that is empty, outermost.
    Start { phase: &'a str, parent: &'a str, steps: u32 },
    /// So many steps of it are done.
    Step { phase: &'a str, step: u32 },
    /// It is over.
    Finish { phase: &'a str },
}
