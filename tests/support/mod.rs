//! A tiny real bundle and small recordings, made in a folder that goes with the test.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

pub(crate) mod columns;
#[path = "../../src/onnx/fixtures/mod.rs"]
pub(crate) mod fixtures;
pub(crate) mod recording;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rten_onnx::onnx::{DataType, GraphProto, NodeProto};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest as _, Sha256};
use sparse_refine::bundle::refiner::{Bound, Features, RefinerSpec};

/// Classes of the bundle, and their label values: two channels share one.
pub(crate) const LABELS: [u8; 4] = [0, 1, 2, 7];
/// Input of the segmenter. Images of 64x48 have cells of 2x2 pixels.
const GRID: [i64; 2] = [32, 24];

/// A bundle of four classes whose coarse network is one convolution of colours.
pub(crate) struct TinyBundle {
    pub(crate) dir: PathBuf,
    onnx: Vec<u8>,
    weights: Vec<u8>,
}

impl TinyBundle {
    /// Writes the bundle to `dir`, which is made.
    pub(crate) fn write(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let scores = [[1.5, -0.5, -0.5], [-0.5, 1.5, -0.5], [-0.5, -0.5, 1.5], [-0.7, -0.7, -0.7]];
        let bundle =
            Self { dir: dir.to_owned(), onnx: colour_network(scores, &[]), weights: weights(&spec()) };
        bundle.save(|manifest| manifest);
        bundle
    }

    /// Writes the bundle once more with another text of the manifest.
    pub(crate) fn save(&self, change: impl FnOnce(String) -> String) {
        fs::write(self.dir.join("segmenter.onnx"), &self.onnx).unwrap();
        fs::write(self.dir.join("refiner.safetensors"), &self.weights).unwrap();
        fs::write(self.dir.join("model.toml"), change(self.manifest())).unwrap();
    }

    /// Logits that are not finite wherever red is below the mean: the square root of red.
    pub(crate) fn with_roots_of_red(mut self) -> Self {
        let red = |factor: f32| [factor, 0.0, 0.0];
        let root = fixtures::node("Sqrt", &["scores"], &["logits"], Vec::new());
        self.onnx = colour_network([red(1.0), red(2.0), red(9.0), red(3.0)], &[root]);
        self.save(|manifest| manifest);
        self
    }

    /// Any segmenter, with the right hash.
    pub(crate) fn with_onnx(mut self, onnx: Vec<u8>) -> Self {
        self.onnx = onnx;
        self.save(|manifest| manifest);
        self
    }

    /// A segmenter that ends in the middle, with the right hash.
    pub(crate) fn with_truncated_onnx(mut self) -> Self {
        self.onnx.truncate(self.onnx.len() / 2);
        self.save(|manifest| manifest);
        self
    }

    /// Weights made by `tensor` in place of those of the tensor `name`; none leaves it out.
    pub(crate) fn with_tensor(mut self, name: &str, change: impl Fn(Vec<f32>) -> Option<Vec<f32>>) -> Self {
        let tensors = random_tensors(&spec()).into_iter();
        let tensors = tensors.filter_map(|(tensor, shape, values)| {
            let values = if tensor == name { change(values)? } else { values };
            Some((tensor, shape, values))
        });
        self.weights = safetensors_file(tensors.collect());
        self.save(|manifest| manifest);
        self
    }

    /// Another refiner, with the manifest's lines for it and whatever else `change` does.
    pub(crate) fn with_refiner(mut self, spec: &RefinerSpec, change: impl Fn(String) -> String) -> Self {
        self.weights = weights(spec);
        let bound = if spec.bound == Bound::Active { "active" } else { "image" };
        let features = if spec.features == Features::Rgb { "rgb" } else { "rgb+probabilities" };
        let lines = format!(
            "planes = {:?}\nblocks = {}\nbound = \"{bound}\"\nfeatures = \"{features}\"\n",
            spec.planes, spec.blocks
        );
        self.save(|manifest| {
            let refiner = manifest.find("planes = ").unwrap();
            change(format!("{}{lines}", &manifest[..refiner]))
        });
        self
    }

    fn manifest(&self) -> String {
        let mut text = String::from("schema = 1\nname = \"tiny\"\nmethod = \"sparse_refine\"\n");
        for (label, name) in LABELS.iter().zip(["red", "green", "blue", "dark"]) {
            let colour = format!("[{label}, 0, {label}]");
            writeln!(text, "[[classes]]\nname = \"{name}\"\ncolour = {colour}\nlabel = {label}").unwrap();
        }
        let (onnx, weights) = (sha256(&self.onnx), sha256(&self.weights));
        let [width, height] = GRID;
        write!(
            text,
            "[segmenter]
file = \"segmenter.onnx\"
sha256 = \"{onnx}\"
size = [{width}, {height}]
fit = \"pad\"
mean = [127.5, 127.5, 127.5]
std = [64.0, 64.0, 64.0]
logit_stride = 2
[selector]
alpha = 0.4
max_fraction = 1.0
[refiner]
file = \"refiner.safetensors\"
sha256 = \"{weights}\"
planes = [4, 8]
blocks = 1
features = \"rgb+probabilities\"
"
        )
        .unwrap();
        text
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn spec() -> RefinerSpec {
    RefinerSpec {
        classes: LABELS.len(),
        planes: vec![4, 8],
        blocks: 1,
        features: Features::RgbProbabilities,
        bound: Bound::Image,
    }
}

/// Scores of each class by the mean colour of 2x2 cells of the input; `after` turns `scores` into `logits`.
fn colour_network(taps: [[f32; 3]; 4], after: &[NodeProto]) -> Vec<u8> {
    let name = if after.is_empty() { "logits" } else { "scores" };
    let kernel: Vec<f32> =
        taps.as_flattened().iter().flat_map(|tap| std::iter::repeat_n(tap / 4.0, 4)).collect();
    let attributes = vec![
        fixtures::integers("kernel_shape", &[2, 2]),
        fixtures::integers("strides", &[2, 2]),
        fixtures::integers("dilations", &[1, 1]),
    ];
    let conv = fixtures::node("Conv", &["image", "kernel"], &[name], attributes);
    let [width, height] = GRID;
    let output = [1, LABELS.len() as i64, height / 2, width / 2];
    let graph = GraphProto {
        node: std::iter::once(conv).chain(after.iter().cloned()).collect(),
        initializer: vec![fixtures::weights("kernel", &[LABELS.len() as i64, 3, 2, 2], &kernel)],
        input: vec![fixtures::value("image", DataType::FLOAT, Some(&[1, 3, height, width]))],
        output: vec![fixtures::value("logits", DataType::FLOAT, Some(&output))],
        ..GraphProto::default()
    };
    fixtures::model(graph).write_buf().unwrap()
}

fn weights(spec: &RefinerSpec) -> Vec<u8> {
    safetensors_file(random_tensors(spec))
}

type Tensor = (String, Vec<usize>, Vec<f32>);

/// Weights between -0.5 and 0.5, variances between 0.5 and 1.5.
fn random_tensors(spec: &RefinerSpec) -> Vec<Tensor> {
    let mut state = 7u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensors = spec.tensors().into_iter().map(|(name, shape)| {
        let centre = if name.ends_with("running_var") { 1.0 } else { 0.0 };
        let values = (0..shape.iter().product()).map(|_| centre + random()).collect();
        (name, shape, values)
    });
    tensors.collect()
}

fn safetensors_file(tensors: Vec<Tensor>) -> Vec<u8> {
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}
