//! Dense segmenters from ONNX files, on the CPU.
//!
//! A model is checked against what the manifest says before it runs: names, shapes and types of its tensors, and
//! operators an engine is known to compute wrongly. Engines that are not in the build have the same functions and
//! say how to get them.

mod graph;
mod network;
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
pub use network::{Input, Network, NetworkFile, Port};

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
    #[error("{role} `{name}` is {found}, the manifest says {expected}: {}", path.display())]
    TensorShape { role: &'static str, name: String, found: String, expected: String, path: PathBuf },
    #[error("the model has an input `{name}` that the manifest does not name: {}", path.display())]
    ExtraInput { name: String, path: PathBuf },
    #[error("node `{node}`: {why}: {}", path.display())]
    Unsafe { node: String, why: String, path: PathBuf },
    #[error("engine {engine} is not in this build: rebuild with `--features {}`", engine.feature())]
    NotInBuild { engine: OnnxEngine },
    #[error("cannot load ONNX Runtime: {why}; set ORT_DYLIB_PATH to libonnxruntime.so, 1.24 or newer")]
    Library { why: String },
    #[error("{engine} cannot load the model: {why}: {}", path.display())]
    Load { engine: OnnxEngine, why: String, path: PathBuf },
    #[error("{engine} cannot run the model: {why}: {}", path.display())]
    Run { engine: OnnxEngine, why: String, path: PathBuf },
}

/// What an engine needs to open a model that was checked.
#[cfg_attr(
    not(any(feature = "onnx-rten", feature = "onnx-ort")),
    allow(dead_code, reason = "without an engine nobody opens it")
)]
struct Source<'a> {
    engine: OnnxEngine,
    path: &'a Path,
    input: &'a str,
    output: &'a str,
    input_shape: [usize; 4],
    threads: usize,
}

#[allow(clippy::large_enum_variant, reason = "one per model")]
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

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Size;
    use rten_onnx::onnx::ModelProto;

    fn spec() -> TensorSpec {
        TensorSpec {
            input: None,
            output: None,
            size: Size::new(8, 6),
            channels: 4,
            classes: 3,
            logit_stride: 2,
        }
    }

    fn load(model: &ModelProto, spec: &TensorSpec) -> Result<Segmenter, OnnxError> {
        let (_folder, path) = fixtures::write(model);
        Segmenter::load(&path, spec, OnnxEngine::Rten, 2)
    }

    fn refusal(model: &ModelProto, spec: &TensorSpec) -> String {
        match load(model, spec) {
            Ok(_) => panic!("the model should be refused"),
            Err(error) => error.to_string(),
        }
    }

    /// What [`fixtures::segmenter`] computes.
    fn expected(input: &[f32]) -> Vec<f32> {
        let mean = |plane: usize, row: usize, column: usize| {
            let at = |r: usize, c: usize| input[plane * 48 + (row * 2 + r) * 8 + column * 2 + c];
            (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0
        };
        let cells = (0..3).flat_map(|row| (0..4).map(move |column| (row, column)));
        let sums: Vec<f32> =
            cells.map(|(r, c)| mean(0, r, c) + 10.0 * mean(1, r, c) + 100.0 * mean(2, r, c)).collect();
        (1..=3).flat_map(|factor| sums.iter().map(move |sum| sum * factor as f32)).collect()
    }

    fn assert_close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{got} {want}");
        }
    }

    #[test]
    #[cfg(feature = "onnx-rten")]
    fn a_model_runs_and_keeps_the_first_channels() {
        let input: Vec<f32> = (0..144).map(|i| ((i * 37) % 19) as f32 / 7.0 - 1.0).collect();
        for stated in [None, Some(&[1, 4, 3, 4][..]), Some(&[1, 0, 0, 0])] {
            let segmenter = load(&fixtures::segmenter([8, 6], 4, 2, stated), &spec()).unwrap();
            let mut logits = vec![f32::NAN; 7];
            segmenter.run(&input, &mut logits).unwrap();
            assert_close(&logits, &expected(&input));
        }
    }

    #[test]
    #[cfg(feature = "onnx-rten")]
    fn a_model_is_shared_between_threads() {
        let segmenter = load(&fixtures::segmenter([8, 6], 4, 2, None), &spec()).unwrap();
        std::thread::scope(|scope| {
            for shift in 0..4 {
                let segmenter = &segmenter;
                scope.spawn(move || {
                    let input: Vec<f32> = (0..144).map(|i| (i % 7 + shift) as f32).collect();
                    let mut logits = Vec::new();
                    for _ in 0..20 {
                        segmenter.run(&input, &mut logits).unwrap();
                        assert_close(&logits, &expected(&input));
                    }
                });
            }
        });
    }

    #[test]
    fn shapes_that_contradict_the_manifest_are_refused_with_both() {
        let model = fixtures::segmenter([8, 6], 4, 2, Some(&[1, 4, 3, 4]));
        let wider = TensorSpec { size: Size::new(10, 6), ..spec() };
        let text = refusal(&model, &wider);
        assert!(text.starts_with("segmenter wants input 1x3x6x8, the manifest says 1x3x6x10: "), "{text}");
        assert!(text.ends_with("model.onnx"), "{text}");
        for (wrong, says) in [
            (TensorSpec { channels: 5, ..spec() }, "1x4x3x4, the manifest says 1x5x3x4"),
            (TensorSpec { logit_stride: 1, ..spec() }, "1x4x3x4, the manifest says 1x4x6x8"),
        ] {
            let text = refusal(&model, &wrong);
            assert!(text.starts_with(&format!("segmenter gives output {says}: ")), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "onnx-rten")]
    fn an_unstated_output_shape_is_found_by_running() {
        let text = refusal(&fixtures::segmenter([8, 6], 5, 2, None), &spec());
        assert!(text.starts_with("segmenter gives output 1x5x3x4, the manifest says 1x4x3x4: "), "{text}");
    }

    #[test]
    fn tensors_that_do_not_exist_or_are_not_floats_are_refused() {
        let mut model = fixtures::segmenter([8, 6], 4, 2, None);
        let text = refusal(&model, &TensorSpec { input: Some("picture".into()), ..spec() });
        assert!(text.starts_with("the model has no input `picture`, it has `image`: "), "{text}");
        let text = refusal(&model, &TensorSpec { output: Some("mask".into()), ..spec() });
        assert!(text.starts_with("the model has no output `mask`, it has `logits`: "), "{text}");
        let graph = model.graph.as_mut().unwrap();
        graph.input[0] = fixtures::value("image", rten_onnx::onnx::DataType::UINT8, Some(&[1, 3, 6, 8]));
        let text = refusal(&model, &spec());
        assert!(text.starts_with("input `image` is uint8, only float32 is supported: "), "{text}");
        let graph = model.graph.as_mut().unwrap();
        graph.input.push(fixtures::value("second", rten_onnx::onnx::DataType::FLOAT, None));
        let text = refusal(&model, &spec());
        assert!(text.starts_with("the model has 2 inputs (`image`, `second`), name one"), "{text}");
    }

    #[test]
    fn damaged_and_missing_files_are_named() {
        let whole = fixtures::segmenter([8, 6], 4, 2, None).write_buf().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.onnx");
        let cut = (1..whole.len()).map(|length| &whole[..length]);
        // A model without a graph is what remains when the cut falls between two fields.
        for bytes in cut.chain([&b""[..], b"{\"not\": \"onnx\"}", b"version https://", &[0xff; 64], &[0; 64]])
        {
            std::fs::write(&path, bytes).unwrap();
            let error = Segmenter::load(&path, &spec(), OnnxEngine::Rten, 1).err().expect("damaged");
            assert!(matches!(error, OnnxError::Damaged { .. }), "{} bytes: {error}", bytes.len());
            assert!(error.to_string().ends_with("damaged.onnx"));
        }
        let missing = Segmenter::load(&folder.path().join("none.onnx"), &spec(), OnnxEngine::Rten, 1);
        assert!(matches!(missing, Err(OnnxError::Read { .. })));
    }

    #[test]
    #[cfg(not(feature = "onnx-ort"))]
    fn an_engine_outside_the_build_says_how_to_get_it() {
        let (_folder, path) = fixtures::write(&fixtures::segmenter([8, 6], 4, 2, None));
        let error = Segmenter::load(&path, &spec(), OnnxEngine::Ort, 1).err().expect("not in the build");
        assert_eq!(error.to_string(), "engine ort is not in this build: rebuild with `--features onnx-ort`");
    }
}
