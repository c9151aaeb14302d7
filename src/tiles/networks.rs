//! The two columns as ONNX networks on the host, checked and run once.

use super::layout::{Layout, Rect};
use crate::onnx::{Input, Network, OnnxError, Port};
use crate::pipeline::BackendError;
use crate::plan::{ColumnsPlan, FinePlan, Geometry, Plan};
use crate::types::Size;

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
        let columns = plan.columns.as_ref().expect("a plan of spatial_sparsity");
        let fine = columns.fine.as_ref().map(|fine| load_fine(plan, columns, fine)).transpose();
        Ok(Self {
            fine: fine.map_err(model_error)?,
            coarse: load_coarse(plan, columns).map_err(model_error)?,
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

fn load_coarse(plan: &Plan, columns: &ColumnsPlan) -> Result<Network, OnnxError> {
    let segmenter = &plan.segmenter;
    let tensors = &segmenter.tensors;
    let cells = tensors.logit_size();
    let input = Port { name: tensors.input.clone(), shapes: vec![map_shape(1, 3, tensors.size)] };
    let mut shapes = vec![map_shape(1, tensors.channels, cells), map_shape(1, 1, cells)];
    let mut outputs = vec![
        Port { name: tensors.output.clone(), shapes: vec![shapes[0]] },
        Port::named(&columns.weights, &shapes[1..]),
    ];
    if let Some((name, channels)) = &columns.features {
        shapes.push(map_shape(1, *channels, cells));
        outputs.push(Port::named(name, &shapes[2..]));
    }
    let network = Network::load(&segmenter.path, &[input], &outputs, segmenter.engine, plan.threads)?;
    if !network.states_shapes() {
        let mut results = vec![Vec::new(); shapes.len()];
        let mut outputs: Vec<_> = shapes.into_iter().zip(&mut results).collect();
        let zeros = vec![0.0; 3 * tensors.size.pixels()];
        network.run(&[(map_shape(1, 3, tensors.size), &zeros)], &mut outputs)?;
    }
    Ok(network)
}

fn load_fine(plan: &Plan, columns: &ColumnsPlan, fine: &FinePlan) -> Result<Network, OnnxError> {
    let segmenter = &plan.segmenter;
    let geometry = Geometry { camera: fine.size, canvas: fine.size, grid: segmenter.tensors.size };
    // The manifest was checked for this geometry.
    let layout = Layout::new(&geometry, segmenter.tensors.logit_stride, columns.stride, Some(fine)).map_err(
        |why| OnnxError::Load { engine: segmenter.engine, why: why.to_string(), path: fine.path.clone() },
    )?;
    let mut windows: Vec<(usize, Rect)> = fine
        .batch
        .iter()
        .map(|&size| (size, Rect { size: layout.window_size(), ..layout.whole() }))
        .collect();
    windows.push((1, layout.whole()));
    let shapes = |channels: usize, unit: u32| -> Vec<[usize; 4]> {
        windows.iter().map(|(size, rect)| map_shape(*size, channels, rect.on_grid(unit).size)).collect()
    };
    let mut inputs = vec![Port::named(&fine.input, &shapes(3, 1))];
    if let Some((name, channels)) = &columns.features {
        inputs.push(Port::named(name, &shapes(*channels, layout.cell)));
    }
    let output = Port::named(&fine.output, &shapes(segmenter.tensors.channels, layout.stride));
    let tried = output.shapes[0];
    let network = Network::load(&fine.path, &inputs, &[output], segmenter.engine, plan.threads)?;
    let zeros: Vec<Vec<f32>> = inputs.iter().map(|port| vec![0.0; port.shapes[0].iter().product()]).collect();
    let tensors: Vec<Input<'_>> =
        inputs.iter().zip(&zeros).map(|(port, zeros)| (port.shapes[0], &zeros[..])).collect();
    network.run(&tensors, &mut [(tried, &mut Vec::new())])?;
    Ok(network)
}
