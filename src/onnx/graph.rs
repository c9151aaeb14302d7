//! What an ONNX file says of itself, read without running it.

use std::path::Path;

use rten_onnx::onnx::{
    AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

use super::OnnxError;

/// Name, type and shape of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the graph.
    pub name: String,
    /// Element type, such as `FLOAT`; `None` if the file does not say.
    pub element: Option<String>,
    /// Lengths, `None` where free; the whole is `None` if the file does not say.
    pub shape: Option<Vec<Option<usize>>>,
}

impl TensorInfo {
    fn new(value: &ValueInfoProto) -> Self {
        let tensor = value.r#type.as_ref().and_then(|of| of.tensor_type.as_ref());
        let length = |length: i64| usize::try_from(length).ok().filter(|&length| length > 0);
        let shape = tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(|dim| dim.dim_value.and_then(length)).collect());
        let element = tensor
            .and_then(|tensor| tensor.elem_type)
            .map(|element| element.name().map_or_else(|| format!("type {}", element.0), str::to_owned));
        Self { name: value.name.clone().unwrap_or_default(), element, shape }
    }

    /// Whether every length is stated.
    pub(super) fn is_static(&self) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.iter().all(Option::is_some))
    }

    /// Whether a tensor of this shape contradicts nothing the file states.
    pub(super) fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.as_ref().is_none_or(|stated| {
            stated.len() == shape.len()
                && stated
                    .iter()
                    .zip(shape)
                    .all(|(stated, &length)| stated.is_none_or(|stated| stated == length))
        })
    }

    /// Such as `1x3x?x1024`.
    pub(super) fn shape_text(&self) -> String {
        let Some(shape) = &self.shape else { return "of unstated shape".to_owned() };
        let lengths: Vec<String> =
            shape.iter().map(|length| length.map_or_else(|| "?".to_owned(), |n| n.to_string())).collect();
        if lengths.is_empty() { "a scalar".to_owned() } else { lengths.join("x") }
    }
}

/// Inputs, outputs and known traps of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphInfo {
    /// Inputs that are not weights.
    pub inputs: Vec<TensorInfo>,
    /// Outputs, in the file's order.
    pub outputs: Vec<TensorInfo>,
    /// The first node that rten would run with a wrong result and no error: its name, and why.
    pub wrong_in_rten: Option<(String, String)>,
}

impl GraphInfo {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, OnnxError> {
        let bytes = std::fs::read(path).map_err(|source| OnnxError::Read { path: path.into(), source })?;
        let damaged = |why: String| OnnxError::Damaged { path: path.into(), why };
        check_outline(&bytes).map_err(|why| damaged(why.to_owned()))?;
        let model = ModelProto::parse_buf(&bytes).map_err(|error| damaged(error.to_string()))?;
        let graph = model.graph.as_ref().ok_or_else(|| damaged("it holds no graph".to_owned()))?;
        if model.opset_import.is_empty() {
            return Err(damaged("it names no operator set".to_owned()));
        }
        let info = Self::new(graph);
        if info.inputs.is_empty() || info.outputs.is_empty() {
            return Err(damaged("its graph has no input or no output".to_owned()));
        }
        Ok(info)
    }

    fn new(graph: &GraphProto) -> Self {
        let is_weight =
            |value: &&ValueInfoProto| graph.initializer.iter().any(|weight| weight.name == value.name);
        Self {
            inputs: graph.input.iter().filter(|value| !is_weight(value)).map(TensorInfo::new).collect(),
            outputs: graph.output.iter().map(TensorInfo::new).collect(),
            wrong_in_rten: wrong_in_rten(graph),
        }
    }

    /// The named float32 input, or the only one.
    pub(super) fn input(&self, name: Option<&str>, path: &Path) -> Result<&TensorInfo, OnnxError> {
        if name.is_none() && self.inputs.len() > 1 {
            return Err(OnnxError::SeveralInputs {
                count: self.inputs.len(),
                has: names(&self.inputs),
                path: path.into(),
            });
        }
        pick(&self.inputs, "input", name, path)
    }

    /// The named float32 output, or the first.
    pub(super) fn output(&self, name: Option<&str>, path: &Path) -> Result<&TensorInfo, OnnxError> {
        pick(&self.outputs, "output", name, path)
    }
}

/// Walks the outermost fields of a model: they are integers and length-prefixed parts that end where the file ends.
/// The parser may not come back from a file that is cut off or of another kind, so it must not see one.
fn check_outline(bytes: &[u8]) -> Result<(), &'static str> {
    /// The largest field number of a model in the ONNX format is 26.
    const FIELDS: std::ops::RangeInclusive<u64> = 1..=26;
    const CUT_OFF: &str = "it is cut off";
    let mut rest = bytes;
    if rest.is_empty() {
        return Err("it is empty");
    }
    while !rest.is_empty() {
        let tag = varint(&mut rest).ok_or(CUT_OFF)?;
        let value = varint(&mut rest).ok_or(CUT_OFF)?;
        match tag & 7 {
            _ if !FIELDS.contains(&(tag >> 3)) => return Err("it has fields of no model"),
            0 => {}
            2 => rest = usize::try_from(value).ok().and_then(|length| rest.get(length..)).ok_or(CUT_OFF)?,
            _ => return Err("it has fields of no model"),
        }
    }
    Ok(())
}

/// Takes a protobuf integer: seven bits a byte, the lowest first, the last without its top bit.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn pick<'a>(
    tensors: &'a [TensorInfo],
    role: &'static str,
    name: Option<&str>,
    path: &Path,
) -> Result<&'a TensorInfo, OnnxError> {
    let found = tensors.iter().find(|tensor| name.is_none_or(|name| tensor.name == name));
    let tensor = found.ok_or_else(|| OnnxError::NoTensor {
        role,
        name: name.unwrap_or_default().to_owned(),
        has: names(tensors),
        path: path.into(),
    })?;
    match &tensor.element {
        Some(element) if element != "FLOAT" => Err(OnnxError::ElementType {
            role,
            name: tensor.name.clone(),
            found: element.to_lowercase(),
            path: path.into(),
        }),
        _ => Ok(tensor),
    }
}

fn names(tensors: &[TensorInfo]) -> String {
    tensors.iter().map(|tensor| format!("`{}`", tensor.name)).collect::<Vec<_>>().join(", ")
}

/// The first node, in this graph or one inside it, that rten 0.27 computes differently from ONNX without an error.
/// Both cases were found by comparison with ONNX Runtime.
fn wrong_in_rten(graph: &GraphProto) -> Option<(String, String)> {
    graph.node.iter().find_map(|node| {
        let why = match node.op_type.as_deref() {
            Some("Resize") => cubic_resize(node),
            Some("ConvInteger") => padded_conv_integer(node, graph),
            _ => None,
        };
        match why {
            Some(why) => Some((node_name(node), why)),
            None => node.attribute.iter().filter_map(|of| of.g.as_ref()).find_map(wrong_in_rten),
        }
    })
}

fn node_name(node: &NodeProto) -> String {
    let name = node.name.as_ref().filter(|name| !name.is_empty());
    name.or(node.output.first()).cloned().unwrap_or_default()
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
}

fn cubic_resize(node: &NodeProto) -> Option<String> {
    let mode = attribute(node, "mode")?.s.as_deref()?;
    (mode == "cubic").then(|| {
        "rten would run this cubic Resize as a linear one; export it as linear, or use onnxruntime".to_owned()
    })
}

fn padded_conv_integer(node: &NodeProto, graph: &GraphProto) -> Option<String> {
    let padded = attribute(node, "pads").is_some_and(|pads| pads.ints.iter().any(|&pad| pad != 0))
        || attribute(node, "auto_pad")
            .and_then(|of| of.s.as_deref())
            .is_some_and(|way| way.starts_with("SAME"));
    if !padded {
        return None;
    }
    let zero_point = match node.input.get(2).filter(|name| !name.is_empty()) {
        None => Some(0),
        Some(name) => constant(graph, name).and_then(first_byte),
    };
    match zero_point {
        Some(128) => None,
        other => Some(format!(
            "rten pads this ConvInteger with 128, its zero point is {}; quantise with zero point 128, or use \
             onnxruntime",
            other.map_or_else(|| "not a constant".to_owned(), |value| value.to_string())
        )),
    }
}

/// A tensor that is stored in the graph, as a weight or as the value of a Constant node.
fn constant<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    let weight = graph.initializer.iter().find(|weight| weight.name.as_deref() == Some(name));
    weight.or_else(|| {
        let makes_it = |node: &&NodeProto| {
            node.op_type.as_deref() == Some("Constant") && node.output.iter().any(|output| output == name)
        };
        attribute(graph.node.iter().find(makes_it)?, "value")?.t.as_ref()
    })
}

/// The value of an unsigned 8-bit scalar.
fn first_byte(tensor: &TensorProto) -> Option<i32> {
    if tensor.data_type != Some(DataType::UINT8) {
        return None;
    }
    let raw = tensor.raw_data.as_ref().and_then(|raw| raw.borrow().first().copied());
    raw.map(i32::from).or_else(|| tensor.int32_data.first().copied())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{byte, integers, model, node, segmenter, subgraph, text, value, write};
    use super::*;

    fn graph(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> GraphProto {
        GraphProto {
            node,
            initializer,
            input: vec![value("image", DataType::FLOAT, None)],
            output: vec![value("logits", DataType::FLOAT, None)],
            ..GraphProto::default()
        }
    }

    #[test]
    fn shapes_are_read_with_their_free_lengths() {
        let (_folder, path) = write(&segmenter([16, 8], 5, 4, Some(&[0, 5, 2, 4])));
        let info = GraphInfo::read(&path).unwrap();
        assert_eq!(info.inputs.len(), 1, "weights are no inputs");
        assert_eq!(info.inputs[0].shape_text(), "1x3x8x16");
        let output = &info.outputs[0];
        assert_eq!((output.name.as_str(), output.shape_text().as_str()), ("logits", "?x5x2x4"));
        assert!(info.inputs[0].is_static() && !output.is_static());
        assert!(
            output.accepts(&[1, 5, 2, 4]) && !output.accepts(&[1, 5, 2]) && !output.accepts(&[1, 6, 2, 4])
        );
        assert_eq!(info.wrong_in_rten, None);
    }

    #[test]
    fn weights_listed_among_the_inputs_are_not_inputs() {
        let mut with_weight = graph(vec![], vec![byte("kernel", 3)]);
        with_weight.input.push(value("kernel", DataType::UINT8, Some(&[1])));
        assert_eq!(GraphInfo::new(&with_weight).inputs.len(), 1);
    }

    #[test]
    fn a_cubic_resize_is_found_at_any_depth() {
        let resize = |mode: &str| node("Resize", &["image"], &["logits"], vec![text("mode", mode)]);
        assert_eq!(wrong_in_rten(&graph(vec![resize("linear")], vec![])), None);
        let inner = graph(vec![resize("cubic")], vec![]);
        let (name, why) = wrong_in_rten(&inner).unwrap();
        assert_eq!(name, "Resize_of_logits");
        assert!(why.contains("cubic"));
        let branch = node("If", &["image"], &["logits"], vec![subgraph("then_branch", inner)]);
        let (_folder, path) = write(&model(graph(vec![branch], vec![])));
        assert_eq!(GraphInfo::read(&path).unwrap().wrong_in_rten.unwrap().0, "Resize_of_logits");
    }

    #[test]
    fn a_padded_conv_integer_needs_zero_point_128() {
        let conv = |inputs: &[&str], attributes| node("ConvInteger", inputs, &["logits"], attributes);
        let padded = || vec![integers("pads", &[1, 1, 1, 1])];
        let same = vec![text("auto_pad", "SAME_UPPER")];
        let all = ["image", "kernel", "zero"];
        let constant = {
            let mut attribute = text("value", "");
            attribute.t = Some(byte("", 7));
            node("Constant", &[], &["zero"], vec![attribute])
        };
        type Case<'a> = (&'a str, Vec<NodeProto>, Vec<TensorProto>, Option<&'a str>);
        let cases: [Case<'_>; 7] = [
            ("128", vec![conv(&all, padded())], vec![byte("zero", 128)], None),
            ("no pads", vec![conv(&all, vec![])], vec![byte("zero", 3)], None),
            ("pads of 0", vec![conv(&all, vec![integers("pads", &[0; 4])])], vec![byte("zero", 3)], None),
            ("119", vec![conv(&all, padded())], vec![byte("zero", 119)], Some("zero point is 119")),
            ("absent is 0", vec![conv(&all[..2], same)], vec![], Some("zero point is 0")),
            ("computed", vec![conv(&all, padded())], vec![], Some("zero point is not a constant")),
            ("a node", vec![constant, conv(&all, padded())], vec![], Some("zero point is 7")),
        ];
        for (case, nodes, weights, expected) in cases {
            let found = wrong_in_rten(&graph(nodes, weights));
            match (&found, expected) {
                (None, None) => {}
                (Some((_, why)), Some(expected)) => assert!(why.contains(expected), "{case}: {why}"),
                _ => panic!("{case}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_model_rten_would_compute_wrongly_is_refused_by_name() {
        use super::super::Segmenter;
        use crate::config::OnnxEngine;
        use crate::plan::TensorSpec;
        let resize = node("Resize", &["image"], &["logits"], vec![text("mode", "cubic")]);
        let (_folder, path) = write(&model(graph(vec![resize], vec![])));
        let spec = TensorSpec {
            input: None,
            output: None,
            size: crate::types::Size::new(4, 4),
            channels: 3,
            classes: 3,
            logit_stride: 1,
        };
        let error = Segmenter::load(&path, &spec, OnnxEngine::Rten, 1).err().expect("refused").to_string();
        assert!(error.starts_with("node `Resize_of_logits`: rten would run this cubic Resize"), "{error}");
    }
}
