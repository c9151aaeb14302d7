//! The whole backend against the slow, obvious computation of `reference.rs`.

mod reference;

use tempfile::TempDir;

use super::{TileBackend, TileSlot};
use crate::bundle::sparsity::Configuration;
use crate::cpu::dense_reference::Random;
use crate::onnx::fixtures::columns::{CANVAS, CLASSES, Columns, FEATURES, Kernels, LABELS};
use crate::pipeline::{Backend as _, Extras, FrameOutputs, PixelBudget, process};
use crate::plan::{ColumnsPlan, Plan};
use crate::types::{CameraId, Frame, FrameReport, Mode, PixelFormat, Size, Stamp};
use reference::{Maps, Reference};

const CAMERA: Size = Size::new(150, 90);

fn kernels(seed: u64) -> Kernels {
    let mut random = Random::new(seed);
    Kernels::new(CLASSES, |len, spread| random.vector(len, -spread, spread))
}

/// A backend of these kernels, and the folder that holds its networks.
fn backend(
    kernels: &Kernels,
    configuration: Configuration,
    threshold: f32,
    [tile, halo]: [u32; 2],
    mode: Mode,
) -> (TileBackend, TempDir) {
    let (mut plan, folder) = Columns { configuration, tile, halo, mode }.plan(kernels);
    (plan.alpha, plan.threads) = (threshold, 2);
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
            let (kernels, rgb) = (kernels(seed), picture(seed));
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
    let (kernels, rgb) = (kernels(4), picture(4));
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
    let (kernels, rgb) = (kernels(5), picture(5));
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
    let (kernels, rgb) = (kernels(6), picture(6));
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
    let (mut kernels, rgb) = (kernels(7), picture(7));
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
    let (mut kernels, rgb) = (kernels(8), picture(8));
    kernels.scores.fill(f32::INFINITY);
    let (tiles, _folder) = backend(&kernels, Configuration::Sctf, 1.0, [32, 16], Mode::Refined);
    let ran = run(&tiles, &rgb, Mode::Refined, u32::MAX);
    assert_eq!(ran.report.non_finite_cells, 60);
    assert!(ran.outputs.labels.data.iter().all(|&label| label == 255));
}

#[test]
fn a_fine_column_of_other_shapes_is_refused_in_one_line() {
    let kernels = kernels(9);
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
