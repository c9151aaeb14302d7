//! Kernels of the CPU backend beside what the processor can do, measured by criterion in the same process.
//!
//! Throughput is floating-point operations (a multiply-add counts two) or bytes. Operations of convolutions are those of the
//! definition, absent neighbours left out, not of the algorithm that is run. `scripts/bench_tables.py` makes the table.

mod shared;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sparse_refine::bundle::manifest::{ChannelOrder, Upsample};
use sparse_refine::bundle::refiner::Kernel;
use sparse_refine::cpu::evaluate::Logits;
use sparse_refine::cpu::fused::{FusedConvolution, FusedRefiner, InstructionSet};
use sparse_refine::cpu::kernel_map::{build_submanifold, pairs};
use sparse_refine::cpu::pixels;
use sparse_refine::cpu::resize::AreaResize;
use sparse_refine::cpu::select::Selection;
use sparse_refine::cpu::sparse_conv::{Finish, Gather, SparseConv};
use sparse_refine::cpu::unet::{Refiner, Workspace};
use sparse_refine::plan::{Geometry, Normalisation};
use sparse_refine::types::{CameraId, Frame, PixelFormat, Size, Stamp};

use shared::{CLASSES, bands, smooth_logits, values, weights};

const CAMERA: Size = Size::new(3840, 2160);

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// One thread, and all.
fn thread_counts() -> impl Iterator<Item = usize> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    [1, all].into_iter().take(all.min(2))
}

const SUMS: usize = 12 * 16;
const STEPS: usize = 2_000_000;

/// Independent multiply-adds in plain code, as wide as the compiler makes them for AVX-512 or AVX2.
fn multiply_add() {
    #[inline(always)]
    fn body(x: f32, y: f32) -> f32 {
        let mut sums = [1.0_f32; SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.mul_add(x, y);
            }
        }
        sums.iter().sum()
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    fn wide(x: f32, y: f32) -> f32 {
        body(x, y)
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn narrow(x: f32, y: f32) -> f32 {
        body(x, y)
    }
    let (x, y) = (black_box(1.000_001), black_box(1e-9));
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "calls code compiled for instructions that were just found")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512.
        let _ = black_box(unsafe { wide(x, y) });
        return;
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        let _ = black_box(unsafe { narrow(x, y) });
        return;
    }
    black_box(body(x, y));
}

/// What the processor and its memory can do, with one thread and with all.
fn peak(criterion: &mut Criterion) {
    let mut group = group(criterion, "peak");
    for threads in thread_counts() {
        let pool = pool(threads);
        group.throughput(Throughput::Elements((2 * SUMS * STEPS * threads) as u64));
        group.bench_function(BenchmarkId::new("multiply-add", threads), |b| {
            b.iter(|| pool.broadcast(|_| multiply_add()));
        });
        // As STREAM counts: what is read and what is written, not the lines that are fetched to be written.
        const FLOATS: usize = 32 << 20;
        const CHUNK: usize = 1 << 16;
        let (x, y, mut z) = (vec![1.0_f32; FLOATS], vec![2.0_f32; FLOATS], vec![0.0_f32; FLOATS]);
        group.throughput(Throughput::Bytes(8 * FLOATS as u64));
        group.bench_function(BenchmarkId::new("copy", threads), |b| {
            b.iter(|| {
                let chunks = z.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
                pool.install(|| chunks.for_each(|(z, x)| z.copy_from_slice(black_box(x))));
            });
        });
        group.throughput(Throughput::Bytes(12 * FLOATS as u64));
        group.bench_function(BenchmarkId::new("triad", threads), |b| {
            b.iter(|| {
                let chunks = z.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(y.par_chunks(CHUNK));
                pool.install(|| {
                    chunks.for_each(|((z, x), y)| {
                        let scale = black_box(3.0);
                        z.iter_mut().zip(x).zip(y).for_each(|((z, x), y)| *z = x + scale * y);
                    });
                });
            });
        });
    }
}

/// Camera bytes to packed RGB, and RGB to the segmenter's input.
fn front(criterion: &mut Criterion) {
    let mut group = group(criterion, "front");
    let bytes: Vec<u8> = values(CAMERA.pixels() * 3).iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    let mut rgb = vec![0; bytes.len()];
    for (name, format, channels) in
        [("rgb8", PixelFormat::Rgb8, 3), ("bayer_rggb8", PixelFormat::BayerRggb8, 1)]
    {
        let step = CAMERA.width as usize * channels;
        let data = &bytes[..step * CAMERA.height as usize];
        let frame = Frame { camera: CameraId(0), stamp: Stamp::default(), size: CAMERA, format, step, data };
        group.throughput(Throughput::Bytes((data.len() + rgb.len()) as u64));
        let pool = pool(1);
        group.bench_function(name, |b| b.iter(|| pool.install(|| pixels::to_rgb8(&frame, &mut rgb))));
    }
    let grid = Size::new(960, 544);
    let normalisation = Normalisation { order: ChannelOrder::Rgb, mean: [120.0; 3], std: [58.0; 3] };
    let resize = AreaResize::new(&Geometry::pad(CAMERA, grid), normalisation);
    let mut input = vec![0.0; 3 * grid.pixels()];
    group.throughput(Throughput::Bytes((rgb.len() + 4 * input.len()) as u64));
    let pool = pool(1);
    group.bench_function("area mean", |b| b.iter(|| pool.install(|| resize.run(&rgb, &mut input))));
}

/// Entropy, labels and the choice of pixels.
fn select(criterion: &mut Criterion) {
    let mut group = group(criterion, "select");
    let pool = pool(1);
    let cases = [
        ("nearest 960x544", Upsample::Nearest, Size::new(960, 544)),
        ("bilinear 240x136", Upsample::Bilinear, Size::new(240, 136)),
        ("bilinear 960x544", Upsample::Bilinear, Size::new(960, 544)),
    ];
    for (name, upsample, grid) in cases {
        let geometry = Geometry::pad(CAMERA, grid);
        for sharpness in [3.0, 12.0] {
            let data = smooth_logits(grid, sharpness);
            let logits = Logits::new(&data, grid, CLASSES);
            let mut selection = Selection::default();
            group.throughput(Throughput::Bytes((4 * data.len() + CAMERA.pixels()) as u64));
            group.bench_function(BenchmarkId::new(name, sharpness), |b| {
                b.iter(|| {
                    pool.install(|| selection.select(&logits, &geometry, upsample, 0.7, u32::MAX));
                });
            });
            let share = f64::from(selection.counts().kept) / CAMERA.pixels() as f64;
            println!("select/{name}/{sharpness}: {:.1} % selected", 100.0 * share);
        }
    }
}

/// A 3x3 submanifold convolution: as the refiner runs it, tile by tile, and the reference's, from a table of neighbours.
fn convolution(criterion: &mut Criterion) {
    let mut group = group(criterion, "convolution");
    let sites = bands(CAMERA, 11);
    let mut map = Vec::new();
    build_submanifold(&sites, &mut map);
    let pool = pool(1);
    for channels in [16, 32, 64] {
        let values_of = values(9 * channels * channels);
        let kernel = Kernel { inputs: channels, outputs: channels, values: values_of };
        let conv = SparseConv::new(&kernel);
        let x = values(sites.len() * channels);
        group.throughput(Throughput::Elements(2 * conv.multiply_adds(pairs(&map))));
        let mut fused = FusedConvolution::new(&kernel, InstructionSet::chosen());
        pool.install(|| fused.prepare(&sites, &x));
        group.bench_function(BenchmarkId::new("refiner", channels), |b| {
            b.iter(|| pool.install(|| fused.run(&sites).len()));
        });
        drop(fused);
        let mut y = vec![0.0; x.len()];
        group.bench_function(BenchmarkId::new("reference", channels), |b| {
            b.iter(|| pool.install(|| conv.run(Gather::Nine(&map), &x, &mut y, Finish::Store)));
        });
    }
}

/// The whole network of `planes` 16,16,32,32: share of the pixels, instruction set, threads.
fn refine(criterion: &mut Criterion) {
    let mut group = group(criterion, "refine");
    let weights = weights(&[16, 16, 32, 32]);
    let fastest = InstructionSet::available().next();
    for percent in [2, 5, 11, 25] {
        let sites = bands(CAMERA, percent);
        let features = values(sites.len() * weights.spec.input_channels());
        let reference = Refiner::new(&weights);
        let mut workspace = Workspace::default();
        reference.run(&sites, &features, &mut workspace);
        let multiply_adds = reference.multiply_adds(&workspace).iter().sum::<u64>();
        group.throughput(Throughput::Elements(2 * multiply_adds));
        let slow = percent == 2;
        if slow {
            let pool = pool(1);
            group.bench_function(BenchmarkId::new("reference 1", percent), |b| {
                b.iter(|| pool.install(|| reference.run(&sites, &features, &mut workspace).len()));
            });
        }
        drop(workspace);
        for set in InstructionSet::available() {
            let is_fastest = Some(set) == fastest;
            if !(is_fastest || slow || (percent == 11 && set.name() != "portable")) {
                continue;
            }
            for threads in thread_counts().take(if is_fastest { 2 } else { 1 }) {
                let pool = pool(threads);
                let mut refiner = FusedRefiner::new(&weights, set);
                group.bench_function(BenchmarkId::new(format!("{} {threads}", set.name()), percent), |b| {
                    b.iter(|| pool.install(|| refiner.run(&sites, &features).count()));
                });
            }
        }
    }
}

/// Ten samples of whole runs: what is timed takes milliseconds to seconds.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    group
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    peak(&mut criterion);
    front(&mut criterion);
    select(&mut criterion);
    convolution(&mut criterion);
    refine(&mut criterion);
    criterion.final_summary();
}
