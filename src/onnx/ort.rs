//! Models on ONNX Runtime, loaded from the library that `ORT_DYLIB_PATH` names.

use std::sync::{Mutex, OnceLock, PoisonError};

use ::ort::environment::Environment;
use ::ort::session::Session as Inner;
use ::ort::value::TensorRef;

use super::{OnnxError, Source};

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

impl Session {
    /// Opens a model that was checked.
    pub(super) fn load(source: &Source<'_>) -> Result<Self, OnnxError> {
        let failed =
            |why: String| OnnxError::Load { engine: source.engine, why, path: source.path.to_path_buf() };
        let inner = Inner::builder(environment()?)
            .map_err(|error| failed(error.to_string()))?
            .with_intra_threads(source.threads)
            .map_err(|error| failed(error.to_string()))?
            .commit_from_file(source.path)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            inner: Mutex::new(inner),
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
