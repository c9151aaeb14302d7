//! The whole backend against a slow, obvious computation: both columns on whole images in f64, one value at a time.

use rten_onnx::onnx::{DataType, GraphProto, ModelProto};
use tempfile::TempDir;

use super::{TileBackend, TileSlot};
use crate::bundle::manifest::{ChannelOrder, Fit, Resize, Upsample};
use crate::bundle::sparsity::Configuration;
use crate::config::OnnxEngine;
use crate::cpu::dense_reference::Random;
use crate::onnx::fixtures::{integers, model, node, text, value, weights};
use crate::pipeline::{Backend as _, Extras, FrameOutputs, PixelBudget, process};
use crate::plan::{ColumnsPlan, FinePlan, Normalisation, Plan, SegmenterPlan, TensorSpec};
use crate::types::{CameraId, ClassInfo, Frame, FrameReport, Mode, PixelFormat, Size, Stamp};

const CAMERA: Size = Size::new(150, 90);
const CANVAS: Size = Size::new(160, 96);
const POSITIONS: Size = Size::new(20, 12);
const CLASSES: usize = 3;
const FEATURES: usize = 2;

/// Kernels `[out, in, k, k]` of the two columns.
#[derive(Clone)]
struct Kernels {
    scores: Vec<f32>,
    weights: Vec<f32>,
    features: Vec<f32>,
    /// 3x3, padded: its border shows where a window ends.
    fine_first: Vec<f32>,
    fine_second: Vec<f32>,
    /// 1x1, from the coarse features.
    cross: Vec<f32>,
}

impl Kernels {
    fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            scores: random.vector(CLASSES * 3 * 64, -0.05, 0.05),
            weights: random.vector(3 * 64, -0.12, 0.12),
            features: random.vector(FEATURES * 3 * 64, -0.1, 0.1),
            fine_first: random.vector(2 * 3 * 9, -0.5, 0.5),
            fine_second: random.vector(CLASSES * 2 * 64, -0.1, 0.1),
            cross: random.vector(CLASSES * FEATURES, -1.0, 1.0),
        }
    }

    fn coarse(&self) -> ModelProto {
        let kernel = |name, outputs: i64, values: &[f32]| weights(name, &[outputs, 3, 8, 8], values);
        let conv = |kernel, output| {
            let stride = [integers("kernel_shape", &[8, 8]), integers("strides", &[8, 8])];
            node("Conv", &["image", kernel], &[output], stride.to_vec())
        };
        let shape = |channels| [1, channels, 6, 10];
        model(GraphProto {
            node: vec![
                conv("ks", "scores"),
                conv("kw", "logit"),
                node("Sigmoid", &["logit"], &["weights"], vec![]),
                conv("kf", "features"),
            ],
            initializer: vec![
                kernel("ks", CLASSES as i64, &self.scores),
                kernel("kw", 1, &self.weights),
                kernel("kf", FEATURES as i64, &self.features),
            ],
            input: vec![value("image", DataType::FLOAT, Some(&[1, 3, 48, 80]))],
            output: vec![
                value("features", DataType::FLOAT, Some(&shape(FEATURES as i64))),
                value("scores", DataType::FLOAT, Some(&shape(CLASSES as i64))),
                value("weights", DataType::FLOAT, Some(&shape(1))),
            ],
            ..GraphProto::default()
        })
    }

    fn fine(&self, cross_column: bool) -> ModelProto {
        let conv = |size: i64, stride: i64, pad: i64, inputs: [&str; 2], output| {
            let pads = integers("pads", &[pad; 4]);
            let attributes =
                vec![integers("kernel_shape", &[size, size]), integers("strides", &[stride, stride]), pads];
            node("Conv", &inputs, &[output], attributes)
        };
        let mut nodes = vec![
            conv(3, 1, 1, ["image", "k1"], "a"),
            node("Relu", &["a"], &["b"], vec![]),
            conv(8, 8, 0, ["b", "k2"], if cross_column { "own" } else { "scores" }),
        ];
        let mut initializer = vec![
            weights("k1", &[2, 3, 3, 3], &self.fine_first),
            weights("k2", &[CLASSES as i64, 2, 8, 8], &self.fine_second),
        ];
        let mut input = vec![value("image", DataType::FLOAT, Some(&[0, 3, 0, 0]))];
        if cross_column {
            let attributes = vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "asymmetric"),
                text("nearest_mode", "floor"),
            ];
            nodes.push(conv(1, 1, 0, ["features", "kx"], "crossed"));
            nodes.push(node("Resize", &["crossed", "", "scales"], &["up"], attributes));
            nodes.push(node("Add", &["own", "up"], &["scores"], vec![]));
            initializer.push(weights("kx", &[CLASSES as i64, FEATURES as i64, 1, 1], &self.cross));
            initializer.push(weights("scales", &[4], &[1.0, 1.0, 2.0, 2.0]));
            input.push(value("features", DataType::FLOAT, Some(&[0, FEATURES as i64, 0, 0])));
        }
        model(GraphProto {
            node: nodes,
            initializer,
            input,
            output: vec![value("scores", DataType::FLOAT, None)],
            ..GraphProto::default()
        })
    }
}

fn normalisation() -> Normalisation {
    Normalisation { order: ChannelOrder::Bgr, mean: [110.0, 120.0, 130.0], std: [50.0, 60.0, 70.0] }
}

/// A backend of these kernels, and the folder that holds its networks.
fn backend(
    kernels: &Kernels,
    configuration: Configuration,
    threshold: f32,
    [tile, halo]: [u32; 2],
    mode: Mode,
) -> (TileBackend, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, model: &ModelProto| {
        let path = folder.path().join(name);
        std::fs::write(&path, model.write_buf().unwrap()).unwrap();
        path
    };
    let cross_column = configuration == Configuration::Isctf;
    let class = |label: u8| ClassInfo { name: label.to_string(), colour: [0; 3], label };
    let plan = Plan {
        mode,
        classes: [5, 0, 9].map(class).to_vec(),
        segmenter: SegmenterPlan {
            path: write("coarse.onnx", &kernels.coarse()),
            engine: OnnxEngine::Rten,
            tensors: TensorSpec {
                input: None,
                output: Some("scores".into()),
                size: Size::new(80, 48),
                channels: CLASSES,
                classes: CLASSES,
                logit_stride: 8,
            },
            fit: Fit::Pad,
            resize: Resize::Area,
            normalisation: normalisation(),
        },
        refiner: None,
        columns: Some(ColumnsPlan {
            configuration,
            weights: "weights".into(),
            features: cross_column.then(|| ("features".to_owned(), FEATURES)),
            stride: 8,
            fine: (mode == Mode::Refined).then(|| FinePlan {
                path: write("fine.onnx", &kernels.fine(cross_column)),
                input: "image".into(),
                output: "scores".into(),
                size: CANVAS,
                tile,
                halo,
                batch: vec![2, 4],
            }),
        }),
        alpha: threshold,
        upsample: Upsample::Bilinear,
        max_fraction: 1.0,
        threads: 2,
    };
    (TileBackend::new(plan).unwrap(), folder)
}

fn picture(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    // Blocks of colour with noise, so that weights differ from cell to cell.
    let blocks = random.vector(3 * 60, 0.0, 255.0);
    (0..CAMERA.pixels() * 3)
        .map(|i| {
            let (pixel, channel) = (i / 3, i % 3);
            let (row, column) = (pixel / 150 / 16, pixel % 150 / 16);
            (blocks[(row * 10 + column) * 3 + channel] * 0.7 + random.uniform(0.0, 76.0)) as u8
        })
        .collect()
}

struct Ran {
    slot: TileSlot,
    report: FrameReport,
    outputs: FrameOutputs,
}

fn run(backend: &TileBackend, rgb: &[u8], mode: Mode, budget: u32) -> Ran {
    let frame = Frame {
        camera: CameraId(0),
        stamp: Stamp::default(),
        size: CAMERA,
        format: PixelFormat::Rgb8,
        step: 450,
        data: rgb,
    };
    let mut slot = backend.slot(CAMERA).unwrap();
    let mut outputs = FrameOutputs::default();
    let extras = Extras { coarse: true, entropy: true, refined: true };
    // Twice: what the first frame leaves in the buffers must not matter.
    process(backend, &mut slot, &Frame { data: &picture(99), ..frame }, mode, PixelBudget(u32::MAX)).unwrap();
    backend.finish(&mut slot, extras, &mut outputs).unwrap();
    process(backend, &mut slot, &frame, mode, PixelBudget(budget)).unwrap();
    let report = backend.finish(&mut slot, extras, &mut outputs).unwrap();
    // `finish` leaves the coarse scores behind; fuse once more to look at the fused ones.
    process(backend, &mut slot, &frame, mode, PixelBudget(budget)).unwrap();
    Ran { slot, report, outputs }
}

/// Planar maps in f64.
struct Maps {
    size: Size,
    data: Vec<f64>,
}

impl Maps {
    fn at(&self, channel: usize, row: i64, column: i64) -> f64 {
        let (width, height) = (i64::from(self.size.width), i64::from(self.size.height));
        if row < 0 || column < 0 || row >= height || column >= width {
            return 0.0;
        }
        self.data[channel * self.size.pixels() + (row * width + column) as usize]
    }

    fn convolve(&self, kernel: &[f32], side: i64, stride: i64, pad: i64) -> Self {
        let inputs = self.data.len() / self.size.pixels();
        let taps = inputs * (side * side) as usize;
        let length = |n: u32| ((i64::from(n) + 2 * pad - side) / stride + 1) as u32;
        let size = Size::new(length(self.size.width), length(self.size.height));
        let mut data = Vec::new();
        for kernel in kernel.chunks_exact(taps) {
            for position in 0..size.pixels() as i64 {
                let (row, column) = (position / i64::from(size.width), position % i64::from(size.width));
                let mut sum = 0.0;
                for (tap, &weight) in kernel.iter().enumerate() {
                    let (channel, tap) = (tap / (side * side) as usize, tap as i64 % (side * side));
                    let (r, c) = (row * stride - pad + tap / side, column * stride - pad + tap % side);
                    sum += f64::from(weight) * self.at(channel, r, c);
                }
                data.push(sum);
            }
        }
        Self { size, data }
    }

    fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.data.iter_mut().for_each(|value| *value = f(*value));
        self
    }

    /// Half-pixel bilinear interpolation at output `(row, column)` of `to`.
    fn sample(&self, channel: usize, to: Size, row: u32, column: u32) -> f64 {
        let place = |i: u32, n: u32, m: u32| {
            let x = ((f64::from(i) + 0.5) * f64::from(m) / f64::from(n) - 0.5).clamp(0.0, f64::from(m - 1));
            (x.floor() as i64, (x.floor() as i64 + 1).min(i64::from(m) - 1), x.fract())
        };
        let (y0, y1, fy) = place(row, to.height, self.size.height);
        let (x0, x1, fx) = place(column, to.width, self.size.width);
        let line = |y| self.at(channel, y, x0) * (1.0 - fx) + self.at(channel, y, x1) * fx;
        line(y0) * (1.0 - fy) + line(y1) * fy
    }
}

/// Both columns on the whole image.
struct Reference {
    coarse: Maps,
    weights: Maps,
    fine: Maps,
}

impl Reference {
    fn new(kernels: &Kernels, rgb: &[u8], cross_column: bool) -> Self {
        let normalisation = normalisation();
        let mut image = Maps { size: CANVAS, data: vec![0.0; 3 * CANVAS.pixels()] };
        let mut reduced = Maps { size: Size::new(80, 48), data: vec![0.0; 3 * 80 * 48] };
        for plane in 0..3 {
            let level = |row: usize, column: usize| f64::from(rgb[(row * 150 + column) * 3 + 2 - plane]);
            let normal = |level: f64| {
                (level - f64::from(normalisation.mean[plane])) / f64::from(normalisation.std[plane])
            };
            for row in 0..90 {
                for column in 0..150 {
                    image.data[plane * CANVAS.pixels() + row * 160 + column] = normal(level(row, column));
                }
            }
            for row in 0..45 {
                for column in 0..75 {
                    let (r, c) = (2 * row, 2 * column);
                    let mean = (level(r, c) + level(r + 1, c) + level(r, c + 1) + level(r + 1, c + 1)) / 4.0;
                    reduced.data[plane * 80 * 48 + row * 80 + column] = normal(mean);
                }
            }
        }
        let mut fine = image.convolve(&kernels.fine_first, 3, 1, 1).map(|value| value.max(0.0)).convolve(
            &kernels.fine_second,
            8,
            8,
            0,
        );
        if cross_column {
            let features = reduced.convolve(&kernels.features, 8, 8, 0);
            let crossed = features.convolve(&kernels.cross, 1, 1, 0);
            for (index, value) in fine.data.iter_mut().enumerate() {
                let (class, position) = (index / POSITIONS.pixels(), (index % POSITIONS.pixels()) as i64);
                *value += crossed.at(class, position / 20 / 2, position % 20 / 2);
            }
        }
        Self {
            coarse: reduced.convolve(&kernels.scores, 8, 8, 0),
            weights: reduced.convolve(&kernels.weights, 8, 8, 0).map(|x| 1.0 / (1.0 + (-x).exp())),
            fine,
        }
    }

    /// Fused scores where `gate` says how much of the fine column counts in a cell.
    fn fused(&self, gate: impl Fn(usize) -> f64) -> Maps {
        let mut data = Vec::new();
        for class in 0..CLASSES {
            for position in 0..POSITIONS.pixels() as u32 {
                let (row, column) = (position / 20, position % 20);
                let g = gate((row / 2 * 10 + column / 2) as usize);
                let fine = self.fine.at(class, i64::from(row), i64::from(column));
                data.push((1.0 - g) * self.coarse.sample(class, POSITIONS, row, column) + g * fine);
            }
        }
        Maps { size: POSITIONS, data }
    }

    /// `m [m > t]`, in cells that hold camera pixels.
    fn gate(&self, threshold: f32) -> impl Fn(usize) -> f64 {
        move |cell| {
            let weight = self.weights.data[cell];
            if weight > f64::from(threshold) { weight } else { 0.0 }
        }
    }
}

const LABELS: [u8; CLASSES] = [5, 0, 9];

/// Labels from maps in f64 where the lead is beyond rounding; how many pixels were sure.
fn check_labels(maps: &Maps, labels: &[u8]) -> usize {
    let mut sure = 0;
    for pixel in 0..CAMERA.pixels() as u32 {
        let (row, column) = (pixel / 150, pixel % 150);
        let mut scores: Vec<(f64, u8)> =
            (0..CLASSES).map(|class| (maps.sample(class, CANVAS, row, column), LABELS[class])).collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        if scores[0].0 - scores[1].0 > 1e-3 {
            sure += 1;
            assert_eq!(labels[pixel as usize], scores[0].1, "row {row}, column {column}");
        }
    }
    sure
}

fn assert_close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(got) - want).abs() <= 1e-4 * want.abs().max(1.0),
            "{what} at {index}: {got} {want}"
        );
    }
}

#[test]
fn tiles_equal_masked_execution_of_the_whole_image() {
    // Runs on tiles, and on the whole image because the tiles were many.
    let mut ran_as = [0, 0];
    for (configuration, cross_column) in [(Configuration::Sctf, false), (Configuration::Isctf, true)] {
        for (seed, tile) in [(1, [32, 16]), (2, [48, 16]), (3, [16, 16])] {
            let (kernels, rgb) = (Kernels::random(seed), picture(seed));
            let reference = Reference::new(&kernels, &rgb, cross_column);
            let mut sorted = reference.weights.data.clone();
            sorted.sort_by(f64::total_cmp);
            // Two thresholds between the weights: few tiles, so that they run as tiles, and about half.
            for rank in [57, 40] {
                let threshold = ((sorted[rank] + sorted[rank - 1]) / 2.0) as f32;
                let (backend, _folder) = backend(&kernels, configuration, threshold, tile, Mode::Refined);
                let ran = run(&backend, &rgb, Mode::Refined, u32::MAX);
                assert_close(&ran.slot.weights, &reference.weights.data, "weights");
                let maps = reference.fused(reference.gate(threshold));
                assert_close(&ran.slot.scores, &maps.data, "fused scores");
                assert!(check_labels(&maps, &ran.outputs.labels.data) > CAMERA.pixels() / 2);
                assert!(
                    check_labels(&reference.fused(|_| 0.0), &ran.outputs.coarse.data) > CAMERA.pixels() / 2
                );
                let gated = (0..60).filter(|&cell| sorted[rank] <= reference.weights.data[cell]).count();
                assert_eq!(ran.report.sites[0], gated as u32 * 4);
                let (kept, layout) = (ran.slot.selection.kept().len(), ran.slot.layout);
                let whole = kept * layout.window_size().pixels() >= CANVAS.pixels();
                let run = if whole { layout.tiles().pixels() } else { kept };
                assert_eq!(ran.report.sites[1], run as u32);
                ran_as[usize::from(whole)] += 1;
            }
        }
    }
    assert!(ran_as[0] >= 4 && ran_as[1] >= 2, "{ran_as:?}");
}

#[test]
fn a_threshold_below_every_weight_is_the_dense_fusion() {
    let (kernels, rgb) = (Kernels::random(4), picture(4));
    let reference = Reference::new(&kernels, &rgb, false);
    let all = reference.fused(|cell| reference.weights.data[cell]);
    for (configuration, threshold) in [(Configuration::Sctf, -1.0), (Configuration::Ctf, 0.9)] {
        let (backend, _folder) = backend(&kernels, configuration, threshold, [32, 16], Mode::Refined);
        let ran = run(&backend, &rgb, Mode::Refined, u32::MAX);
        assert_close(&ran.slot.scores, &all.data, "fused scores");
        assert_eq!((ran.report.pixels_refined, ran.report.pixels_dropped), (CAMERA.pixels() as u32, 0));
    }
    // A halo of nothing but the cut at the border: 15 windows of 32x32 cost what the whole image costs, so force tiles
    // through the budget: everything but the lightest tile.
    let (backend, _folder) = backend(&kernels, Configuration::Sctf, -1.0, [16, 16], Mode::Refined);
    let ran = run(&backend, &rgb, Mode::Refined, 5 * 256);
    assert_eq!(ran.slot.selection.kept().len(), 5);
    let gate = ran.slot.selection.gate().to_vec();
    let maps = reference.fused(|cell| if gate[cell] > 0.0 { reference.weights.data[cell] } else { 0.0 });
    assert_close(&ran.slot.scores, &maps.data, "five tiles");
}

#[test]
fn a_threshold_no_weight_exceeds_leaves_the_coarse_labels_and_runs_nothing() {
    let (kernels, rgb) = (Kernels::random(5), picture(5));
    let reference = Reference::new(&kernels, &rgb, false);
    let (tiles, _folder) = backend(&kernels, Configuration::Sctf, 1.0, [32, 16], Mode::Refined);
    let ran = run(&tiles, &rgb, Mode::Refined, u32::MAX);
    assert_close(&ran.slot.scores, &reference.fused(|_| 0.0).data, "coarse scores");
    assert_eq!(ran.outputs.labels, ran.outputs.coarse);
    assert_eq!((ran.report.pixels_selected, ran.report.sites), (0, [0; 8]));
    assert!(ran.outputs.refined.data.iter().all(|&pixel| pixel == 0));
    let (coarse, _folder) = backend(&kernels, Configuration::Sctf, 1.0, [32, 16], Mode::Coarse);
    let ran_coarse = run(&coarse, &rgb, Mode::Coarse, u32::MAX);
    assert_eq!(ran_coarse.outputs.labels, ran.outputs.coarse, "mode coarse is what the skipped pixels get");
    // Live: the threshold of the next frame.
    tiles.set_alpha(0.0);
    assert!(run(&tiles, &rgb, Mode::Refined, u32::MAX).report.pixels_selected > 0);
}

#[test]
fn skipped_pixels_keep_the_coarse_label_and_what_is_dropped_is_counted() {
    let (kernels, rgb) = (Kernels::random(6), picture(6));
    let (tiles, _folder) = backend(&kernels, Configuration::Sctf, 0.4, [32, 16], Mode::Refined);
    let all = run(&tiles, &rgb, Mode::Refined, u32::MAX);
    let ran = run(&tiles, &rgb, Mode::Refined, 2 * 1024);
    let report = &ran.report;
    assert_eq!(report.pixels_selected, all.report.pixels_selected);
    assert_eq!(report.pixels_refined + report.pixels_dropped, report.pixels_selected);
    assert!(report.pixels_refined <= 2048 && report.pixels_dropped > 0, "{report:?}");
    let refined = ran.outputs.refined.data.iter().filter(|&&pixel| pixel == 255).count();
    assert_eq!(refined as u32, report.pixels_refined);
    assert_eq!(ran.outputs.entropy, ran.slot.weights, "the measure that selects is handed out");
    let gate = ran.slot.selection.gate();
    let mut skipped = 0;
    for pixel in 0..CAMERA.pixels() {
        let (row, column) = (pixel / 150, pixel % 150);
        // The cells that a pixel's four scores lie in.
        let near = |x: usize, cells: usize| [x.saturating_sub(4) / 16, ((x + 4) / 16).min(cells - 1)];
        let cells = near(row, 6).into_iter().flat_map(|r| near(column, 10).map(|c| r * 10 + c));
        if cells.into_iter().all(|cell| gate[cell] == 0.0) {
            skipped += 1;
            assert_eq!(ran.outputs.labels.data[pixel], ran.outputs.coarse.data[pixel]);
        }
    }
    assert!(skipped > 0 && ran.outputs.labels != ran.outputs.coarse);
}

#[test]
fn without_cross_weights_isctf_is_sctf() {
    let (mut kernels, rgb) = (Kernels::random(7), picture(7));
    kernels.cross.fill(0.0);
    let of = |configuration| {
        let (tiles, _folder) = backend(&kernels, configuration, 0.45, [32, 16], Mode::Refined);
        run(&tiles, &rgb, Mode::Refined, u32::MAX)
    };
    let (sctf, isctf) = (of(Configuration::Sctf), of(Configuration::Isctf));
    assert!(sctf.report.pixels_refined > 0);
    assert_eq!((sctf.outputs.labels, sctf.slot.scores), (isctf.outputs.labels, isctf.slot.scores));
}

#[test]
fn scores_that_are_not_finite_are_unlabelled_and_counted() {
    let (mut kernels, rgb) = (Kernels::random(8), picture(8));
    kernels.scores.fill(f32::INFINITY);
    let (tiles, _folder) = backend(&kernels, Configuration::Sctf, 1.0, [32, 16], Mode::Refined);
    let ran = run(&tiles, &rgb, Mode::Refined, u32::MAX);
    assert_eq!(ran.report.non_finite_cells, 60);
    assert!(ran.outputs.labels.data.iter().all(|&label| label == 255));
}

#[test]
fn a_fine_column_of_other_shapes_is_refused_in_one_line() {
    let kernels = Kernels::random(9);
    let (good, folder) = backend(&kernels, Configuration::Sctf, 0.5, [32, 16], Mode::Refined);
    let refusal = |plan: Plan| match TileBackend::new(plan) {
        Ok(_) => panic!("it should be refused"),
        Err(error) => error.to_string(),
    };
    let change = |change: &dyn Fn(&mut ColumnsPlan)| {
        let mut plan = good.plan().clone();
        change(plan.columns.as_mut().unwrap());
        refusal(plan)
    };
    let says = change(&|columns| columns.weights = "map".into());
    assert!(
        says.starts_with("the model has no output `map`, it has `features`, `scores`, `weights`: "),
        "{says}"
    );
    let says = change(&|columns| columns.fine.as_mut().unwrap().output = "logits".into());
    assert!(says.starts_with("the model has no output `logits`, it has `scores`: "), "{says}");
    let says = change(&|columns| columns.features = Some(("features".into(), FEATURES)));
    assert!(says.starts_with("the model has no input `features`, it has `image`: "), "{says}");
    let says = change(&|columns| columns.features = Some(("features".into(), 7)));
    assert!(says.contains("no input `features`") && !says.contains('\n'), "{says}");
    let mut plan = good.plan().clone();
    plan.segmenter.tensors.channels = 4;
    let says = refusal(plan);
    assert!(says.contains("scores") && says.contains("1x4x6x10") || says.contains("2x4x"), "{says}");
    drop(folder);
}
