//! A tiny bundle of the method `spatial_sparsity`: both columns are means of colours in blocks of 8x8.

use std::fs;
use std::path::Path;

use rten_onnx::onnx::{DataType, GraphProto, NodeProto};

use super::{LABELS, fixtures, sha256};

/// Writes the bundle to `dir`, which is made. `configuration` is `ctf` or `sctf`.
pub(crate) fn write_columns(dir: &Path, configuration: &str) {
    fs::create_dir_all(dir).unwrap();
    let (coarse, fine) = (coarse(), fine());
    let classes: String = LABELS
        .iter()
        .zip(["red", "green", "blue", "dark"])
        .map(|(label, name)| {
            format!("[[classes]]\nname = \"{name}\"\ncolour = [{label}, 0, {label}]\nlabel = {label}\n")
        })
        .collect();
    let (coarse_hash, fine_hash) = (sha256(&coarse), sha256(&fine));
    let manifest = format!(
        "schema = 1
name = \"columns\"
method = \"spatial_sparsity\"
{classes}
[segmenter]
file = \"coarse.onnx\"
sha256 = \"{coarse_hash}\"
output = \"scores\"
size = [32, 24]
fit = \"pad\"
mean = [127.5, 127.5, 127.5]
std = [64.0, 64.0, 64.0]
logit_stride = 8
[selector]
kind = \"weights\"
alpha = 0.5
max_fraction = 1.0
[fine]
configuration = \"{configuration}\"
file = \"fine.onnx\"
sha256 = \"{fine_hash}\"
size = [64, 48]
stride = 8
tile = 16
halo = 16
"
    );
    fs::write(dir.join("coarse.onnx"), coarse).unwrap();
    fs::write(dir.join("fine.onnx"), fine).unwrap();
    fs::write(dir.join("model.toml"), manifest).unwrap();
}

/// A weight for each colour, spread over a block.
fn taps(rows: &[[f32; 3]]) -> Vec<f32> {
    rows.as_flattened().iter().flat_map(|tap| std::iter::repeat_n(tap / 64.0, 64)).collect()
}

fn blocks(kernel: &str, output: &str) -> NodeProto {
    let attributes =
        vec![fixtures::integers("kernel_shape", &[8, 8]), fixtures::integers("strides", &[8, 8])];
    fixtures::node("Conv", &["image", kernel], &[output], attributes)
}

fn coarse() -> Vec<u8> {
    let scores = taps(&[[1.5, -0.5, -0.5], [-0.5, 1.5, -0.5], [-0.5, -0.5, 1.5], [-0.7, -0.7, -0.7]]);
    let weights = taps(&[[3.0, 0.0, -3.0]]);
    let value = |name, channels| fixtures::value(name, DataType::FLOAT, Some(&[1, channels, 3, 4]));
    let graph = GraphProto {
        node: vec![
            blocks("k", "scores"),
            blocks("kw", "logit"),
            fixtures::node("Sigmoid", &["logit"], &["weights"], vec![]),
        ],
        initializer: vec![
            fixtures::weights("k", &[4, 3, 8, 8], &scores),
            fixtures::weights("kw", &[1, 3, 8, 8], &weights),
        ],
        input: vec![fixtures::value("image", DataType::FLOAT, Some(&[1, 3, 24, 32]))],
        output: vec![value("scores", 4), value("weights", 1)],
        ..GraphProto::default()
    };
    fixtures::model(graph).write_buf().unwrap()
}

fn fine() -> Vec<u8> {
    // Sees green and blue the other way round, so that what it decides shows.
    let scores = taps(&[[1.5, -0.5, -0.5], [-0.5, -0.5, 1.5], [-0.5, 1.5, -0.5], [-0.7, -0.7, -0.7]]);
    let graph = GraphProto {
        node: vec![blocks("k", "scores")],
        initializer: vec![fixtures::weights("k", &[4, 3, 8, 8], &scores)],
        input: vec![fixtures::value("image", DataType::FLOAT, Some(&[0, 3, 0, 0]))],
        output: vec![fixtures::value("scores", DataType::FLOAT, None)],
        ..GraphProto::default()
    };
    fixtures::model(graph).write_buf().unwrap()
}
