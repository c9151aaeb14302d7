//! Networks with several inputs and outputs, and with lengths that are free: the columns of `spatial_sparsity`.

use std::path::{Path, PathBuf};

use super::graph::GraphInfo;
use super::{OnnxError, ort, rten, shape_text};
use crate::config::OnnxEngine;
use crate::plan::SegmenterPlan;

/// Name and shape of an input or output, as the manifest says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph; the model's only input or first output unless given.
    pub name: Option<String>,
    /// Every shape it must allow: batch, channels, height, width.
    pub shapes: Vec<[usize; 4]>,
}

impl Port {
    /// A tensor by name.
    pub fn named(name: &str, shapes: &[[usize; 4]]) -> Self {
        Self { name: Some(name.to_owned()), shapes: shapes.to_vec() }
    }
}

/// A network's file and its ends, as a plan says them: the image first and the scores first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// ONNX file.
    pub path: PathBuf,
    /// What it reads.
    pub inputs: Vec<Port>,
    /// What it writes.
    pub outputs: Vec<Port>,
}

impl NetworkFile {
    /// The dense network of a plan for `sparse_refine`.
    pub fn segmenter(plan: &SegmenterPlan) -> Self {
        let port = |name: &Option<String>, shape| Port { name: name.clone(), shapes: vec![shape] };
        let tensors = &plan.tensors;
        Self {
            path: plan.path.clone(),
            inputs: vec![port(&tensors.input, tensors.input_shape())],
            outputs: vec![port(&tensors.output, tensors.output_shape())],
        }
    }

    /// The names that inputs and outputs have in the file; all of them are float32.
    pub fn names(&self) -> Result<[Vec<String>; 2], OnnxError> {
        let (info, path) = (GraphInfo::read(&self.path)?, &self.path);
        let input = |port: &Port| Ok(info.input(port.name.as_deref(), path)?.name.clone());
        let output = |port: &Port| Ok(info.output(port.name.as_deref(), path)?.name.clone());
        Ok([
            self.inputs.iter().map(input).collect::<Result<_, OnnxError>>()?,
            self.outputs.iter().map(output).collect::<Result<_, OnnxError>>()?,
        ])
    }
}

/// What an engine needs to open a network that was checked.
#[cfg_attr(
    not(any(feature = "onnx-rten", feature = "onnx-ort")),
    allow(dead_code, reason = "without an engine nobody opens it")
)]
pub(super) struct NetworkSource<'a> {
    pub(super) engine: OnnxEngine,
    pub(super) path: &'a Path,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) threads: usize,
}

/// A tensor that goes into a network, `shape` long.
pub type Input<'a> = ([usize; 4], &'a [f32]);

/// Shape and values of what came out.
pub(super) type Output = (Vec<usize>, Vec<f32>);

#[allow(clippy::large_enum_variant, reason = "one per model")]
enum Session {
    Rten(rten::NetworkSession),
    OnnxRuntime(ort::NetworkSession),
}

/// A network, ready to run. May be shared between threads.
pub struct Network {
    session: Session,
    engine: OnnxEngine,
    path: PathBuf,
    outputs: Vec<String>,
    states_shapes: bool,
}

impl Network {
    /// Opens a network and gives it `threads` threads of its own. Names, element types and the lengths that the file
    /// states must agree with `inputs` and `outputs`; lengths that it leaves free are checked when it runs.
    pub fn load(
        path: &Path,
        inputs: &[Port],
        outputs: &[Port],
        engine: OnnxEngine,
        threads: usize,
    ) -> Result<Self, OnnxError> {
        let info = GraphInfo::read(path)?;
        if engine == OnnxEngine::Rten
            && let Some((node, why)) = &info.wrong_in_rten
        {
            return Err(OnnxError::Unsafe { node: node.clone(), why: why.clone(), path: path.into() });
        }
        if info.inputs.len() > inputs.len() {
            let wanted = |name: &str| inputs.iter().any(|port| port.name.as_deref().unwrap_or(name) == name);
            if let Some(extra) = info.inputs.iter().find(|input| !wanted(&input.name)) {
                return Err(OnnxError::ExtraInput { name: extra.name.clone(), path: path.into() });
            }
        }
        let mut names = [Vec::new(), Vec::new()];
        let mut states_shapes = true;
        for port in inputs {
            let tensor = info.input(port.name.as_deref(), path)?;
            names[0].push(checked("input", tensor, port, path)?);
        }
        for port in outputs {
            let tensor = info.output(port.name.as_deref(), path)?;
            states_shapes &= tensor.is_static();
            names[1].push(checked("output", tensor, port, path)?);
        }
        let [inputs, outputs] = names;
        let source =
            NetworkSource { engine, path, inputs, outputs: outputs.clone(), threads: threads.max(1) };
        let session = match engine {
            OnnxEngine::Rten => Session::Rten(rten::NetworkSession::load(&source)?),
            OnnxEngine::Ort => Session::OnnxRuntime(ort::NetworkSession::load(&source)?),
        };
        Ok(Self { session, engine, path: path.into(), outputs, states_shapes })
    }

    /// Whether the file states the shapes of all these outputs, so that they are known to be right before it runs.
    pub fn states_shapes(&self) -> bool {
        self.states_shapes
    }

    /// Runs on borrowed inputs, in the order of [`Network::load`]. `outputs` holds the shape that each output must have
    /// and the memory that is replaced by it.
    pub fn run(
        &self,
        inputs: &[Input<'_>],
        outputs: &mut [([usize; 4], &mut Vec<f32>)],
    ) -> Result<(), OnnxError> {
        assert_eq!(outputs.len(), self.outputs.len(), "as many as were named when it was loaded");
        for (shape, data) in inputs {
            assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of {shape:?}");
        }
        let results = match &self.session {
            Session::Rten(session) => session.run(inputs),
            Session::OnnxRuntime(session) => session.run(inputs),
        };
        let failed = |why| OnnxError::Run { engine: self.engine, why, path: self.path.clone() };
        for ((result, (shape, memory)), name) in
            results.map_err(failed)?.into_iter().zip(outputs).zip(&self.outputs)
        {
            if result.0 != *shape {
                return Err(OnnxError::TensorShape {
                    role: "output",
                    name: name.clone(),
                    found: shape_text(&result.0),
                    expected: shape_text(shape),
                    path: self.path.clone(),
                });
            }
            **memory = result.1;
        }
        Ok(())
    }
}

/// The name of a tensor whose stated lengths contradict nothing in the manifest.
fn checked(
    role: &'static str,
    tensor: &super::TensorInfo,
    port: &Port,
    path: &Path,
) -> Result<String, OnnxError> {
    match port.shapes.iter().find(|shape| !tensor.accepts(*shape)) {
        None => Ok(tensor.name.clone()),
        Some(shape) => Err(OnnxError::TensorShape {
            role,
            name: tensor.name.clone(),
            found: tensor.shape_text(),
            expected: shape_text(shape),
            path: path.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{DataType, GraphProto, ModelProto};

    use super::super::fixtures::{model, node, value, write};
    use super::*;

    /// `sum = a + b` and `difference = a - b`, any number of them.
    fn sum_and_difference(batch: i64) -> ModelProto {
        let tensor = |name| value(name, DataType::FLOAT, Some(&[batch, 1, 2, 2]));
        model(GraphProto {
            node: vec![
                node("Add", &["a", "b"], &["sum"], vec![]),
                node("Sub", &["a", "b"], &["difference"], vec![]),
            ],
            input: vec![tensor("a"), tensor("b")],
            output: vec![tensor("sum"), tensor("difference")],
            ..GraphProto::default()
        })
    }

    fn load(model: &ModelProto, inputs: &[Port], outputs: &[Port]) -> Result<Network, OnnxError> {
        let (_folder, path) = write(model);
        Network::load(&path, inputs, outputs, OnnxEngine::Rten, 1)
    }

    const SHAPE: [usize; 4] = [2, 1, 2, 2];

    fn ports(names: [&str; 2]) -> [Port; 2] {
        names.map(|name| Port::named(name, &[SHAPE]))
    }

    #[test]
    #[cfg(feature = "onnx-rten")]
    fn inputs_and_outputs_go_by_name_and_the_batch_is_free() {
        let network =
            load(&sum_and_difference(0), &ports(["b", "a"]), &ports(["difference", "sum"])).unwrap();
        for batch in [2, 3] {
            let shape = [batch, 1, 2, 2];
            let (b, a): (Vec<f32>, Vec<f32>) = (0..batch * 4).map(|i| (i as f32, 10.0 * i as f32)).unzip();
            let (mut difference, mut sum) = (Vec::new(), vec![f32::NAN; 3]);
            network
                .run(&[(shape, &b), (shape, &a)], &mut [(shape, &mut difference), (shape, &mut sum)])
                .unwrap();
            assert_eq!(difference, (0..batch * 4).map(|i| 9.0 * i as f32).collect::<Vec<_>>());
            assert_eq!(sum, (0..batch * 4).map(|i| 11.0 * i as f32).collect::<Vec<_>>());
        }
        let error = network
            .run(
                &[(SHAPE, &[0.0; 8]), (SHAPE, &[0.0; 8])],
                &mut [(SHAPE, &mut Vec::new()), ([2, 1, 4, 2], &mut Vec::new())],
            )
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("output `sum` is 2x1x2x2, the manifest says 2x1x4x2: "), "{error}");
    }

    #[test]
    fn names_and_shapes_that_do_not_fit_are_refused() {
        let refusal =
            |model: &ModelProto, inputs: &[Port], outputs: &[Port]| match load(model, inputs, outputs) {
                Ok(_) => panic!("the network should be refused"),
                Err(error) => error.to_string(),
            };
        let (inputs, outputs) = (ports(["a", "b"]), ports(["sum", "difference"]));
        let text = refusal(&sum_and_difference(8), &inputs, &outputs);
        assert!(text.starts_with("input `a` is 8x1x2x2, the manifest says 2x1x2x2: "), "{text}");
        let text = refusal(&sum_and_difference(2), &inputs, &ports(["sum", "weights"]));
        assert!(
            text.starts_with("the model has no output `weights`, it has `sum`, `difference`: "),
            "{text}"
        );
        let text = refusal(&sum_and_difference(2), &inputs[..1], &outputs);
        assert!(text.starts_with("the model has an input `b` that the manifest does not name: "), "{text}");
    }
}
