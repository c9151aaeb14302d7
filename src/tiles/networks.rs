//! The two columns: what their files must be, and both as networks on the host, checked and run once.

use super::layout::{Layout, Rect};
use crate::config::OnnxEngine;
use crate::onnx::{Input, Network, NetworkFile, OnnxError, Port};
use crate::pipeline::BackendError;
use crate::plan::{Geometry, Plan};
use crate::types::{FrameError, Size};

/// The networks of a plan. May be shared between threads.
pub struct Networks {
    /// The reduced image in; scores, weights and, with cross-column connections, features out.
    pub coarse: Network,
    /// Windows in, scores out; with cross-column connections the features are its second input. In mode refined.
    pub fine: Option<Network>,
}

impl Networks {
    /// Loads the networks of a plan for `spatial_sparsity` and runs the fine one on an empty window.
    ///
    /// # Panics
    /// If the plan is for the other method.
    pub fn load(plan: &Plan) -> Result<Self, BackendError> {
        let (engine, threads) = (plan.segmenter.engine, plan.threads);
        // The manifest was checked for this geometry.
        let fine = fine_file(plan).map_err(|why| BackendError::Model(why.to_string()))?;
        let fine = fine.map(|fine| load(&fine, engine, threads, true)).transpose();
        Ok(Self {
            fine: fine.map_err(model_error)?,
            coarse: load(&coarse_file(plan), engine, threads, false).map_err(model_error)?,
        })
    }
}

/// Shape of a batch of maps.
pub fn map_shape(batch: usize, channels: usize, size: Size) -> [usize; 4] {
    [batch, channels, size.height as usize, size.width as usize]
}

fn model_error(error: OnnxError) -> BackendError {
    match error {
        OnnxError::NotInBuild { .. } | OnnxError::Library { .. } => {
            BackendError::NotAvailable { backend: "onnx", why: error.to_string() }
        }
        error => BackendError::Model(error.to_string()),
    }
}

/// The coarse column of a plan for `spatial_sparsity`: scores, weights and, with cross-column connections, features.
///
/// # Panics
/// If the plan is for the other method.
pub fn coarse_file(plan: &Plan) -> NetworkFile {
    let columns = plan.columns.as_ref().expect("a plan of spatial_sparsity");
    let tensors = &plan.segmenter.tensors;
    let cells = tensors.logit_size();
    let port = |name: &Option<String>, channels, size| Port {
        name: name.clone(),
        shapes: vec![map_shape(1, channels, size)],
    };
    let mut outputs =
        vec![port(&tensors.output, tensors.channels, cells), port(&Some(columns.weights.clone()), 1, cells)];
    if let Some((name, channels)) = &columns.features {
        outputs.push(port(&Some(name.clone()), *channels, cells));
    }
    let inputs = vec![port(&tensors.input, 3, tensors.size)];
    NetworkFile { path: plan.segmenter.path.clone(), inputs, outputs }
}

/// The fine column, where there is one: batches of windows of each size, then the whole image, of a camera that has
/// the size that it was made for.
///
/// # Panics
/// If the plan is for the other method.
pub fn fine_file(plan: &Plan) -> Result<Option<NetworkFile>, FrameError> {
    let columns = plan.columns.as_ref().expect("a plan of spatial_sparsity");
    let Some(fine) = &columns.fine else { return Ok(None) };
    let tensors = &plan.segmenter.tensors;
    let geometry = Geometry { camera: fine.size, canvas: fine.size, grid: tensors.size };
    let layout = Layout::new(&geometry, tensors.logit_stride, columns.stride, Some(fine))?;
    let window = Rect { size: layout.window_size(), ..layout.whole() };
    let mut runs: Vec<(usize, Rect)> = fine.batch.iter().map(|&size| (size, window)).collect();
    if !runs.contains(&(1, layout.whole())) {
        runs.push((1, layout.whole()));
    }
    let port = |name: &str, channels, unit| {
        let shape = |(size, rect): &(usize, Rect)| map_shape(*size, channels, rect.on_grid(unit).size);
        Port::named(name, &runs.iter().map(shape).collect::<Vec<_>>())
    };
    let mut inputs = vec![port(&fine.input, 3, 1)];
    if let Some((name, channels)) = &columns.features {
        inputs.push(port(name, *channels, layout.cell));
    }
    let outputs = vec![port(&fine.output, tensors.channels, layout.stride)];
    Ok(Some(NetworkFile { path: fine.path.clone(), inputs, outputs }))
}

/// Loads a network for the host and, where `try_it` or the file does not state its shapes, runs it once on zeros.
fn load(file: &NetworkFile, engine: OnnxEngine, threads: usize, try_it: bool) -> Result<Network, OnnxError> {
    let network = Network::load(&file.path, &file.inputs, &file.outputs, engine, threads)?;
    if try_it || !network.states_shapes() {
        let zeros = |port: &Port| vec![0.0; port.shapes[0].iter().product()];
        let zeros: Vec<Vec<f32>> = file.inputs.iter().map(zeros).collect();
        let inputs: Vec<Input<'_>> =
            file.inputs.iter().zip(&zeros).map(|(port, zeros)| (port.shapes[0], &zeros[..])).collect();
        let mut results = vec![Vec::new(); file.outputs.len()];
        let mut outputs: Vec<_> =
            file.outputs.iter().zip(&mut results).map(|(port, result)| (port.shapes[0], result)).collect();
        network.run(&inputs, &mut outputs)?;
    }
    Ok(network)
}
