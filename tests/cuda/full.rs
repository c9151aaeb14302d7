//! One frame of 8 MP through the shipped bundle, whole: on the emulated driver this takes minutes.

use std::time::{Duration, Instant};

use sparse_refine::bundle::Bundle;
use sparse_refine::config::Config;
use sparse_refine::cpu::CpuBackend;
use sparse_refine::cuda::{CudaBackend, Precision};
use sparse_refine::pipeline::Backend;
use sparse_refine::plan::Plan;
use sparse_refine::synth::{SceneSpec, render};
use sparse_refine::types::{Mode, PixelFormat, Size};

use crate::{different_labels, frame, labelled, repository};

#[test]
#[ignore = "an 8 MP frame: make test-cuda-full"]
fn an_8_mp_frame_of_the_shipped_bundle_equals_the_cpu() {
    let bundle = Bundle::load(&repository().join("engines/streets")).unwrap();
    let config = Config { mode: Mode::Refined, threads: Some(1), ..Config::default() };
    let plan = Plan::new(&config, &bundle).unwrap();
    let size = Size::new(3840, 2160);
    // A street that the bundle's networks have not seen.
    let rgb = render(&SceneSpec { size, seed: 9000, camera: 0, frame: 0 }).rgb;
    let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
    let budget = plan.capacity(size);
    let cpu = CpuBackend::new(plan.clone()).unwrap();
    let start = Instant::now();
    let want = labelled(&cpu, &mut cpu.slot(size).unwrap(), &frame, plan.mode, budget);
    println!("CPU: {} pixels refined, {:.1} s", want.0.pixels_refined, start.elapsed().as_secs_f64());
    // Of the refined pixels one in so many may have another label.
    for (precision, one_in) in [(Precision::Half, 2000), (Precision::Single, 2000)] {
        let mut cuda = CudaBackend::with_precision(plan.clone(), Some(precision)).unwrap();
        cuda.set_deadline(Duration::from_secs(3600));
        let mut slot = cuda.slot(size).unwrap();
        let start = Instant::now();
        let got = labelled(&cuda, &mut slot, &frame, plan.mode, budget);
        let seconds = start.elapsed().as_secs_f64();
        let name = precision.name();
        let different = different_labels(name, &want, &got);
        let refined = want.0.pixels_refined;
        println!("CUDA, {name}: {different} of {refined} refined labels differ, {seconds:.1} s");
        assert!(different <= refined as usize / one_in, "{name}: {different} of {refined}");
    }
}
