//! The fused network against the reference, for every instruction set and shape of mask.

use proptest::prelude::*;

use super::super::dense_reference::Random;
use super::super::kernel_map::build_submanifold;
use super::super::sites::SiteSet;
use super::super::sites::tests::{any_mask, edge_masks, sites_of};
use super::super::sparse_conv::{Finish, Gather, SparseConv};
use super::super::unet::{Refiner, Workspace};
use super::{FusedConvolution, FusedRefiner, InstructionSet};
use crate::bundle::refiner::{Bound, Features, RefinerSpec, RefinerWeights};
use crate::types::Size;

fn spec(classes: usize, planes: &[usize], blocks: usize, features: Features, bound: Bound) -> RefinerSpec {
    RefinerSpec { classes, planes: planes.to_vec(), blocks, features, bound }
}

fn fused(refiner: &mut FusedRefiner, sites: &SiteSet, features: &[f32]) -> Vec<f32> {
    refiner.run(sites, features).flatten().copied().collect()
}

/// Largest difference from the reference, relative to the largest logit or 1, over every instruction set.
fn difference(
    weights: &RefinerWeights,
    refiners: &mut [(InstructionSet, FusedRefiner)],
    size: Size,
    mask: &[bool],
) -> f32 {
    let sites = sites_of(size, mask);
    let features = Random::new(7).vector(sites.len() * weights.spec.input_channels(), -2.0, 2.0);
    let mut workspace = Workspace::default();
    let expected = Refiner::new(weights).run(&sites, &features, &mut workspace).to_vec();
    let largest = expected.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()));
    let mut worst = 0.0_f32;
    for (set, refiner) in refiners {
        let found = fused(refiner, &sites, &features);
        assert_eq!(refiner.sites(), workspace.sites(), "{}", set.name());
        assert_eq!(found.len(), expected.len(), "{}", set.name());
        for (a, b) in found.iter().zip(&expected) {
            assert!(a.is_finite(), "{}", set.name());
            worst = f32::max(worst, (a - b).abs() / largest);
        }
    }
    worst
}

fn on_every_set(weights: &RefinerWeights) -> Vec<(InstructionSet, FusedRefiner)> {
    InstructionSet::available().map(|set| (set, FusedRefiner::new(weights, set))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn random_masks_equal_the_reference(
        (size, mask) in any_mask(70),
        seed in 0..1000u64,
        blocks in 1..=2usize,
        image in any::<bool>(),
        probabilities in any::<bool>(),
    ) {
        let bound = if image { Bound::Image } else { Bound::Active };
        let features = if probabilities { Features::RgbProbabilities } else { Features::Rgb };
        let weights = Random::new(seed).weights(&spec(15, &[4, 20, 33], blocks, features, bound));
        let worst = difference(&weights, &mut on_every_set(&weights), size, &mask);
        prop_assert!(worst < 1e-5, "{worst}");
    }
}

/// Whether the pixel of an index is selected.
type Mask = Box<dyn Fn(usize) -> bool>;

#[test]
fn empty_full_single_and_ragged_masks_equal_the_reference() {
    for planes in [&[16, 16, 32, 32][..], &[18], &[3, 40]] {
        let weights = Random::new(3).weights(&spec(13, planes, 1, Features::RgbProbabilities, Bound::Image));
        let mut refiners = on_every_set(&weights);
        for (width, height) in [(64, 48), (131, 67), (3, 3), (2, 9), (1, 1), (5, 70)] {
            let size = Size::new(width, height);
            let pixels = size.pixels();
            let masks: [(&str, Mask); 7] = [
                ("empty", Box::new(|_| false)),
                ("full", Box::new(|_| true)),
                ("first", Box::new(|i| i == 0)),
                ("last", Box::new(move |i| i + 1 == pixels)),
                (
                    "chessboard",
                    Box::new(move |i| (i / width as usize + i % width as usize).is_multiple_of(2)),
                ),
                ("blocks", Box::new(move |i| (i / width as usize / 4 + i % width as usize / 4) % 3 == 1)),
                ("last row", Box::new(move |i| i >= pixels - width as usize)),
            ];
            for (name, active) in masks {
                let mask: Vec<bool> = (0..pixels).map(active).collect();
                let worst = difference(&weights, &mut refiners, size, &mask);
                assert!(worst < 1e-5, "{name} of {size}, {planes:?}: {worst}");
            }
        }
    }
}

/// Compares one convolution with the reference, on every instruction set, in used memory.
fn check_convolution(channels: usize, convolutions: &mut [FusedConvolution], size: Size, mask: &[bool]) {
    let sites = sites_of(size, mask);
    let x = Random::new(5).vector(sites.len() * channels, -1.0, 1.0);
    let (mut map, mut expected) = (Vec::new(), vec![f32::NAN; x.len()]);
    build_submanifold(&sites, &mut map);
    let kernel = Random::new(6).kernel(9, channels, channels);
    SparseConv::new(&kernel).run(Gather::Nine(&map), &x, &mut expected, Finish::Store);
    for convolution in convolutions {
        convolution.prepare(&sites, &x);
        let found = convolution.run(&sites).chunks_exact(channels.next_multiple_of(16));
        assert_eq!(found.len(), sites.len());
        for (found, expected) in found.zip(expected.chunks_exact(channels)) {
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 2e-5, "{channels} channels, {size}: {a} {b}");
            }
            assert!(found[channels..].iter().all(|&x| x == 0.0), "filled up with zeros");
        }
    }
}

fn convolutions(channels: usize) -> Vec<FusedConvolution> {
    let kernel = Random::new(6).kernel(9, channels, channels);
    InstructionSet::available().map(|set| FusedConvolution::new(&kernel, set)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn convolutions_of_random_masks_equal_the_reference((size, mask) in any_mask(90), channels in 1..50usize) {
        check_convolution(channels, &mut convolutions(channels), size, &mask);
    }
}

#[test]
fn convolutions_of_full_empty_and_single_pixel_masks_equal_the_reference() {
    for channels in [3, 16] {
        let mut convolutions = convolutions(channels);
        edge_masks(|size, mask| check_convolution(channels, &mut convolutions, size, mask));
    }
}

#[test]
fn threads_strips_and_used_memory_do_not_change_a_byte() {
    // Tall enough for several strips of the least height.
    let size = Size::new(90, 400);
    let sites =
        sites_of(size, &(0..size.pixels()).map(|i| (i * 2_654_435_761) % 97 < 60).collect::<Vec<_>>());
    let weights = Random::new(4).weights(&spec(5, &[8, 20, 12], 2, Features::Rgb, Bound::Image));
    let features = Random::new(2).vector(sites.len() * 3, -1.0, 1.0);
    let mut refiner = FusedRefiner::new(&weights, InstructionSet::chosen());
    let results = [1, 2, 3, 1].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fused(&mut refiner, &sites, &features))
            .iter()
            .map(|x| x.to_bits())
            .collect::<Vec<_>>()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
