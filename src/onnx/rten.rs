//! Models on rten.

use std::sync::Arc;

use ::rten::{Model, NodeId, RunOptions, ThreadPool, ValueView};

use super::{OnnxError, Source};

/// A loaded model with threads of its own, so that it does not fight the pipeline's for cores.
pub(super) struct Session {
    model: Model,
    input: NodeId,
    output: NodeId,
    input_shape: [usize; 4],
    options: RunOptions,
}

impl Session {
    /// Opens a model that was checked.
    pub(super) fn load(source: &Source<'_>) -> Result<Self, OnnxError> {
        let failed =
            |why: String| OnnxError::Load { engine: source.engine, why, path: source.path.to_path_buf() };
        let model = Model::load_file(source.path).map_err(|error| failed(error.to_string()))?;
        let node = |name| model.node_id(name).map_err(|error| failed(error.to_string()));
        let (input, output) = (node(source.input)?, node(source.output)?);
        let pool = Arc::new(ThreadPool::with_num_threads(source.threads));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        Ok(Self { model, input, output, input_shape: source.input_shape, options })
    }

    /// Runs on a borrowed input; the output's memory becomes `logits`. Returns its shape.
    pub(super) fn run(&self, input: &[f32], logits: &mut Vec<f32>) -> Result<Vec<usize>, String> {
        let view = ValueView::from_shape(self.input_shape, input).map_err(|error| error.to_string())?;
        let [value] = self
            .model
            .run_n(vec![(self.input, view.into())], [self.output], Some(self.options.clone()))
            .map_err(|error| error.to_string())?;
        let (shape, data) = value.into_shape_vec::<f32, 4>().map_err(|error| error.to_string())?;
        *logits = data;
        Ok(shape.to_vec())
    }
}
