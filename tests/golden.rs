//! The CPU reference against files that PyTorch computed; `training/` has the script that writes `tests/golden/`.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

use safetensors::{Dtype, SafeTensors};
use sparse_refine::bundle::refiner::{
    BatchNorm, Bound, Features, Kernel, Linear, RefinerSpec, RefinerWeights, Residual,
};
use sparse_refine::cpu::entropy::{argmax, softmax_entropy};
use sparse_refine::cpu::gate::Gate;
use sparse_refine::cpu::kernel_map::{build_down, build_submanifold, build_up, coarser_size};
use sparse_refine::cpu::residual::{ResidualBlock, Scratch};
use sparse_refine::cpu::sites::{Pixel, SiteSet};
use sparse_refine::cpu::sparse_conv::{Finish, Gather, SparseConv};
use sparse_refine::cpu::unet::{Refiner, Workspace};
use sparse_refine::plan::Geometry;
use sparse_refine::types::Size;

/// Largest difference allowed between two f32 computations.
const TOLERANCE: f32 = 1e-4;

struct Golden {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("golden files are safetensors");
        Self { metadata: header.metadata().clone().unwrap_or_default(), bytes }
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("read in open");
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        (view.shape().to_vec(), view.data().to_vec())
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(name, Dtype::F32).0
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let (_, bytes) = self.tensor(name, Dtype::F32);
        bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    }

    fn setting<T: FromStr>(&self, key: &str) -> T {
        let text = self.metadata.get(key).unwrap_or_else(|| panic!("metadata `{key}`"));
        text.parse().unwrap_or_else(|_| panic!("metadata `{key}` = {text}"))
    }

    fn list<T: FromStr>(&self, key: &str) -> Vec<T> {
        let text: String = self.setting(key);
        text.split(',')
            .map(|item| item.trim().parse().unwrap_or_else(|_| panic!("`{key}`: {item}")))
            .collect()
    }

    fn sites(&self, name: &str) -> SiteSet {
        let (shape, mask) = self.tensor(name, Dtype::U8);
        let size = Size::new(shape[1] as u32, shape[0] as u32);
        let active = (0..mask.len()).filter(|&i| mask[i] != 0);
        let mut sites = SiteSet::default();
        sites.rebuild_from_pixels(
            size,
            active.map(|i| Pixel { row: (i / shape[1]) as u16, col: (i % shape[1]) as u16 }),
        );
        sites
    }

    fn kernel(&self, name: &str) -> Kernel {
        let shape = self.shape(name);
        let [inputs, outputs] = shape[shape.len() - 2..] else { panic!("{name}: {shape:?}") };
        Kernel { inputs, outputs, values: self.floats(name) }
    }

    fn linear(&self, name: &str) -> Linear {
        let weight = format!("{name}.weight");
        let [outputs, inputs] = self.shape(&weight)[..] else { panic!("{weight}") };
        Linear { inputs, outputs, weight: self.floats(&weight), bias: self.floats(&format!("{name}.bias")) }
    }

    fn batch_norm(&self, name: &str) -> BatchNorm {
        let [weight, bias, running_mean, running_var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.floats(&format!("{name}.{part}")));
        BatchNorm { weight, bias, running_mean, running_var }
    }

    fn bound(&self) -> Bound {
        match self.setting::<String>("bound").as_str() {
            "image" => Bound::Image,
            "active" => Bound::Active,
            other => panic!("bound {other}"),
        }
    }

    fn weights(&self) -> RefinerWeights {
        let features = match self.setting::<String>("features").as_str() {
            "rgb" => Features::Rgb,
            "rgb+probabilities" => Features::RgbProbabilities,
            other => panic!("features {other}"),
        };
        let spec = RefinerSpec {
            classes: self.setting("classes"),
            planes: self.list("planes"),
            blocks: self.setting("blocks"),
            features,
            bound: self.bound(),
        };
        let Ok(weights) = RefinerWeights::assemble::<std::convert::Infallible>(&spec, |name, shape| {
            let name = format!("model.{name}");
            assert_eq!(self.shape(&name), shape, "{name}");
            Ok(self.floats(&name))
        });
        weights
    }

    fn assert_close(&self, name: &str, found: &[f32]) {
        let expected = self.floats(name);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = (found - expected).abs();
            assert!(difference <= TOLERANCE, "{name}[{index}] is {found}, PyTorch has {expected}");
        }
    }

    /// Runs the file's kernel over its input and compares with its output.
    fn check_convolution(&self, gather: Gather<'_>, outputs: usize) {
        let conv = SparseConv::new(&self.kernel("weight"));
        let mut y = vec![f32::NAN; outputs * conv.outputs()];
        conv.run(gather, &self.floats("x"), &mut y, Finish::Store);
        self.assert_close("y", &y);
    }
}

#[test]
fn submanifold_convolution() {
    let golden = Golden::open("subm.safetensors");
    let sites = golden.sites("mask");
    let mut map = Vec::new();
    build_submanifold(&sites, &mut map);
    golden.check_convolution(Gather::Nine(&map), sites.len());
}

#[test]
fn down_convolution_with_both_bounds() {
    for name in ["down_image.safetensors", "down_active.safetensors"] {
        let golden = Golden::open(name);
        let fine = golden.sites("mask");
        let mut coarse = SiteSet::default();
        coarse.rebuild_coarser(coarser_size(&fine, golden.bound()), &fine);
        assert_eq!(coarse.pixels(), golden.sites("out_mask").pixels(), "{name}");
        let mut map = Vec::new();
        build_down(&coarse, &fine, &mut map);
        golden.check_convolution(Gather::Nine(&map), coarse.len());
    }
}

#[test]
fn up_convolution() {
    let golden = Golden::open("up.safetensors");
    let fine = golden.sites("mask");
    let mut map = Vec::new();
    build_up(&fine, &golden.sites("coarse_mask"), &mut map);
    golden.check_convolution(Gather::Up(&map, fine.pixels()), fine.len());
}

#[test]
fn residual_blocks() {
    for (name, projected) in [("res_same.safetensors", false), ("res_project.safetensors", true)] {
        let golden = Golden::open(name);
        let block = ResidualBlock::new(&Residual {
            projection: projected.then(|| golden.kernel("block.projection")),
            bn1: golden.batch_norm("block.bn1"),
            conv1: golden.kernel("block.conv1.weight"),
            bn2: golden.batch_norm("block.bn2"),
            conv2: golden.kernel("block.conv2.weight"),
        });
        let mut map = Vec::new();
        build_submanifold(&golden.sites("mask"), &mut map);
        let mut y = vec![f32::NAN; golden.floats("y").len()];
        block.run(&map, &golden.floats("x"), &mut y, &mut Scratch::default());
        golden.assert_close("y", &y);
    }
}

#[test]
fn whole_unets() {
    for name in [
        "unet_image.safetensors",
        "unet_active.safetensors",
        "unet_two_blocks_probabilities.safetensors",
        "unet_empty_level.safetensors",
    ] {
        let golden = Golden::open(name);
        let refiner = Refiner::new(&golden.weights());
        let mut workspace = Workspace::default();
        let y2 = refiner.run(&golden.sites("mask"), &golden.floats("features"), &mut workspace);
        golden.assert_close("y2", y2);
        assert_eq!(workspace.sites()[1] == 0, name.contains("empty"), "{name}: {:?}", workspace.sites());
    }
}

#[test]
fn gate_and_fuser() {
    let golden = Golden::open("gate.safetensors");
    let pair = |name: &str| ["0", "2"].map(|layer| golden.linear(&format!("model.{name}.{layer}")));
    let classes: usize = golden.setting("classes");
    let (y1, y2) = (golden.floats("y1"), golden.floats("y2"));
    let (mut out, mut w1) = (vec![f32::NAN; y1.len()], vec![f32::NAN; y1.len() / classes]);
    Gate::from_layers(classes, &pair("gate"), &pair("fuser")).fuse(&y1, &y2, &mut out, Some(&mut w1));
    golden.assert_close("out", &out);
    golden.assert_close("w1", &w1);
    let mut p = vec![0.0; classes];
    let entropy: Vec<f32> = y1.chunks(classes).map(|logits| softmax_entropy(logits, &mut p)).collect();
    golden.assert_close("e1", &entropy);
}

/// Difference of the two largest values.
fn margin(values: &[f32]) -> f32 {
    let best = argmax(values);
    let others = values.iter().enumerate().filter(|&(i, _)| i != best).map(|(_, &value)| value);
    values[best] - others.fold(f32::NEG_INFINITY, f32::max)
}

#[test]
fn whole_forward_pass() {
    let golden = Golden::open("forward.safetensors");
    let weights = golden.weights();
    let classes = weights.spec.classes;
    let shape = golden.shape("logits");
    let grid = Size::new(shape[2] as u32, shape[1] as u32);
    let (shape, image) = golden.tensor("image", Dtype::U8);
    let camera = Size::new(shape[1] as u32, shape[0] as u32);
    let geometry = Geometry::stretch(camera, grid);

    // Logits, probabilities and entropy of each cell.
    let planes = golden.floats("logits");
    let logits: Vec<Vec<f32>> =
        (0..grid.pixels()).map(|i| planes.iter().skip(i).step_by(grid.pixels()).copied().collect()).collect();
    let mut probabilities = vec![vec![0.0; classes]; grid.pixels()];
    let entropy: Vec<f32> =
        logits.iter().zip(&mut probabilities).map(|(logits, p)| softmax_entropy(logits, p)).collect();
    golden.assert_close("entropy", &entropy);

    let cell = |pixel: Pixel| {
        let (row, col) = (geometry.cell_row(pixel.row.into()), geometry.cell_column(pixel.col.into()));
        (row * grid.width + col) as usize
    };
    let all =
        (0..camera.height as u16).flat_map(|row| (0..camera.width as u16).map(move |col| Pixel { row, col }));
    let mut sites = SiteSet::default();
    let alpha: f32 = golden.setting("alpha");
    sites.rebuild_from_pixels(camera, all.clone().filter(|&pixel| entropy[cell(pixel)] > alpha));
    assert_eq!(sites.pixels(), golden.sites("mask").pixels());

    let (mean, std): (Vec<f32>, Vec<f32>) = (golden.list("mean"), golden.list("std"));
    let index = |pixel: Pixel| usize::from(pixel.row) * camera.width as usize + usize::from(pixel.col);
    let mut features = Vec::new();
    for &pixel in sites.pixels() {
        let rgb = &image[3 * index(pixel)..][..3];
        features.extend((0..3).map(|c| (f32::from(rgb[c]) - mean[c]) / std[c]));
        if weights.spec.features == Features::RgbProbabilities {
            features.extend(&probabilities[cell(pixel)]);
        }
    }
    let mut workspace = Workspace::default();
    let y2 = Refiner::new(&weights).run(&sites, &features, &mut workspace).to_vec();
    golden.assert_close("y2", &y2);

    let y1: Vec<f32> = sites.pixels().iter().flat_map(|&pixel| logits[cell(pixel)].iter().copied()).collect();
    let (mut out, mut w1) = (vec![0.0; y2.len()], vec![0.0; sites.len()]);
    Gate::new(&weights).fuse(&y1, &y2, &mut out, Some(&mut w1));
    golden.assert_close("w1", &w1);
    golden.assert_close("out", &out);

    let (_, labels) = golden.tensor("labels", Dtype::U8);
    let mut compared = 0;
    for pixel in all {
        let site = sites.id(pixel.row.into(), pixel.col.into()) as usize;
        let values = out.chunks(classes).nth(site).unwrap_or(&logits[cell(pixel)]);
        if margin(values) >= 1e-3 {
            assert_eq!(argmax(values), usize::from(labels[index(pixel)]), "{pixel:?}");
            compared += 1;
        }
    }
    assert!(compared * 100 > camera.pixels() * 95, "only {compared} pixels had a clear label");
}
