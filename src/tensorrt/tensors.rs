//! Inputs and outputs of an engine, compared with what the bundle says of its network.

use serde::{Deserialize, Serialize};

use super::error::TensorRtError;
use crate::plan::TensorSpec;

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

/// Name and shape of an input or output, as it stands in a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Name in the graph.
    pub name: String,
    /// Lengths.
    pub shape: Vec<i64>,
}

/// Both ends of a network: float32, linear, `[1, channels, height, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEnds {
    /// The image.
    pub input: TensorEntry,
    /// The logits.
    pub output: TensorEntry,
}

impl NetworkEnds {
    /// What a bundle says; `input` and `output` are the names in the ONNX file.
    pub fn new(spec: &TensorSpec, input: &str, output: &str) -> Self {
        let (size, logits) = (spec.size, spec.logit_size());
        let entry = |name: &str, channels: usize, width: u32, height: u32| TensorEntry {
            name: name.to_owned(),
            shape: vec![1, channels as i64, i64::from(height), i64::from(width)],
        };
        Self {
            input: entry(input, 3, size.width, size.height),
            output: entry(output, spec.channels, logits.width, logits.height),
        }
    }

    /// Checks one tensor of a network or an engine.
    pub fn check(&self, tensor: &EngineTensor) -> Result<(), TensorRtError> {
        let (role, wanted) = if tensor.is_input { ("input", &self.input) } else { ("output", &self.output) };
        let mismatch = |has: String, wants: String| TensorRtError::EngineMismatch { role, has, wants };
        if tensor.name != wanted.name {
            return Err(mismatch(format!("`{}`", tensor.name), format!("`{}`", wanted.name)));
        }
        if tensor.shape != wanted.shape {
            return Err(mismatch(shape_text(&tensor.shape), shape_text(&wanted.shape)));
        }
        if tensor.element != ElementType::Float {
            return Err(mismatch(tensor.element.name(), ElementType::Float.name()));
        }
        if !tensor.is_linear {
            return Err(mismatch("a vectorised format".to_owned(), "a linear one".to_owned()));
        }
        Ok(())
    }

    /// Checks all tensors of an engine: these two and no other.
    pub fn check_all(&self, tensors: &[EngineTensor]) -> Result<(), TensorRtError> {
        tensors.iter().try_for_each(|tensor| self.check(tensor))?;
        for (role, is_input) in [("input", true), ("output", false)] {
            let count = tensors.iter().filter(|tensor| tensor.is_input == is_input).count();
            if count != 1 {
                let wants = "1".to_owned();
                return Err(TensorRtError::EngineMismatch { role, has: format!("{count} of them"), wants });
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
    use crate::types::Size;

    fn ends() -> NetworkEnds {
        let spec = TensorSpec {
            input: None,
            output: None,
            size: Size::new(64, 32),
            channels: 5,
            classes: 4,
            logit_stride: 8,
        };
        NetworkEnds::new(&spec, "image", "logits")
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
}
