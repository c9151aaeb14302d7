//! One stage of a small frame, a number of times: `instructions STAGE COUNT`. `scripts/bench_instructions.py` counts the
//! instructions of one time, which no load on the machine changes.

#[allow(dead_code, reason = "the other benchmark uses all of it")]
mod shared;
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use sparse_refine::bundle::Bundle;
use sparse_refine::bundle::manifest::{ChannelOrder, Upsample};
use sparse_refine::config::{BackendChoice, Config};
use sparse_refine::cpu::evaluate::Logits;
use sparse_refine::cpu::fused::{FusedRefiner, InstructionSet};
use sparse_refine::cpu::resize::AreaResize;
use sparse_refine::cpu::select::Selection;
use sparse_refine::pipeline::{Backend as _, PixelBudget};
use sparse_refine::plan::{Geometry, Normalisation, Plan};
use sparse_refine::start::{Started, start};
use sparse_refine::types::{CameraId, Frame, PixelFormat, Size, Stamp};

use shared::{CLASSES, bands, smooth_logits, values, weights};

const CAMERA: Size = Size::new(480, 270);

fn select(upsample: Upsample, grid: Size, times: usize) {
    let data = smooth_logits(grid, 6.0);
    let (logits, geometry) = (Logits::new(&data, grid, CLASSES), Geometry::pad(CAMERA, grid));
    let mut selection = Selection::default();
    for _ in 0..times {
        selection.select(&logits, &geometry, upsample, 0.7, u32::MAX);
    }
    assert!(selection.counts().kept > 0);
}

fn refine(times: usize) {
    let sites = bands(CAMERA, 11);
    let weights = weights(&[16, 16, 32, 32]);
    let features = values(sites.len() * weights.spec.input_channels());
    let mut refiner = FusedRefiner::new(&weights, InstructionSet::chosen());
    for _ in 0..times {
        black_box(refiner.run(&sites, &features).count());
    }
}

fn preprocess(times: usize) {
    let rgb = vec![77; CAMERA.pixels() * 3];
    let grid = Size::new(120, 68);
    let normalisation = Normalisation { order: ChannelOrder::Rgb, mean: [120.0; 3], std: [58.0; 3] };
    let resize = AreaResize::new(&Geometry::pad(CAMERA, grid), normalisation);
    let mut input = vec![0.0; 3 * grid.pixels()];
    (0..times).for_each(|_| resize.run(black_box(&rgb), &mut input));
}

/// The gate of a bundle of four classes, on a frame of which about a fourth is selected.
fn fuse(times: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    support::TinyBundle::write(dir.path());
    let config = Config { threads: Some(1), ..Config::default() };
    let plan = Plan::new(&config, &Bundle::load(dir.path()).expect("a bundle")).expect("a plan");
    let Ok((Started::Cpu(backend), _)) = start(plan, BackendChoice::Cpu) else { panic!("no CPU backend") };
    let mut slot = backend.slot(CAMERA).expect("a slot");
    let data = support::recording::scene(CAMERA, 7);
    let step = CAMERA.width as usize * 3;
    let (camera, stamp) = (CameraId(0), Stamp::default());
    let frame = Frame { camera, stamp, size: CAMERA, format: PixelFormat::Rgb8, step, data: &data };
    backend.upload(&mut slot, &frame).expect("a frame");
    backend.segment(&mut slot).expect("logits");
    backend.select(&mut slot, PixelBudget(CAMERA.pixels() as u32 / 4)).expect("a selection");
    backend.refine(&mut slot).expect("refined logits");
    for _ in 0..times {
        backend.fuse(&mut slot).expect("labels");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [stage, times] = arguments.as_slice() else {
        println!("instructions: run by scripts/bench_instructions.py");
        return;
    };
    let times = times.parse().expect("a number of times");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| match stage.as_str() {
        "preprocess" => preprocess(times),
        "select_nearest" => select(Upsample::Nearest, Size::new(480, 272), times),
        "select_bilinear" => select(Upsample::Bilinear, Size::new(60, 34), times),
        "refine" => refine(times),
        "fuse" => fuse(times),
        other => panic!("no stage {other}"),
    });
}
