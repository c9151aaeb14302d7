//! Small ONNX models, written byte by byte for tests.

use std::cell::RefCell;
use std::path::PathBuf;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

/// A node named after its operator.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        name: Some(format!("{op}_of_{}", outputs[0])),
        op_type: Some(op.to_owned()),
        input: owned(inputs),
        output: owned(outputs),
        attribute,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, of: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(of), ..AttributeProto::default() }
}

pub(crate) fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::INTS) }
}

pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.to_owned()), ..attribute(name, AttributeType::STRING) }
}

pub(crate) fn subgraph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(value), ..attribute(name, AttributeType::GRAPH) }
}

pub(crate) fn weights(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(values.iter().flat_map(|value| value.to_le_bytes()).collect())),
        ..TensorProto::default()
    }
}

pub(crate) fn byte(name: &str, value: u8) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::UINT8),
        raw_data: Some(RefCell::new(vec![value])),
        ..TensorProto::default()
    }
}

/// An input or output; a length of 0 is left free.
pub(crate) fn value(name: &str, of: DataType, shape: Option<&[i64]>) -> ValueInfoProto {
    let dim = |&length: &i64| match length {
        0 => Dimension { dim_param: Some("free".to_owned()), ..Dimension::default() },
        length => Dimension { dim_value: Some(length), ..Dimension::default() },
    };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = TypeProtoTensor { elem_type: Some(of), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
    }
}

/// A segmenter of `width` x `height` whose logit `c` is the mean of each `stride` x `stride` block of the planes,
/// times `c + 1`, plus 1, 10 and 100 times those of planes 0, 1 and 2: a convolution whose result is known.
pub(crate) fn segmenter(
    [width, height]: [i64; 2],
    channels: usize,
    stride: i64,
    output: Option<&[i64]>,
) -> ModelProto {
    let area = (stride * stride) as usize;
    let kernel: Vec<f32> = (0..channels)
        .flat_map(|channel| [1.0, 10.0, 100.0].map(|plane| plane * (channel + 1) as f32 / area as f32))
        .flat_map(|tap| std::iter::repeat_n(tap, area))
        .collect();
    let shape = [stride, stride];
    let attributes =
        vec![integers("kernel_shape", &shape), integers("strides", &shape), integers("dilations", &[1, 1])];
    model(GraphProto {
        node: vec![node("Conv", &["image", "kernel"], &["logits"], attributes)],
        initializer: vec![weights("kernel", &[channels as i64, 3, stride, stride], &kernel)],
        input: vec![value("image", DataType::FLOAT, Some(&[1, 3, height, width]))],
        output: vec![value("logits", DataType::FLOAT, output)],
        ..GraphProto::default()
    })
}

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Writes a model into a folder that is removed when the first value is dropped.
pub(crate) fn write(model: &ModelProto) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.write_buf().expect("a sound model")).expect("room for a small file");
    (folder, path)
}
