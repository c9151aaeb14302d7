//! The CUDA backend against the CPU's, frame by frame: on the emulated driver (`make test-cuda`), or on a GPU
//! (`make gpu-test`). A plain `cargo test` ignores them all.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod column_engine;
mod device_engine;
mod faults;
mod full;
mod graphs;
mod logits;
mod tiles;

use std::path::Path;

use cases::{Case, Noise};
use sparse_refine::cpu::CpuBackend;
use sparse_refine::cuda::{CudaBackend, Precision};
use sparse_refine::pipeline::{
    Admission, Backend, Extras, FrameOutputs, Payload, PixelBudget, RunSettings, process, run,
};
use sparse_refine::types::{CameraId, Frame, FrameError, FrameReport, Mode, PixelFormat, Size, Stamp};

const ALL_EXTRAS: Extras = Extras { coarse: true, entropy: true, refined: true };

pub(crate) fn frame<'a>(size: Size, format: PixelFormat, step: usize, data: &'a [u8]) -> Frame<'a> {
    let frame = Frame { camera: CameraId(0), stamp: Stamp::default(), size, format, step, data };
    frame.check().unwrap();
    frame
}

/// What came of a frame.
pub(crate) type Ran = (FrameReport, FrameOutputs);

pub(crate) fn labelled<B: Backend>(
    backend: &B,
    slot: &mut B::Slot,
    frame: &Frame<'_>,
    mode: Mode,
    budget: u32,
) -> Ran {
    let mut outputs = FrameOutputs::default();
    process(backend, slot, frame, mode, PixelBudget(budget)).unwrap();
    let report = backend.finish(slot, ALL_EXTRAS, &mut outputs).unwrap();
    (report, outputs)
}

/// Everything but the labels of refined pixels is the CPU's to the bit. Returns how many of those differ.
pub(crate) fn different_labels(name: &str, cpu: &Ran, cuda: &Ran) -> usize {
    let counts = |report: &FrameReport| {
        let FrameReport { pixels_selected, pixels_refined, pixels_dropped, non_finite_cells, sites, .. } =
            *report;
        (pixels_selected, pixels_refined, pixels_dropped, non_finite_cells, sites)
    };
    assert_eq!(counts(&cuda.0), counts(&cpu.0), "{name}: counts");
    let bits = |outputs: &FrameOutputs| outputs.entropy.iter().map(|e| e.to_bits()).collect::<Vec<_>>();
    assert_eq!(cuda.1.entropy_size, cpu.1.entropy_size, "{name}");
    assert!(bits(&cuda.1) == bits(&cpu.1), "{name}: entropy");
    assert!(cuda.1.coarse == cpu.1.coarse, "{name}: coarse labels");
    assert!(cuda.1.refined == cpu.1.refined, "{name}: which pixels were refined");
    assert_eq!(cuda.1.labels.size, cpu.1.labels.size, "{name}");
    let (labels, want) = (&cuda.1.labels.data, &cpu.1.labels.data);
    let pixels = labels.iter().zip(want).zip(&cpu.1.refined.data);
    let outside = pixels.filter(|((label, want), refined)| label != want && **refined == 0).count();
    assert_eq!(outside, 0, "{name}: labels of pixels that were not refined");
    labels.iter().zip(want).filter(|(label, want)| label != want).count()
}

/// In 32 bits: refined labels come out of sums in another order. Where they differ the CPU itself must have been undecided,
/// which a handful in ten thousand are.
pub(crate) fn assert_same(name: &str, cpu: &Ran, cuda: &Ran) {
    let different = different_labels(name, cpu, cuda);
    let allowed = cpu.0.pixels_refined as usize / 2000;
    assert!(different <= allowed, "{name}: {different} of {} refined labels differ", cpu.0.pixels_refined);
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn frames_of_every_format_geometry_and_network_equal_the_cpu() {
    let mut noise = Noise(1);
    for case in Case::all() {
        let (cpu, cuda) = case.backends();
        for (index, &size) in case.sizes.iter().enumerate() {
            let (mut cpu_slot, mut cuda_slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
            let formats: Vec<_> = PixelFormat::ALL.into_iter().filter(|format| format.fits(size)).collect();
            for (turn, format) in formats.into_iter().enumerate() {
                if !case.every_format && turn != index {
                    continue;
                }
                let step = format.row_bytes(size.width) + turn % 3;
                let data = noise.image(size, format, step);
                let frame = frame(size, format, step, &data);
                let all = size.pixels() as u32;
                // All of it, a share that cuts through ties, and nothing.
                let budget = [all, all / 3 + 1, 7, 0][turn % 4];
                let want = labelled(&cpu, &mut cpu_slot, &frame, case.plan.mode, budget);
                let got = labelled(&cuda, &mut cuda_slot, &frame, case.plan.mode, budget);
                let name = format!("{} {size} {} budget {budget}", case.name, format.encoding());
                assert_same(&name, &want, &got);
            }
        }
    }
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn images_without_and_with_only_unsure_pixels_equal_the_cpu() {
    let case = Case::tiny();
    let (cpu, cuda) = case.backends();
    let size = Size::new(64, 48);
    let (mut cpu_slot, mut cuda_slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
    for (name, rgb) in [("bars", support::recording::bars(size)), ("grey", vec![128; size.pixels() * 3])] {
        let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
        let (_, first) = labelled(&cpu, &mut cpu_slot, &frame, case.plan.mode, size.pixels() as u32);
        // An entropy that occurs is not above itself.
        for alpha in [0.0, 0.4, 5.0, first.entropy[0], first.entropy[first.entropy.len() / 2]] {
            cpu.set_alpha(alpha);
            cuda.set_alpha(alpha);
            let want = labelled(&cpu, &mut cpu_slot, &frame, case.plan.mode, size.pixels() as u32);
            let got = labelled(&cuda, &mut cuda_slot, &frame, case.plan.mode, size.pixels() as u32);
            assert_same(&format!("{name} alpha {alpha}"), &want, &got);
        }
    }
}

/// More positions than one pass of the single-block scan takes, and a threshold that cuts through ties.
#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_lattice_of_many_blocks_equals_the_cpu() {
    let case = Case::bilinear(Size::new(704, 400));
    let (cpu, cuda) = case.backends();
    let size = case.sizes[0];
    let (mut cpu_slot, mut cuda_slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
    // Flat bars: whole regions share one entropy.
    let rgb = support::recording::bars(size);
    cpu.set_alpha(0.0);
    cuda.set_alpha(0.0);
    for budget in [5, 1003] {
        let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
        let want = labelled(&cpu, &mut cpu_slot, &frame, case.plan.mode, budget);
        assert_eq!(want.0.pixels_refined, budget);
        let got = labelled(&cuda, &mut cuda_slot, &frame, case.plan.mode, budget);
        assert_same(&format!("budget {budget}"), &want, &got);
    }
}

struct Image(CameraId, Size, Vec<u8>);

impl Payload for Image {
    fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R {
        let Self(camera, size, data) = self;
        let step = size.width as usize * 3;
        use_frame(Ok(Frame {
            camera: *camera,
            stamp: Stamp::default(),
            size: *size,
            format: PixelFormat::Rgb8,
            step,
            data,
        }))
    }
}

/// Two cameras of different sizes, interleaved, some frames damaged: labels in the order of the source.
fn stream<B: Backend>(
    backend: &B,
    case: &Case,
    slots: usize,
    frames: u32,
) -> Vec<Result<Vec<u8>, &'static str>> {
    let sizes = [Size::new(64, 48), Size::new(70, 50)];
    let source = (0..frames).map(|index| {
        let (camera, size) = (CameraId((index % 2) as u16), sizes[index as usize % 2]);
        let mut data = support::recording::scene(size, index);
        if index % 7 == 5 {
            data.truncate(100);
        }
        (camera, Image(camera, size, data))
    });
    let settings = RunSettings {
        cameras: 2,
        slots,
        admission: Admission::Every,
        mode: case.plan.mode,
        extras: Extras::default(),
        budget_ms: None,
    };
    let mut seen = Vec::new();
    run(
        backend,
        &settings,
        |size| case.plan.capacity(size),
        source,
        |outcome| {
            seen.push(match &outcome.result {
                Ok(_) => Ok(outcome.outputs.labels.data.clone()),
                Err(error) => Err(error.reason()),
            });
            Ok::<_, ()>(())
        },
    )
    .unwrap_or_else(|_| panic!("the stream ran to its end"));
    seen
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn two_slots_and_two_cameras_give_the_labels_of_the_cpu() {
    let case = Case::tiny();
    let (cpu, cuda) = case.backends();
    let want = stream(&cpu, &case, 1, 16);
    assert_eq!(want.iter().filter(|frame| frame.is_err()).count(), 2);
    for slots in [1, 2] {
        let got = stream(&cuda, &case, slots, 16);
        assert_eq!(got.len(), want.len());
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got == want, "{slots} slots, frame {index}");
        }
    }
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_frame_the_network_refuses_is_an_outcome_and_the_next_is_whole() {
    // Logits that are not finite where red is dark: their pixels are unlabelled, and counted.
    let case = Case::with_bundle("roots", |bundle| bundle.with_roots_of_red());
    let (cpu, cuda) = case.backends();
    let size = Size::new(64, 48);
    let (mut cpu_slot, mut cuda_slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
    for shift in 0..3 {
        let rgb = support::recording::scene(size, shift);
        let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
        let want = labelled(&cpu, &mut cpu_slot, &frame, case.plan.mode, size.pixels() as u32);
        assert!(want.0.non_finite_cells > 0);
        let got = labelled(&cuda, &mut cuda_slot, &frame, case.plan.mode, size.pixels() as u32);
        assert_same(&format!("roots {shift}"), &want, &got);
    }
}

/// The CUDA backend in one of its precisions.
pub(crate) fn cuda(case: &Case, precision: Precision) -> CudaBackend {
    CudaBackend::with_precision(case.plan.clone(), Some(precision)).unwrap()
}

/// Backends of a plan; for the other test files.
pub(crate) fn backends(case: &Case) -> (CpuBackend, CudaBackend) {
    (CpuBackend::new(case.plan.clone()).unwrap(), cuda(case, Precision::Single))
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
