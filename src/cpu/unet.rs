//! The sparse U-Net of the refiner, METHODS 1.2; `docs/bundle.md` has the same formula in the names used here.

use rayon::prelude::*;

use super::kernel_map::{Pyramid, pairs};
use super::residual::{Buffer, ResidualBlock, Scratch};
use super::sites::SiteSet;
use super::sparse_conv::{Affine, Finish, Gather, SparseConv};
use crate::bundle::refiner::{RefinerSpec, RefinerWeights, Strided};
use crate::types::MAX_LEVELS;

/// A normalisation with ReLU and the strided convolution after it.
#[derive(Clone, Debug)]
struct Step {
    norm: Affine,
    conv: SparseConv,
}

impl Step {
    fn new(weights: &Strided) -> Self {
        Self { norm: Affine::new(&weights.bn), conv: SparseConv::new(&weights.kernel) }
    }

    fn run(&self, gather: Gather<'_>, input: &[f32], output: &mut [f32], activated: &mut Buffer) {
        let activated = activated.sized(input.len());
        self.norm.relu(input, activated);
        self.conv.run(gather, activated, output, Finish::Store);
    }
}

#[derive(Clone, Debug)]
struct Descent {
    down: Step,
    up: Step,
    post: Vec<ResidualBlock>,
}

#[derive(Clone, Debug)]
struct Level {
    channels: usize,
    pre: Vec<ResidualBlock>,
    descent: Option<Descent>,
}

/// The U-Net with its classifier, ready to run.
#[derive(Clone, Debug)]
pub struct Refiner {
    spec: RefinerSpec,
    stem: SparseConv,
    levels: Vec<Level>,
    head: Affine,
    classifier: SparseConv,
}

/// Everything a [`Refiner`] writes. Kept between frames, it stops allocating once it has seen the largest.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    pyramid: Pyramid,
    features: [Buffer; MAX_LEVELS],
    concat: Buffer,
    scratch: Scratch,
    logits: Buffer,
    logits_len: usize,
}

impl Workspace {
    /// Sites of each level in the last run, 0 beyond the depth.
    pub fn sites(&self) -> [u32; MAX_LEVELS] {
        let mut sites = [0; MAX_LEVELS];
        for (sites, count) in sites.iter_mut().zip(self.pyramid.sites()) {
            *sites = count as u32;
        }
        sites
    }
}

impl Workspace {
    /// Refined logits of the last run, `[sites, classes]`.
    pub fn logits(&self) -> &[f32] {
        self.logits.get(self.logits_len)
    }
}

impl Refiner {
    /// Packs the weights.
    pub fn new(weights: &RefinerWeights) -> Self {
        let block = |blocks: &[_]| blocks.iter().map(ResidualBlock::new).collect();
        let levels = weights.levels.iter().zip(&weights.spec.planes).map(|(level, &channels)| Level {
            channels,
            pre: block(&level.pre),
            descent: level.descent.as_ref().map(|descent| Descent {
                down: Step::new(&descent.down),
                up: Step::new(&descent.up),
                post: block(&descent.post),
            }),
        });
        Self {
            spec: weights.spec.clone(),
            stem: SparseConv::new(&weights.stem),
            levels: levels.collect(),
            head: Affine::new(&weights.head),
            classifier: SparseConv::linear(&weights.classifier),
        }
    }

    /// The architecture.
    pub fn spec(&self) -> &RefinerSpec {
        &self.spec
    }

    /// Refined logits `y2` `[sites, classes]` of features `[sites, input channels]`. The size of `sites` is that of the
    /// canvas. A level without sites gives zeros to the level above it (METHODS 1.7); no site gives no logits.
    pub fn run<'w>(&self, sites: &SiteSet, features: &[f32], workspace: &'w mut Workspace) -> &'w [f32] {
        assert_eq!(features.len(), sites.len() * self.stem.inputs(), "features of {} sites", sites.len());
        let Workspace { pyramid, features: buffers, concat, scratch, logits, logits_len } = workspace;
        pyramid.rebuild(sites, self.levels.len(), self.spec.bound);

        let x = buffers[0].sized(sites.len() * self.stem.outputs());
        self.stem.run(Gather::Nine(&pyramid.neighbours[0]), features, x, Finish::Store);
        for (i, level) in self.levels.iter().enumerate() {
            let neighbours = &pyramid.neighbours[i];
            let (finer, coarser) = buffers.split_at_mut(i + 1);
            let x = finer[i].sized(neighbours.len() * level.channels);
            for block in &level.pre {
                block.run_in_place(neighbours, x, scratch);
            }
            if let Some(Descent { down, .. }) = &level.descent {
                let map = &pyramid.coarser[i].down;
                let d = coarser[0].sized(map.len() * down.conv.outputs());
                down.run(Gather::Nine(map), x, d, &mut scratch.activated);
            }
        }
        for (i, level) in self.levels.iter().enumerate().rev() {
            let Some(Descent { up, post, .. }) = &level.descent else { continue };
            let neighbours = &pyramid.neighbours[i];
            let coarser = &pyramid.coarser[i];
            let finer_pixels = if i == 0 { sites.pixels() } else { pyramid.coarser[i - 1].sites.pixels() };
            let (finer_buffers, coarser_buffers) = buffers.split_at_mut(i + 1);
            let x = finer_buffers[i].sized(neighbours.len() * level.channels);
            let d = coarser_buffers[0].sized(coarser.sites.len() * up.conv.inputs());
            let u = scratch.hidden.sized(x.len());
            up.run(Gather::Up(&coarser.up, finer_pixels), d, u, &mut scratch.activated);
            let concat = concat.sized(2 * x.len());
            concatenate(x, u, level.channels, concat);
            for (k, block) in post.iter().enumerate() {
                if k == 0 {
                    block.run(neighbours, concat, x, scratch);
                } else {
                    block.run_in_place(neighbours, x, scratch);
                }
            }
        }

        let x = buffers[0].sized(sites.len() * self.stem.outputs());
        let activated = scratch.activated.sized(x.len());
        self.head.relu(x, activated);
        *logits_len = sites.len() * self.classifier.outputs();
        let logits = logits.sized(*logits_len);
        self.classifier.run(Gather::Same, activated, logits, Finish::Store);
        logits
    }

    /// Multiply-adds of the last run, per level as in METHODS 1.8: a level's strided convolutions are those to and from
    /// the next coarser one; stem and classifier count with the finest. Absent neighbours do not count.
    pub fn multiply_adds(&self, workspace: &Workspace) -> [u64; MAX_LEVELS] {
        let pyramid = &workspace.pyramid;
        let mut total = [0; MAX_LEVELS];
        for ((i, level), neighbours) in self.levels.iter().enumerate().zip(&pyramid.neighbours) {
            let (sites, present) = (neighbours.len() as u64, pairs(neighbours));
            let block = |block: &ResidualBlock| block.multiply_adds(sites, present);
            total[i] += level.pre.iter().map(block).sum::<u64>();
            if let Some(Descent { down, up, post }) = &level.descent {
                let strided = pairs(&pyramid.coarser[i].down);
                total[i] += post.iter().map(block).sum::<u64>();
                total[i] += down.conv.multiply_adds(strided) + up.conv.multiply_adds(strided);
            }
            if i == 0 {
                total[i] += self.stem.multiply_adds(present) + self.classifier.multiply_adds(sites);
            }
        }
        total
    }
}

/// Rows of `skip` and `u`, `channels` values each, side by side: the skip first.
fn concatenate(skip: &[f32], u: &[f32], channels: usize, output: &mut [f32]) {
    let rows = skip.par_chunks_exact(channels).zip(u.par_chunks_exact(channels));
    output.par_chunks_exact_mut(2 * channels).zip(rows).with_min_len(256).for_each(|(row, (skip, u))| {
        row[..channels].copy_from_slice(skip);
        row[channels..].copy_from_slice(u);
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dense_reference::{Mask, Random, refine};
    use super::super::sites::tests::{any_mask, sites_of};
    use super::*;
    use crate::bundle::refiner::{Bound, Features};
    use crate::types::Size;

    fn spec(planes: &[usize], blocks: usize, bound: Bound) -> RefinerSpec {
        RefinerSpec { classes: 5, planes: planes.to_vec(), blocks, features: Features::Rgb, bound }
    }

    fn run(refiner: &Refiner, sites: &SiteSet, features: &[f32]) -> Vec<f32> {
        refiner.run(sites, features, &mut Workspace::default()).to_vec()
    }

    /// Runs both networks on random features; largest difference of a logit.
    fn difference(weights: &RefinerWeights, size: Size, mask: &[bool], workspace: &mut Workspace) -> f64 {
        let sites = sites_of(size, mask);
        let features = Random::new(7).vector(sites.len() * weights.spec.input_channels(), -2.0, 2.0);
        let sparse = Refiner::new(weights).run(&sites, &features, workspace).to_vec();
        let mask = Mask { height: size.height as usize, width: size.width as usize, set: mask.to_vec() };
        let dense = refine(weights, &mask, &features);
        assert_eq!(sparse.len(), dense.len());
        sparse.iter().zip(&dense).map(|(&s, d)| (f64::from(s) - d).abs()).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn sparse_equals_dense_on_random_masks(
            (size, mask) in any_mask(40),
            seed in 0..1000u64,
            blocks in 1..=2usize,
            image in any::<bool>(),
        ) {
            let bound = if image { Bound::Image } else { Bound::Active };
            let weights = Random::new(seed).weights(&spec(&[4, 6, 18], blocks, bound));
            let worst = difference(&weights, size, &mask, &mut Workspace::default());
            prop_assert!(worst < 1e-4, "{worst}");
        }
    }

    /// Whether the pixel at a row and column of an image is active.
    type Shape = fn(u32, u32, Size) -> bool;

    #[test]
    fn masks_at_the_edges_equal_the_dense_network() {
        let mut random = Random::new(3);
        let mut workspace = Workspace::default();
        for bound in [Bound::Image, Bound::Active] {
            let mut spec = spec(&[3, 5, 4, 6], 1, bound);
            spec.features = Features::RgbProbabilities;
            let weights = random.weights(&spec);
            for (width, height) in [(24, 17), (17, 24), (31, 31), (3, 3), (2, 9), (1, 1)] {
                let size = Size::new(width, height);
                let cases: [(&str, Shape); 11] = [
                    ("empty", |_, _, _| false),
                    ("full", |_, _, _| true),
                    ("top left", |r, c, _| r + c == 0),
                    ("top right", |r, c, size| r == 0 && c == size.width - 1),
                    ("bottom left", |r, c, size| r == size.height - 1 && c == 0),
                    ("bottom right", |r, c, size| r == size.height - 1 && c == size.width - 1),
                    ("last row", |r, _, size| r == size.height - 1),
                    ("last column", |_, c, size| c == size.width - 1),
                    ("last but one row", |r, _, size| r + 2 == size.height),
                    ("last but one column", |_, c, size| c + 2 == size.width),
                    ("chessboard", |r, c, _| (r + c) % 2 == 0),
                ];
                for (name, active) in cases {
                    let mask: Vec<bool> = (0..height)
                        .flat_map(|r| (0..width).map(move |c| (r, c)))
                        .map(|(r, c)| active(r, c, size))
                        .collect();
                    let worst = difference(&weights, size, &mask, &mut workspace);
                    assert!(worst < 1e-4, "{name} of {size}, {bound:?}: {worst}");
                }
            }
        }
    }

    #[test]
    fn empty_levels_give_zeros() {
        // Every case measured in METHODS 1.7; the dense network sees an all-zero level there.
        let size = Size::new(130, 128);
        for (row, col, bound, filled) in [
            (100, 100, Bound::Active, 2),
            (101, 100, Bound::Active, 1),
            (126, 126, Bound::Active, 6),
            (127, 129, Bound::Image, 1),
        ] {
            let weights = Random::new(11).weights(&spec(&[2, 3, 2, 2, 3, 2], 1, bound));
            let mask: Vec<bool> = (0..size.pixels()).map(|i| i == row * 130 + col).collect();
            let mut workspace = Workspace::default();
            let worst = difference(&weights, size, &mask, &mut workspace);
            assert!(worst < 1e-4, "({row},{col}) {bound:?}: {worst}");
            let expected: Vec<u32> = (0..8).map(|level| u32::from(level < filled)).collect();
            assert_eq!(workspace.sites().map(|count| count.min(1)), *expected, "({row},{col}) {bound:?}");
        }
    }

    #[test]
    fn no_site_gives_no_logits() {
        let weights = Random::new(1).weights(&spec(&[4, 4], 1, Bound::Image));
        for size in [Size::new(0, 0), Size::new(64, 32)] {
            assert!(
                run(&Refiner::new(&weights), &sites_of(size, &vec![false; size.pixels()]), &[]).is_empty()
            );
        }
    }

    #[test]
    fn far_away_sites_do_not_matter_with_the_image_bound() {
        let size = Size::new(256, 64);
        let active = |i: usize, right: bool| {
            let (row, col) = (i / 256, i % 256);
            (col < 40 || right && col > 200) && (row * 7 + col * 3) % 5 < 3
        };
        let near: Vec<bool> = (0..size.pixels()).map(|i| active(i, false)).collect();
        let both: Vec<bool> = (0..size.pixels()).map(|i| active(i, true)).collect();
        // Features follow from the pixel, so that a site has the same ones in both runs.
        let features = |sites: &SiteSet| -> Vec<f32> {
            let pixels = sites.pixels().iter().map(|p| (f32::from(p.row), f32::from(p.col)));
            pixels.flat_map(|(r, c)| [(r * 0.3).sin(), (c * 0.2).cos(), (r * c * 0.01).sin()]).collect()
        };
        let mut lost = 0;
        for bound in [Bound::Image, Bound::Active] {
            let refiner = Refiner::new(&Random::new(5).weights(&spec(&[4, 5, 6], 1, bound)));
            let (near, both) = (sites_of(size, &near), sites_of(size, &both));
            let alone = run(&refiner, &near, &features(&near));
            let together = run(&refiner, &both, &features(&both));
            for (site, pixel) in near.pixels().iter().enumerate() {
                let other = both.id(i32::from(pixel.row), i32::from(pixel.col)) as usize;
                let same = alone[site * 5..][..5] == together[other * 5..][..5];
                assert!(same || bound == Bound::Active, "{pixel:?}");
                lost += usize::from(!same);
            }
        }
        assert!(lost > 0, "the released rule does couple them; else this test shows nothing");
    }

    #[test]
    fn thread_count_does_not_change_a_byte() {
        let size = Size::new(200, 150);
        let mask: Vec<bool> = (0..size.pixels()).map(|i| (i * 2_654_435_761) % 97 < 60).collect();
        let sites = sites_of(size, &mask);
        let features = Random::new(2).vector(sites.len() * 3, -1.0, 1.0);
        let refiner = Refiner::new(&Random::new(4).weights(&spec(&[8, 20, 12], 2, Bound::Image)));
        let results = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&refiner, &sites, &features)).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        });
        assert!(results[0] == results[1] && results[1] == results[2]);
    }

    #[test]
    fn a_used_workspace_gives_the_same_bytes_and_stops_allocating() {
        let refiner = Refiner::new(&Random::new(4).weights(&spec(&[8, 12, 6], 1, Bound::Image)));
        let (large, small) = (Size::new(90, 80), Size::new(33, 50));
        let sites = [(large, 2), (small, 3), (large, 2)]
            .map(|(size, n)| sites_of(size, &(0..size.pixels()).map(|i| i % n == 0).collect::<Vec<_>>()));
        let mut workspace = Workspace::default();
        let mut capacities = Vec::new();
        for sites in &sites {
            let features = Random::new(9).vector(sites.len() * 3, -1.0, 1.0);
            assert_eq!(refiner.run(sites, &features, &mut workspace), run(&refiner, sites, &features));
            capacities.push(workspace.capacity());
        }
        assert_eq!(capacities[0], capacities[2]);
        assert_eq!(capacities[0], capacities[1]);
    }

    impl Workspace {
        /// Elements held by every buffer together.
        fn capacity(&mut self) -> usize {
            let Self { pyramid, features, concat, scratch, logits, .. } = self;
            let buffers =
                features.iter_mut().chain([concat, logits, &mut scratch.activated, &mut scratch.hidden]);
            let maps = pyramid.neighbours.iter().map(Vec::capacity).sum::<usize>();
            let coarser = pyramid.coarser.iter().map(|c| c.down.capacity() + c.up.capacity()).sum::<usize>();
            buffers.map(|buffer| buffer.capacity()).sum::<usize>() + maps + coarser
        }
    }

    /// Filled fractions and cost of METHODS 1.8 on bands along curved boundaries, 2x2 aligned.
    #[test]
    fn multiply_adds_follow_the_cost_model() {
        let size = Size::new(2048, 1024);
        // Boundaries of a smooth random field, in cells of 2x2 pixels.
        let field = |r: f64, c: f64| {
            (r * 0.0072).sin() * 2.0
                + (c * 0.0058 + 0.6).sin() * 2.0
                + ((r + c) * 0.0127).sin()
                + ((r - 1.7 * c) * 0.0099).cos()
        };
        let mask: Vec<bool> = (0..size.pixels())
            .map(|i| {
                let (row, col) = ((i / 2048 / 2 * 2) as f64, (i % 2048 / 2 * 2) as f64);
                let level = field(row, col).rem_euclid(1.6) - 0.8;
                level.abs() < 0.095
            })
            .collect();
        let sites = sites_of(size, &mask);
        let planes = [8, 16, 32, 64, 128, 256];
        let mut random = Random::new(1);
        let refiner = Refiner::new(&random.weights(&spec(&planes, 2, Bound::Image)));
        let mut workspace = Workspace::default();
        workspace.pyramid.rebuild(&sites, 6, Bound::Image);
        let counted = refiner.multiply_adds(&workspace);

        let pixels = size.pixels() as f64;
        let counts = workspace.sites().map(f64::from);
        let (f0, f1) = (counts[0] / pixels, counts[1] * 4.0 / pixels);
        let lambda = -((1.0 - f1) / (1.0 - f0)).ln();
        assert!((0.05..0.2).contains(&f0) && (0.01..0.06).contains(&lambda), "f0 {f0}, lambda {lambda}");
        let filled: Vec<f64> =
            (0..6).map(|i| 1.0 - (1.0 - f0) * (-lambda * (f64::from(1 << i) - 1.0)).exp()).collect();
        let width = f64::from(planes[0] as u32) / 32.0;
        let model =
            1024.0 * width * width * pixels * (81.0 * filled[..5].iter().sum::<f64>() + 31.0 * filled[5]);
        // The model leaves out the stem and the classifier, which METHODS counts with the head per site.
        let unet = counted.iter().sum::<u64>() as f64 - counts[0] * (9.0 * 3.0 + 5.0) * 8.0;
        let ratio = unet / model;
        println!(
            "f0 {f0:.3}, lambda {lambda:.4}, sites {counts:?}, GMAC {:.2}, ratio {ratio:.3}",
            unet / 1e9
        );
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }
}
