//! Inputs and outputs of an engine, compared with what the bundle says of its network.

use serde::{Deserialize, Serialize};

use super::error::TensorRtError;
use crate::onnx::Port;

/// TensorRT's element types that a network's ends can have; the numbers are the ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit float, the only one the pipeline feeds and reads.
    Float,
    /// 16-bit float.
    Half,
    /// Any other, by TensorRT's number.
    Other(i32),
}

impl ElementType {
    /// From TensorRT's `DataType`.
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Float,
            1 => Self::Half,
            other => Self::Other(other),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Float => "float32".to_owned(),
            Self::Half => "float16".to_owned(),
            Self::Other(number) => format!("type {number}"),
        }
    }
}

/// An input or output, as TensorRT tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineTensor {
    /// Name in the graph.
    pub name: String,
    /// Input or output.
    pub is_input: bool,
    /// Type of its elements.
    pub element: ElementType,
    /// Whether its elements lie row by row, plane by plane.
    pub is_linear: bool,
    /// Lengths; -1 where free.
    pub shape: Vec<i64>,
}

/// Name and shapes of an input or output, as they stand in a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Name in the graph.
    pub name: String,
    /// Lengths in each of the network's runs: batch, channels, height, width.
    pub shapes: Vec<[i64; 4]>,
}

impl TensorEntry {
    /// A tensor as a plan names it; its name where the plan leaves that to the graph.
    pub fn new(port: &Port, name: &str) -> Self {
        let shape = |shape: &[usize; 4]| shape.map(|length| i64::try_from(length).unwrap_or(i64::MAX));
        Self { name: name.to_owned(), shapes: port.shapes.iter().map(shape).collect() }
    }

    /// The lengths that are the same in every run; -1 where they differ, as TensorRT writes a free length.
    pub fn common(&self) -> [i64; 4] {
        let first = self.shapes.first().copied().unwrap_or_default();
        std::array::from_fn(|axis| {
            if self.shapes.iter().all(|shape| shape[axis] == first[axis]) { first[axis] } else { -1 }
        })
    }
}

/// All ends of a network: float32, linear. It is run with the first shapes of all of them, with the second, and so on;
/// each such run has a profile of its own in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEnds {
    /// What it reads, the image first.
    pub inputs: Vec<TensorEntry>,
    /// What it writes, the scores first.
    pub outputs: Vec<TensorEntry>,
}

impl NetworkEnds {
    /// How many runs with other shapes there are.
    pub fn runs(&self) -> usize {
        self.inputs.first().map_or(0, |input| input.shapes.len())
    }

    /// The run in which the inputs have these shapes.
    pub fn run_of(&self, inputs: &[[usize; 4]]) -> Option<usize> {
        let is = |entry: &TensorEntry, run: usize, shape: &[usize; 4]| {
            entry.shapes.get(run).is_some_and(|has| {
                has.iter()
                    .zip(shape)
                    .all(|(&has, &length)| i64::try_from(length).is_ok_and(|length| has == length))
            })
        };
        (0..self.runs()).find(|&run| {
            inputs.len() == self.inputs.len()
                && self.inputs.iter().zip(inputs).all(|(entry, shape)| is(entry, run, shape))
        })
    }

    /// Checks one tensor of a network or an engine. Only lengths that differ between runs may be free.
    pub fn check(&self, tensor: &EngineTensor) -> Result<(), TensorRtError> {
        let (role, wanted) =
            if tensor.is_input { ("input", &self.inputs) } else { ("output", &self.outputs) };
        let mismatch = |has: String, wants: String| TensorRtError::EngineMismatch { role, has, wants };
        let Some(wanted) = wanted.iter().find(|entry| entry.name == tensor.name) else {
            let names: Vec<_> = wanted.iter().map(|entry| format!("`{}`", entry.name)).collect();
            return Err(mismatch(format!("`{}`", tensor.name), names.join(", ")));
        };
        let common = wanted.common();
        if tensor.shape != common {
            return Err(mismatch(shape_text(&tensor.shape), shape_text(&common)));
        }
        if tensor.element != ElementType::Float {
            return Err(mismatch(tensor.element.name(), ElementType::Float.name()));
        }
        if !tensor.is_linear {
            return Err(mismatch("a vectorised format".to_owned(), "a linear one".to_owned()));
        }
        Ok(())
    }

    /// Checks all tensors of an engine: these and no other.
    pub fn check_all(&self, tensors: &[EngineTensor]) -> Result<(), TensorRtError> {
        tensors.iter().try_for_each(|tensor| self.check(tensor))?;
        for (role, is_input, wanted) in [("input", true, &self.inputs), ("output", false, &self.outputs)] {
            let count = tensors.iter().filter(|tensor| tensor.is_input == is_input).count();
            if count != wanted.len() {
                let (has, wants) = (format!("{count} of them"), wanted.len().to_string());
                return Err(TensorRtError::EngineMismatch { role, has, wants });
            }
        }
        Ok(())
    }
}

fn shape_text(shape: &[i64]) -> String {
    let length = |length: &i64| if *length < 0 { "?".to_owned() } else { length.to_string() };
    shape.iter().map(length).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, shapes: &[[usize; 4]]) -> TensorEntry {
        TensorEntry::new(&Port::named(name, shapes), name)
    }

    fn ends() -> NetworkEnds {
        NetworkEnds {
            inputs: vec![entry("image", &[[1, 3, 32, 64]])],
            outputs: vec![entry("logits", &[[1, 5, 4, 8]])],
        }
    }

    fn tensor(name: &str, is_input: bool, shape: &[i64]) -> EngineTensor {
        let element = ElementType::Float;
        EngineTensor { name: name.into(), is_input, element, is_linear: true, shape: shape.to_vec() }
    }

    #[test]
    fn an_engine_has_exactly_the_tensors_of_the_bundle() {
        let (input, output) =
            (tensor("image", true, &[1, 3, 32, 64]), tensor("logits", false, &[1, 5, 4, 8]));
        ends().check_all(&[input.clone(), output.clone()]).unwrap();
        let half = EngineTensor { element: ElementType::Half, ..output.clone() };
        let packed = EngineTensor { is_linear: false, ..output.clone() };
        let cases = [
            (vec![input.clone(), tensor("y", false, &[1, 5, 4, 8])], "output is `y`"),
            (vec![tensor("image", true, &[-1, 3, 32, 64]), output.clone()], "input is ?x3x32x64"),
            (vec![input.clone(), half], "output is float16, the bundle says float32"),
            (vec![input.clone(), packed], "vectorised"),
            (vec![input.clone()], "output is 0 of them"),
            (vec![input.clone(), input, output], "input is 2 of them"),
        ];
        for (tensors, expected) in cases {
            let error = ends().check_all(&tensors).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn lengths_that_differ_between_runs_are_free_and_no_others() {
        let ends = NetworkEnds {
            inputs: vec![
                entry("image", &[[2, 3, 64, 64], [4, 3, 64, 64], [1, 3, 96, 160]]),
                entry("features", &[[2, 8, 4, 4], [4, 8, 4, 4], [1, 8, 6, 10]]),
            ],
            outputs: vec![entry("scores", &[[2, 5, 8, 8], [4, 5, 8, 8], [1, 5, 12, 20]])],
        };
        let (image, features) =
            (tensor("image", true, &[-1, 3, -1, -1]), tensor("features", true, &[-1, 8, -1, -1]));
        let scores = tensor("scores", false, &[-1, 5, -1, -1]);
        ends.check_all(&[image.clone(), features, scores.clone()]).unwrap();
        let error = ends.check_all(&[image, scores]).unwrap_err().to_string();
        assert!(error.contains("input is 1 of them, the bundle says 2"), "{error}");
        let fixed = tensor("image", true, &[4, 3, 64, 64]);
        let error = ends.check(&fixed).unwrap_err().to_string();
        assert!(error.contains("input is 4x3x64x64, the bundle says ?x3x?x?"), "{error}");
        assert_eq!((ends.runs(), ends.run_of(&[[1, 3, 96, 160], [1, 8, 6, 10]])), (3, Some(2)));
        assert_eq!(ends.run_of(&[[4, 3, 64, 64], [2, 8, 4, 4]]), None, "the tensors of two runs");
        assert_eq!(ends.run_of(&[[3, 3, 64, 64], [3, 8, 4, 4]]), None);
        assert_eq!(ends.run_of(&[[2, 3, 64, 64]]), None);
    }
}
