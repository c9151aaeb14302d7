//! The method `spatial_sparsity` on CUDA against the CPU: labels, weights, masks and counts are equal to the bit.

use std::process::{Command, Output};

use sparse_refine::bundle::manifest::ChannelOrder;
use sparse_refine::bundle::sparsity::Configuration;
use sparse_refine::cpu::tiles::TileBackend;
use sparse_refine::cuda::{CudaTileBackend, Footprint, Precision};
use sparse_refine::pipeline::{Backend, FrameOutputs, PixelBudget};
use sparse_refine::plan::Plan;
use sparse_refine::tiles::Layout;
use sparse_refine::types::{Frame, Mode, PixelFormat, Size};
use tempfile::TempDir;

use crate::cases::Noise;
use crate::faults::emulated;
use crate::support::columns::write_columns;
use crate::support::fixtures::columns::{CLASSES, Columns, Kernels};
use crate::support::recording::write_good_bag;
use crate::{ALL_EXTRAS, Ran, different_labels, frame, labelled, repository};

/// Taps of the fine column's first convolution lie so far from its centre that a window's outermost scores are another
/// network's: labels turn where a tile's scores are not its own.
const REACH: i64 = 6;

pub(crate) const SCTF: Columns =
    Columns { configuration: Configuration::Sctf, tile: 32, halo: 16, mode: Mode::Refined };

/// Random networks, the same in every run; one map of scores is no class's.
fn kernels(seed: u32) -> Kernels {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let mut kernels = Kernels::new(CLASSES + 1, |len, spread| (0..len).map(|_| next() * spread).collect());
    kernels.reach = REACH;
    kernels
}

/// A plan of random networks, in a folder that goes with it.
pub(crate) fn plan(seed: u32, columns: Columns) -> (Plan, TempDir) {
    let (mut plan, folder) = columns.plan(&kernels(seed));
    let order = if seed.is_multiple_of(2) { ChannelOrder::Rgb } else { ChannelOrder::Bgr };
    plan.segmenter.normalisation.order = order;
    (plan, folder)
}

fn assert_equal(name: &str, cpu: &Ran, cuda: &Ran) {
    assert_eq!(different_labels(name, cpu, cuda), 0, "{name}: labels");
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn frames_of_every_configuration_equal_the_cpu() {
    let isctf = Columns { configuration: Configuration::Isctf, ..SCTF };
    let cases = [
        (1, SCTF, &[Size::new(150, 90), Size::new(160, 96)][..]),
        // Tiles that the canvas cuts; a camera of one pixel a coarse pixel, where nothing is upsampled.
        (2, Columns { tile: 48, ..SCTF }, &[Size::new(150, 90), Size::new(80, 43)]),
        // Three pixels a coarse pixel.
        (3, Columns { tile: 48, halo: 0, ..SCTF }, &[Size::new(230, 141)]),
        // Windows of cut tiles reach into their neighbours, and see a border there.
        (8, Columns { tile: 48, halo: 0, ..SCTF }, &[Size::new(150, 90)]),
        (4, isctf, &[Size::new(150, 90)]),
        (5, Columns { tile: 16, halo: 0, ..isctf }, &[Size::new(158, 82)]),
        (6, Columns { configuration: Configuration::Ctf, ..SCTF }, &[Size::new(150, 90)]),
        (7, Columns { mode: Mode::Coarse, ..SCTF }, &[Size::new(150, 90)]),
    ];
    let mut noise = Noise(5);
    // Frames in which the fine column ran on tiles, on the whole image, not at all, and on fewer tiles than wanted.
    let (mut tiles, mut whole, mut nothing, mut dropped) = (0, 0, 0, 0);
    for (seed, columns, sizes) in cases {
        let (plan, _folder) = plan(seed, columns);
        let (cpu, cuda) =
            (TileBackend::new(plan.clone()).unwrap(), CudaTileBackend::new(plan.clone()).unwrap());
        for &size in sizes {
            let (mut cpu_slot, mut cuda_slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
            let pixels = size.pixels() as u32;
            let formats = [PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Mono8];
            let of_all = Layout::of(&plan, size).unwrap().tiles().pixels() as u32;
            for (turn, (rank, budget)) in [
                (0.5, pixels),
                (0.9, pixels),
                (0.95, pixels / 4),
                (0.1, pixels / 3),
                (0.2, pixels / 5 * 4),
                (1.0, pixels),
                (0.0, pixels),
            ]
            .into_iter()
            .enumerate()
            {
                let format = formats[turn % 3];
                let step = format.row_bytes(size.width) + turn % 2 * 5;
                let data = noise.image(size, format, step);
                let frame = frame(size, format, step, &data);
                // The CPU says what the weights of this image are.
                let (_, seen) = labelled(&cpu, &mut cpu_slot, &frame, plan.mode, pixels);
                let mut sorted = seen.entropy.clone();
                sorted.sort_by(f32::total_cmp);
                let at = (rank * (sorted.len() - 1) as f64) as usize;
                let threshold = if rank == 0.0 { -1.0 } else { sorted[at] };
                cpu.set_alpha(threshold);
                cuda.set_alpha(threshold);
                let want = labelled(&cpu, &mut cpu_slot, &frame, plan.mode, budget);
                let got = labelled(&cuda, &mut cuda_slot, &frame, plan.mode, budget);
                assert_equal(
                    &format!("case {seed}, {size}, threshold {threshold}, budget {budget}"),
                    &want,
                    &got,
                );
                if plan.mode == Mode::Refined {
                    let report = &want.0;
                    match report.sites[1] {
                        0 => nothing += 1,
                        ran if ran == of_all => whole += 1,
                        _ => tiles += 1,
                    }
                    dropped += u32::from(report.pixels_dropped > 0 && report.pixels_refined > 0);
                }
            }
        }
    }
    println!("{tiles} on tiles, {whole} on the whole image, {nothing} on nothing, {dropped} dropped tiles");
    assert!(tiles >= 5 && whole >= 5 && nothing >= 5 && dropped >= 3);
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn scores_and_weights_that_are_not_finite_equal_the_cpu() {
    let size = Size::new(150, 90);
    let data = Noise(3).image(size, PixelFormat::Rgb8, 450);
    let frame = frame(size, PixelFormat::Rgb8, 450, &data);
    for (seed, score_scale) in [(1, f32::INFINITY), (2, 2e38)] {
        let mut kernels = kernels(seed);
        kernels.scores.iter_mut().for_each(|score| *score = 20.0 * *score * score_scale);
        let (plan, _folder) = SCTF.plan(&kernels);
        let (cpu, cuda) = (TileBackend::new(plan.clone()).unwrap(), CudaTileBackend::new(plan).unwrap());
        let want = labelled(&cpu, &mut cpu.slot(size).unwrap(), &frame, Mode::Refined, u32::MAX);
        let got = labelled(&cuda, &mut cuda.slot(size).unwrap(), &frame, Mode::Refined, u32::MAX);
        assert!(want.0.non_finite_cells > 0 && want.1.labels.data.contains(&255));
        assert_equal(&format!("scores of {score_scale}"), &want, &got);
    }
}

/// Stage by stage in turns, and then on two threads: what one slot has in flight is nothing to the other.
#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn two_slots_in_flight_equal_the_cpu() {
    let (plan, _folder) = plan(8, Columns { configuration: Configuration::Isctf, ..SCTF });
    let (cpu, cuda) = (TileBackend::new(plan.clone()).unwrap(), CudaTileBackend::new(plan).unwrap());
    let sizes = [Size::new(150, 90), Size::new(160, 92)];
    let images: Vec<(Size, Vec<u8>)> = (0..6)
        .map(|index| {
            let size = sizes[index % 2];
            (size, Noise(index as u32).image(size, PixelFormat::Rgb8, size.width as usize * 3))
        })
        .collect();
    let frames: Vec<Frame<'_>> = images
        .iter()
        .map(|(size, data)| frame(*size, PixelFormat::Rgb8, size.width as usize * 3, data))
        .collect();
    // Few tiles and many, so that frames of one slot differ in what they launch.
    let budget = |index: usize| [u32::MAX, 3000][index / 2 % 2];
    let want: Vec<Ran> = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| {
            labelled(&cpu, &mut cpu.slot(frame.size).unwrap(), frame, Mode::Refined, budget(index))
        })
        .collect();
    assert!(want.iter().all(|ran| ran.0.pixels_refined > 0));
    let mut slots = sizes.map(|size| cuda.slot(size).unwrap());
    let turns = |stage: &mut dyn FnMut(usize)| [0, 1].into_iter().for_each(stage);
    for pair in 0..3 {
        let of = |camera: usize| 2 * pair + camera;
        turns(&mut |camera| cuda.upload(&mut slots[camera], &frames[of(camera)]).unwrap());
        turns(&mut |camera| cuda.segment(&mut slots[camera]).unwrap());
        turns(&mut |camera| cuda.select(&mut slots[camera], PixelBudget(budget(of(camera)))).unwrap());
        turns(&mut |camera| cuda.refine(&mut slots[camera]).unwrap());
        turns(&mut |camera| cuda.fuse(&mut slots[camera]).unwrap());
        turns(&mut |camera| {
            let mut outputs = FrameOutputs::default();
            let report = cuda.finish(&mut slots[camera], ALL_EXTRAS, &mut outputs).unwrap();
            assert_equal(&format!("frame {} in turns", of(camera)), &want[of(camera)], &(report, outputs));
        });
    }
    std::thread::scope(|scope| {
        for (camera, slot) in slots.iter_mut().enumerate() {
            let (cuda, frames, want) = (&cuda, &frames, &want);
            scope.spawn(move || {
                for index in (camera..6).step_by(2) {
                    let got = labelled(cuda, slot, &frames[index], Mode::Refined, budget(index));
                    assert_equal(&format!("frame {index} on a thread"), &want[index], &got);
                }
            });
        }
    });
}

/// The budget of the plan bounds the memory, and with it what a frame may ask for.
#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_smaller_share_of_the_pixels_takes_less_memory_and_equals_the_cpu() {
    let (mut plan, _folder) = plan(9, SCTF);
    plan.alpha = 0.0;
    let size = Size::new(150, 90);
    let bytes = |plan: &Plan| Footprint::new(plan, size, Precision::Single).unwrap().slot_bytes();
    let all = bytes(&plan);
    plan.max_fraction = 0.13;
    assert!(bytes(&plan) < all, "{} {all}", bytes(&plan));
    let (cpu, cuda) = (TileBackend::new(plan.clone()).unwrap(), CudaTileBackend::new(plan.clone()).unwrap());
    let data = Noise(9).image(size, PixelFormat::Rgb8, 450);
    let frame = frame(size, PixelFormat::Rgb8, 450, &data);
    let capacity = plan.capacity(size);
    let want = labelled(&cpu, &mut cpu.slot(size).unwrap(), &frame, Mode::Refined, capacity);
    assert!(want.0.pixels_dropped > 0 && want.0.pixels_refined > 0);
    for budget in [capacity, u32::MAX] {
        let got = labelled(&cuda, &mut cuda.slot(size).unwrap(), &frame, Mode::Refined, budget);
        assert_equal(&format!("budget {budget}"), &want, &got);
    }
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn cameras_that_do_not_fit_are_refused_as_on_the_cpu() {
    let (plan, _folder) = plan(4, Columns { configuration: Configuration::Isctf, ..SCTF });
    let (cpu, cuda) = (TileBackend::new(plan.clone()).unwrap(), CudaTileBackend::new(plan).unwrap());
    for size in [Size::new(80, 48), Size::new(230, 141), Size::new(0, 9)] {
        let says = [cpu.slot(size).err(), cuda.slot(size).err()].map(|error| error.map(|e| e.to_string()));
        assert!(says[0].is_some() && says[0] == says[1], "{size}: {says:?}");
    }
}

/// Replays a small bag with a bundle of the method, at most one tile a frame, as more would be run as a whole. The driver
/// reads its settings once: in a process of its own.
fn replay(backend: &str, settings: &[(&str, &str)]) -> (Output, serde_json::Value) {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    write_columns(&path("model"), "sctf");
    write_good_bag(&path("bag"), 3, true);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparse_refine"));
    command.current_dir(repository()).arg("replay").arg(path("bag")).arg("--model").arg(path("model"));
    command.arg("--out").arg(path("out")).args(["--backend", backend, "--max-fraction", "0.1"]);
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let summary = std::fs::read_to_string(path("out/summary.json")).unwrap_or_default();
    (output, serde_json::from_str(&summary).unwrap_or_default())
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn faults_end_in_their_status_and_say_where() {
    if !emulated() {
        return;
    }
    let (output, summary) = replay("auto", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let backend = &summary["backend"];
    assert!(backend["device"].as_str().unwrap().contains("cuemu"), "{backend}");
    assert_eq!(backend["refiner"], "onnx (rten) on the host, sctf on tiles", "{backend}");
    assert!(summary["refined_fraction"].as_f64().unwrap() > 0.0, "{summary}");
    let (output, summary) = replay("auto", &[("CUEMU_FAIL", "cuInit:1:100")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(summary["backend"]["reason"].as_str().unwrap().contains("finds no device"), "{summary}");
    for (settings, status, words) in [
        (("CUEMU_FAIL", "cuInit:1:100"), 4, "or use --backend cpu"),
        (("CUEMU_FAIL", "cuStreamCreate:2:2"), 5, "stage plan"),
        (("CUEMU_FAIL", "count_tainted_cells:1:700"), 5, "lost in stage"),
        (("CUEMU_FAIL", "gather_windows:1:719"), 5, "lost in stage"),
        (("CUEMU_FAIL", "scatter_scores:1:719"), 5, "lost in stage"),
        (("CUEMU_FAIL", "fuse_columns:2:716"), 5, "lost in stage"),
        (("CUEMU_FAIL", "label_pixels:2:700"), 5, "lost in stage"),
        (("CUEMU_FAIL", "cuEventQuery:2:700"), 5, "lost in stage"),
        (("CUEMU_FAIL", "cuMemcpyDtoHAsync_v2:2:719"), 5, "lost in stage"),
        (("CUEMU_MEMORY", "30000"), 5, "one slot of 64x48 needs"),
    ] {
        let (output, _) = replay("cuda", &[settings]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{settings:?}: {text}");
        let last = text.lines().rfind(|line| !line.starts_with("cuemu: ")).unwrap_or_default();
        assert!(last.contains(words), "{settings:?} should say `{words}`: {text}");
    }
}
