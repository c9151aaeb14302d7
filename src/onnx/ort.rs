//! Models on ONNX Runtime, loaded from the library that `ORT_DYLIB_PATH` names.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use ::ort::environment::Environment;
use ::ort::session::Session as Inner;
use ::ort::value::TensorRef;

use super::network::{Input, NetworkSource, Output};
use super::{OnnxError, Source};
use crate::config::OnnxEngine;

/// A loaded model. ONNX Runtime's binding wants one caller at a time.
pub(super) struct Session {
    inner: Mutex<Inner>,
    input: String,
    output: String,
    input_shape: [usize; 4],
}

/// One environment per process; the library is looked for once.
fn environment() -> Result<&'static Environment, OnnxError> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let library = std::env::var_os("ORT_DYLIB_PATH").ok_or("ORT_DYLIB_PATH is not set")?;
        let builder = ::ort::init_from(library).map_err(|error| error.to_string())?;
        builder.with_telemetry(false).build().map_err(|error| error.to_string())
    });
    environment.as_ref().map_err(|why| OnnxError::Library { why: why.clone() })
}

/// Opens a file.
fn open(path: &Path, engine: OnnxEngine, threads: usize) -> Result<Mutex<Inner>, OnnxError> {
    let failed = |why: String| OnnxError::Load { engine, why, path: path.to_path_buf() };
    let inner = Inner::builder(environment()?)
        .map_err(|error| failed(error.to_string()))?
        .with_intra_threads(threads)
        .map_err(|error| failed(error.to_string()))?
        .commit_from_file(path)
        .map_err(|error| failed(error.to_string()))?;
    Ok(Mutex::new(inner))
}

impl Session {
    /// Opens a model that was checked.
    pub(super) fn load(source: &Source<'_>) -> Result<Self, OnnxError> {
        Ok(Self {
            inner: open(source.path, source.engine, source.threads)?,
            input: source.input.to_owned(),
            output: source.output.to_owned(),
            input_shape: source.input_shape,
        })
    }

    /// Runs on a borrowed input and copies the output to `logits`. Returns its shape.
    pub(super) fn run(&self, input: &[f32], logits: &mut Vec<f32>) -> Result<Vec<usize>, String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let tensor =
            TensorRef::from_array_view((self.input_shape, input)).map_err(|error| error.to_string())?;
        let inputs = ::ort::inputs![self.input.as_str() => tensor];
        let outputs = inner.run(inputs).map_err(|error| error.to_string())?;
        let output =
            outputs.get(&self.output).ok_or_else(|| format!("output `{}` is missing", self.output))?;
        let (shape, data) = output.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
        logits.clear();
        logits.extend_from_slice(data);
        Ok(shape.iter().map(|&length| length as usize).collect())
    }
}

/// A network with any number of inputs and outputs.
pub(super) struct NetworkSession {
    inner: Mutex<Inner>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl NetworkSession {
    /// Opens a network that was checked.
    pub(super) fn load(source: &NetworkSource<'_>) -> Result<Self, OnnxError> {
        let inner = open(source.path, source.engine, source.threads)?;
        Ok(Self { inner, inputs: source.inputs.clone(), outputs: source.outputs.clone() })
    }

    /// Runs on borrowed inputs. Returns shape and values of each output.
    pub(super) fn run(&self, inputs: &[Input<'_>]) -> Result<Vec<Output>, String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named = Vec::with_capacity(inputs.len());
        for (name, (shape, data)) in self.inputs.iter().zip(inputs) {
            let tensor = TensorRef::from_array_view((*shape, *data)).map_err(|error| error.to_string())?;
            named.push((name.as_str(), tensor));
        }
        let results = inner.run(named).map_err(|error| error.to_string())?;
        let extract = |name: &String| {
            let output = results.get(name).ok_or_else(|| format!("output `{name}` is missing"))?;
            let (shape, data) = output.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
            Ok((shape.iter().map(|&length| length as usize).collect(), data.to_vec()))
        };
        self.outputs.iter().map(extract).collect()
    }
}
