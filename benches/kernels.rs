//! Kernels of the CPU backend against what the processor can do, measured in the same process.
//!
//! Not a statistics framework: the best of some rounds, on one thread, per instruction set. Peaks are measured with a loop
//! of independent multiply-adds and with copies larger than the caches.

use std::hint::black_box;
use std::time::Instant;

use sparse_refine::bundle::refiner::{BatchNorm, Kernel, RefinerSpec, RefinerWeights};
use sparse_refine::bundle::refiner::{Bound, Features};
use sparse_refine::cpu::fused::{FusedRefiner, InstructionSet};
use sparse_refine::cpu::kernel_map::{Pyramid, build_submanifold, pairs};
use sparse_refine::cpu::sites::SiteSet;
use sparse_refine::cpu::sparse_conv::{Affine, Finish, Gather, SparseConv};
use sparse_refine::cpu::unet::{Refiner, Workspace};
use sparse_refine::types::Size;

const ROUNDS: usize = 7;

fn best_ms(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    best
}

/// GFLOP/s of independent multiply-adds in plain code, as wide as the compiler makes them for AVX-512 or AVX2.
fn peak_gflops() -> f64 {
    const SUMS: usize = 12 * 16;
    const STEPS: usize = 200_000;
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
    let ms = best_ms(|| {
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
    });
    (2 * SUMS * STEPS) as f64 / ms / 1e6
}

fn copy_gbytes() -> f64 {
    let from = vec![1_u8; 256 << 20];
    let mut to = vec![0_u8; from.len()];
    let ms = best_ms(|| {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    });
    2.0 * from.len() as f64 / ms / 1e6
}

/// Blocks of 4x4 pixels along diagonal bands, `of` of every 100 in a row of blocks.
fn bands(size: Size, of: u32) -> SiteSet {
    let mut sites = SiteSet::default();
    sites.rebuild_from_rows(size, |row, words| {
        for col in 0..size.width {
            if (col / 4 + row / 4 * 3 / 4) % 100 < of {
                words[col as usize / 64] |= 1 << (col % 64);
            }
        }
    });
    sites
}

/// Values between -1 and 1 that look random.
fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn weights(planes: &[usize]) -> RefinerWeights {
    let spec = RefinerSpec {
        classes: 13,
        planes: planes.to_vec(),
        blocks: 1,
        features: Features::RgbProbabilities,
        bound: Bound::Image,
    };
    let Ok(weights) = RefinerWeights::assemble::<std::convert::Infallible>(&spec, |name, shape| {
        let len = shape.iter().product();
        let positive = name.ends_with("running_var") || name.contains("bn") && name.ends_with("weight");
        Ok(values(len).into_iter().map(|x| if positive { 1.0 } else { x / 8.0 }).collect())
    });
    weights
}

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    pool.install(run);
}

fn run() {
    let (peak, bandwidth) = (peak_gflops(), copy_gbytes());
    println!("one thread: {peak:.0} GFLOP/s multiply-adds, {bandwidth:.1} GB/s copied (read and written)");
    let size = Size::new(3840, 2160);
    let sites = bands(size, 11);
    let mut map = Vec::new();
    build_submanifold(&sites, &mut map);
    println!(
        "{} sites of {size}, neighbours present {:.3}",
        sites.len(),
        pairs(&map) as f64 / (9 * map.len()) as f64
    );

    println!("\nreference 3x3 submanifold convolution, layer by layer, table of neighbours");
    for channels in [16, 32, 64] {
        let values_of = values(9 * channels * channels);
        let conv = SparseConv::new(&Kernel { inputs: channels, outputs: channels, values: values_of });
        let x = values(sites.len() * channels);
        let mut y = vec![0.0; x.len()];
        let ms = best_ms(|| conv.run(Gather::Nine(&map), &x, &mut y, Finish::Store));
        let gflops = 2.0 * conv.multiply_adds(pairs(&map)) as f64 / ms / 1e6;
        let ones = vec![1.0; channels];
        let norm = Affine::new(&BatchNorm {
            weight: ones.clone(),
            bias: ones.clone(),
            running_mean: ones.clone(),
            running_var: ones,
        });
        let pass = best_ms(|| norm.relu(&x, &mut y));
        let gbytes = 8.0 * x.len() as f64 / pass / 1e6;
        println!(
            "{channels:>4} channels: {ms:7.1} ms, {gflops:5.0} GFLOP/s, {:3.0} % of peak; norm and ReLU {pass:.1} ms, \
             {:3.0} % of bandwidth",
            100.0 * gflops / peak,
            100.0 * gbytes / bandwidth,
        );
    }

    println!(
        "\nwhole refiner 16,16,32,32; direct = multiply-adds of the definition, not of Winograd's algorithm"
    );
    let weights = weights(&[16, 16, 32, 32]);
    for share in [2, 5, 11, 25] {
        let sites = bands(size, share);
        let features = values(sites.len() * weights.spec.input_channels());
        let reference = Refiner::new(&weights);
        let mut workspace = Workspace::default();
        let slow = best_ms(|| {
            black_box(reference.run(&sites, &features, &mut workspace));
        });
        let gmacs = reference.multiply_adds(&workspace).iter().sum::<u64>() as f64 / 1e9;
        drop(workspace);
        println!("{share:>3} % of the pixels, {:>8} sites, {gmacs:.1} GMAC", sites.len());
        println!("    {:<10} {slow:8.1} ms {:4.0} % of peak", "reference", 2e5 * gmacs / slow / peak);
        for set in InstructionSet::available() {
            let mut refiner = FusedRefiner::new(&weights, set);
            let ms = best_ms(|| {
                black_box(refiner.run(&sites, &features).count());
            });
            println!("    {:<10} {ms:8.1} ms {:4.0} % of peak (direct)", set.name(), 2e5 * gmacs / ms / peak);
        }
    }
    let mut pyramid = Pyramid::default();
    println!(
        "\nreference neighbour tables, four levels: {:.1} ms",
        best_ms(|| pyramid.rebuild(&sites, 4, Bound::Image))
    );
}
