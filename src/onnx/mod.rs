//! Dense segmenters from ONNX files, on the CPU.
//!
//! A model is checked against what the manifest says before it runs: names, shapes and types of its tensors, and
//! operators an engine is known to compute wrongly. Engines that are not in the build have the same functions and
//! say how to get them.

mod graph;
#[cfg(feature = "onnx-ort")]
mod ort;
#[cfg(not(feature = "onnx-ort"))]
#[path = "disabled.rs"]
mod ort;
#[cfg(feature = "onnx-rten")]
mod rten;
#[cfg(not(feature = "onnx-rten"))]
#[path = "disabled.rs"]
mod rten;

use std::path::{Path, PathBuf};

pub use graph::{GraphInfo, TensorInfo};

use crate::config::OnnxEngine;
use crate::plan::TensorSpec;

impl OnnxEngine {
    /// The cargo feature that brings it.
    fn feature(self) -> &'static str {
        match self {
            Self::Rten => "onnx-rten",
            Self::Ort => "onnx-ort",
        }
    }
}

impl TensorSpec {
    fn input_shape(&self) -> [usize; 4] {
        [1, 3, self.size.height as usize, self.size.width as usize]
    }

    fn output_shape(&self) -> [usize; 4] {
        let size = self.logit_size();
        [1, self.channels, size.height as usize, size.width as usize]
    }
}

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum OnnxError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("not an ONNX model, or a damaged one ({why}): {}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("the model has no {role} `{name}`, it has {has}: {}", path.display())]
    NoTensor { role: &'static str, name: String, has: String, path: PathBuf },
    #[error("the model has {count} inputs ({has}), name one in the manifest: {}", path.display())]
    SeveralInputs { count: usize, has: String, path: PathBuf },
    #[error("{role} `{name}` is {found}, only float32 is supported: {}", path.display())]
    ElementType { role: &'static str, name: String, found: String, path: PathBuf },
    #[error("segmenter wants input {found}, the manifest says {expected}: {}", path.display())]
    InputShape { found: String, expected: String, path: PathBuf },
    #[error("segmenter gives output {found}, the manifest says {expected}: {}", path.display())]
    OutputShape { found: String, expected: String, path: PathBuf },
    #[error("node `{node}`: {why}: {}", path.display())]
    Unsafe { node: String, why: String, path: PathBuf },
    #[error("engine {engine} is not in this build: rebuild with `--features {feature}`")]
    NotInBuild { engine: OnnxEngine, feature: &'static str },
    #[error("cannot load ONNX Runtime: {why}; set ORT_DYLIB_PATH to libonnxruntime.so, 1.24 or newer")]
    Library { why: String },
    #[error("{engine} cannot load the model: {why}: {}", path.display())]
    Load { engine: OnnxEngine, why: String, path: PathBuf },
    #[error("{engine} cannot run the model: {why}: {}", path.display())]
    Run { engine: OnnxEngine, why: String, path: PathBuf },
}

/// What an engine needs to open a model that was checked.
struct Source<'a> {
    engine: OnnxEngine,
    path: &'a Path,
    input: &'a str,
    output: &'a str,
    input_shape: [usize; 4],
    threads: usize,
}

enum Session {
    Rten(rten::Session),
    OnnxRuntime(ort::Session),
}

/// A model, ready to run. May be shared between threads.
pub struct Segmenter {
    session: Session,
    spec: TensorSpec,
    engine: OnnxEngine,
    path: PathBuf,
}

impl Segmenter {
    /// Opens a model, checks it against `spec` and gives it `threads` threads of its own (at least one).
    ///
    /// A model that does not state the shape of its output runs once, on zeros.
    pub fn load(
        path: &Path,
        spec: &TensorSpec,
        engine: OnnxEngine,
        threads: usize,
    ) -> Result<Self, OnnxError> {
        let info = GraphInfo::read(path)?;
        if engine == OnnxEngine::Rten
            && let Some((node, why)) = &info.wrong_in_rten
        {
            return Err(OnnxError::Unsafe { node: node.clone(), why: why.clone(), path: path.into() });
        }
        let input = info.input(spec.input.as_deref(), path)?;
        let output = info.output(spec.output.as_deref(), path)?;
        if !input.accepts(&spec.input_shape()) {
            return Err(OnnxError::InputShape {
                found: input.shape_text(),
                expected: shape_text(&spec.input_shape()),
                path: path.into(),
            });
        }
        let mismatch = |found: String| OnnxError::OutputShape {
            found,
            expected: shape_text(&spec.output_shape()),
            path: path.into(),
        };
        if !output.accepts(&spec.output_shape()) {
            return Err(mismatch(output.shape_text()));
        }
        let source = Source {
            engine,
            path,
            input: &input.name,
            output: &output.name,
            input_shape: spec.input_shape(),
            threads: threads.max(1),
        };
        let session = match engine {
            OnnxEngine::Rten => Session::Rten(rten::Session::load(&source)?),
            OnnxEngine::Ort => Session::OnnxRuntime(ort::Session::load(&source)?),
        };
        let segmenter = Self { session, spec: spec.clone(), engine, path: path.into() };
        if !output.is_static() {
            segmenter.run(&vec![0.0; 3 * spec.size.pixels()], &mut Vec::new())?;
        }
        Ok(segmenter)
    }

    /// What it was checked against.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// What runs it.
    pub fn engine(&self) -> OnnxEngine {
        self.engine
    }

    /// Turns `input`, `[3, height, width]`, into `logits`, `[classes, h', w']`, which is replaced.
    pub fn run(&self, input: &[f32], logits: &mut Vec<f32>) -> Result<(), OnnxError> {
        assert_eq!(input.len(), 3 * self.spec.size.pixels(), "three planes of {}", self.spec.size);
        let shape = match &self.session {
            Session::Rten(session) => session.run(input, logits),
            Session::OnnxRuntime(session) => session.run(input, logits),
        };
        let shape =
            shape.map_err(|why| OnnxError::Run { engine: self.engine, why, path: self.path.clone() })?;
        if shape != self.spec.output_shape() {
            return Err(OnnxError::OutputShape {
                found: shape_text(&shape),
                expected: shape_text(&self.spec.output_shape()),
                path: self.path.clone(),
            });
        }
        logits.truncate(self.spec.classes * self.spec.logit_size().pixels());
        Ok(())
    }
}

fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}
