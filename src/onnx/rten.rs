//! Models on rten.

use std::sync::Arc;

use ::rten::{Model, NodeId, RunOptions, ThreadPool, ValueView};

use super::network::{Input, NetworkSource, Output};
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

/// A network with any number of inputs and outputs, with threads of its own.
pub(super) struct NetworkSession {
    model: Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    options: RunOptions,
}

impl NetworkSession {
    /// Opens a network that was checked.
    pub(super) fn load(source: &NetworkSource<'_>) -> Result<Self, OnnxError> {
        let failed =
            |why: String| OnnxError::Load { engine: source.engine, why, path: source.path.to_path_buf() };
        let model = Model::load_file(source.path).map_err(|error| failed(error.to_string()))?;
        let nodes = |names: &[String]| -> Result<Vec<NodeId>, OnnxError> {
            names.iter().map(|name| model.node_id(name).map_err(|error| failed(error.to_string()))).collect()
        };
        let (inputs, outputs) = (nodes(&source.inputs)?, nodes(&source.outputs)?);
        let pool = Arc::new(ThreadPool::with_num_threads(source.threads));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        Ok(Self { model, inputs, outputs, options })
    }

    /// Runs on borrowed inputs. Returns shape and values of each output.
    pub(super) fn run(&self, inputs: &[Input<'_>]) -> Result<Vec<Output>, String> {
        let mut views = Vec::with_capacity(inputs.len());
        for (&node, (shape, data)) in self.inputs.iter().zip(inputs) {
            let view = ValueView::from_shape(*shape, data).map_err(|error| error.to_string())?;
            views.push((node, view.into()));
        }
        let values = self
            .model
            .run(views, &self.outputs, Some(self.options.clone()))
            .map_err(|error| error.to_string())?;
        let extract = |value: ::rten::Value| {
            let (shape, data) = value.into_shape_vec::<f32, 4>().map_err(|error| error.to_string())?;
            Ok((shape.to_vec(), data))
        };
        values.into_iter().map(extract).collect()
    }
}
