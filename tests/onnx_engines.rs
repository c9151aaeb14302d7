//! The two ONNX engines agree on real models: ONNX Runtime is the reference for rten.
//!
//! Models are `engines/*/segmenter.onnx` and those in `models/` of the folder that `SPARSE_REFINE_DATA` names; the
//! library is the one that `ORT_DYLIB_PATH` names. What is missing is said, and skipped.
#![cfg(all(feature = "onnx-rten", feature = "onnx-ort"))]

use std::path::{Path, PathBuf};

use sparse_refine::config::OnnxEngine;
use sparse_refine::onnx::{GraphInfo, Segmenter};
use sparse_refine::plan::TensorSpec;
use sparse_refine::types::Size;

fn models() -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines");
    let mut models: Vec<PathBuf> = list(&engines)
        .into_iter()
        .map(|engine| engine.join("segmenter.onnx"))
        .filter(|file| file.exists())
        .collect();
    if let Some(data) = std::env::var_os("SPARSE_REFINE_DATA") {
        let files = list(&Path::new(&data).join("models"));
        models.extend(files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "onnx")));
    }
    models.sort();
    models
}

/// The specification that a model's own shapes imply.
fn own_spec(path: &Path) -> TensorSpec {
    let info = GraphInfo::read(path).expect("a sound model");
    let lengths = |shape: &Option<Vec<Option<usize>>>| -> [usize; 4] {
        let shape = shape.as_ref().expect("a stated shape");
        let lengths: Vec<usize> = shape.iter().map(|length| length.expect("a fixed length")).collect();
        lengths.try_into().expect("four lengths")
    };
    let [_, _, height, width] = lengths(&info.inputs[0].shape);
    let [_, channels, rows, _] = lengths(&info.outputs[0].shape);
    TensorSpec {
        input: None,
        output: None,
        size: Size::new(width as u32, height as u32),
        channels,
        classes: channels,
        logit_stride: (height / rows) as u32,
    }
}

fn best(logits: &[f32], pixel: usize, pixels: usize) -> usize {
    let value = |class: usize| logits[class * pixels + pixel];
    (1..logits.len() / pixels).fold(0, |best, class| if value(class) > value(best) { class } else { best })
}

#[test]
fn rten_agrees_with_onnx_runtime() {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        eprintln!("skipped: ORT_DYLIB_PATH is not set");
        return;
    }
    let models = models();
    if models.is_empty() {
        eprintln!("skipped: no engines/*/segmenter.onnx, and SPARSE_REFINE_DATA names no models");
    }
    for path in models {
        let spec = own_spec(&path);
        // Slow waves with a little texture: like an image after normalisation, and repeatable.
        let (width, pixels) = (spec.size.width as usize, spec.size.pixels());
        let input: Vec<f32> = (0..3 * pixels)
            .map(|i| {
                let (plane, row, column) = (i / pixels, i % pixels / width, i % width);
                let wave = (row as f32 / 37.0).sin() + (column as f32 / (23.0 + plane as f32)).cos();
                wave + ((i as u32).wrapping_mul(2_654_435_761) >> 24) as f32 / 512.0
            })
            .collect();
        let run = |engine| {
            let segmenter = Segmenter::load(&path, &spec, engine, 2).expect("a model both engines load");
            let mut logits = Vec::new();
            segmenter.run(&input, &mut logits).expect("a model both engines run");
            logits
        };
        let (ours, theirs) = (run(OnnxEngine::Rten), run(OnnxEngine::Ort));
        assert_eq!(ours.len(), theirs.len());
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            let (sum, count) =
                values.fold((0.0, 0), |(sum, n), v| (sum + f64::from(v) * f64::from(v), n + 1));
            (sum / f64::from(count)).sqrt()
        };
        let error =
            square(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / square(&mut theirs.iter().copied());
        let cells = spec.logit_size().pixels();
        let changed =
            (0..cells).filter(|&cell| best(&ours, cell, cells) != best(&theirs, cell, cells)).count();
        println!("{}: error/rms {error:.1e}, {changed} of {cells} labels differ", path.display());
        assert!(error < 1e-4, "{}: error/rms {error:e}", path.display());
        assert!(changed * 10_000 <= cells, "{}: {changed} of {cells} labels differ", path.display());
    }
}
