//! Photographs with labels and a published network, where `SPARSE_REFINE_DATA` says where they are: the score of the
//! coarse labels is that of an evaluation that shares no code with this crate.
//!
//! The folder holds `vistas8mp/{images,labels,dev.txt}` and `models/{classes.json,*.onnx}`.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sparse_refine::bundle::Bundle;
use sparse_refine::config::{BackendChoice, Config};
use sparse_refine::eval::ModelFacts;
use sparse_refine::plan::Plan;
use sparse_refine::replay::{ReplayOptions, replay};
use sparse_refine::start::{Started, start};
use sparse_refine::types::Mode;
use support::recording::{compressed, write_bag};
use support::sha256;

const MODEL: &str = "espnetv2_s2.0_city_1024x512.onnx";
/// Pooled mIoU of `MODEL` on the six pictures by onnxruntime and Pillow, logits upsampled by nearest neighbour.
const BASELINE: f64 = 0.304;
const TOLERANCE: f64 = 0.003;

fn write_bundle(dir: &Path, data: &Path) {
    let onnx = fs::read(data.join("models").join(MODEL)).unwrap();
    fs::write(dir.join("segmenter.onnx"), &onnx).unwrap();
    let classes = fs::read_to_string(data.join("models/classes.json")).unwrap();
    let classes: Value = serde_json::from_str(&classes).unwrap();
    let mut text = String::from("schema = 1\nname = \"espnetv2\"\nmethod = \"sparse_refine\"\n");
    for class in classes["classes"].as_array().unwrap() {
        let (name, colour, label) = (&class["name"], &class["colour"], &class["id"]);
        writeln!(text, "[[classes]]\nname = {name}\ncolour = {colour}\nlabel = {label}").unwrap();
    }
    write!(
        text,
        "[segmenter]
file = \"segmenter.onnx\"
sha256 = \"{}\"
size = [1024, 512]
fit = \"stretch\"
resize = \"bilinear\"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
channels = 20
",
        sha256(&onnx)
    )
    .unwrap();
    fs::write(dir.join("model.toml"), text).unwrap();
}

#[test]
fn coarse_labels_of_photographs_score_as_the_baseline() {
    let Some(data) = std::env::var_os("SPARSE_REFINE_DATA").map(PathBuf::from) else {
        println!("skipped: SPARSE_REFINE_DATA does not name a folder with vistas8mp and models");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    write_bundle(dir.path(), &data);
    let pictures = data.join("vistas8mp");
    let stems = fs::read_to_string(pictures.join("dev.txt")).unwrap();
    let mut messages = Vec::new();
    for (n, stem) in stems.split_whitespace().enumerate() {
        let file =
            |folder: &str, ending| fs::read(pictures.join(folder).join(format!("{stem}.{ending}"))).unwrap();
        let topic = "/camera/front/image_raw/compressed";
        messages.push((topic, n, compressed(n, "jpeg", &file("images", "jpg"))));
        messages.push(("/camera/front/label/compressed", n, compressed(n, "png", &file("labels", "png"))));
    }
    let bag = dir.path().join("bag");
    write_bag(&bag, &messages);

    let config = Config { mode: Mode::Coarse, ..Config::default() };
    let plan = Plan::new(&config, &Bundle::load(dir.path()).unwrap()).unwrap();
    let (Started::Cpu(backend), facts) = start(plan.clone(), BackendChoice::Cpu).unwrap() else {
        panic!("the CPU was asked for")
    };
    let options = ReplayOptions {
        bag,
        out: dir.path().join("out"),
        force: false,
        image_topics: Vec::new(),
        label_topics: Vec::new(),
        write_bag: false,
        panels: 0,
        slots: 1,
        budget_ms: None,
        model: ModelFacts::default(),
        backend: facts,
        against: None,
    };
    let summary = replay(&*backend, &plan, &options, |_, _| {}).unwrap().summary;
    assert_eq!((summary.frames_in, summary.scored_frames), (6, 6));
    let miou = summary.miou.coarse.unwrap();
    println!("coarse mIoU {miou:.5}, baseline {BASELINE}");
    for class in &summary.per_class_iou {
        println!("{:<14} {:?}", class.name, class.iou.coarse);
    }
    assert!((miou - BASELINE).abs() <= TOLERANCE, "{miou}");
}
