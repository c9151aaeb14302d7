//! Sparse convolutions and dense layers over rows of sites: one output-stationary kernel behind all of them.
//!
//! A tile of output sites keeps its sums in registers while the taps and input channels pass by, in this order whatever
//! the tile, the chunk or the thread: the result of a site depends on its inputs alone.

use rayon::prelude::*;

use super::kernel_map::{up_class, up_taps};
use super::sites::Pixel;
use super::tile::{self, PANEL, Tile};
use crate::bundle::refiner::{BatchNorm, Kernel, Linear};

/// Sites one thread computes at a time.
const CHUNK: usize = 240;

/// Added to the variance of a normalisation, METHODS 1.2.
const EPSILON: f32 = 1e-5;

/// Where the inputs of an output site are.
#[derive(Clone, Copy, Debug)]
pub enum Gather<'a> {
    /// At the same index: a 1x1 convolution or linear layer.
    Same,
    /// By tap: a submanifold or strided convolution.
    Nine(&'a [[u32; 9]]),
    /// By slot and parity: a transposed convolution onto the sites.
    Up(&'a [[u32; 4]], &'a [Pixel]),
}

/// What happens to a sum once the bias is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It replaces the output.
    Store,
    /// Its positive part replaces the output.
    Relu,
    /// It is added to the output: the residual connection.
    Add,
}

/// A batch normalisation as `scale * x + shift`.
#[derive(Clone, Debug)]
pub struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    /// The inference form of a normalisation.
    pub fn new(bn: &BatchNorm) -> Self {
        let scale: Vec<f32> = bn
            .weight
            .iter()
            .zip(&bn.running_var)
            .map(|(weight, var)| weight / (var + EPSILON).sqrt())
            .collect();
        let shift = bn
            .bias
            .iter()
            .zip(&bn.running_mean)
            .zip(&scale)
            .map(|((bias, mean), s)| bias - mean * s)
            .collect();
        Self { scale, shift }
    }

    /// Scale and shift of every channel.
    pub(super) fn coefficients(&self) -> (&[f32], &[f32]) {
        (&self.scale, &self.shift)
    }

    /// `relu(scale * x + shift)` of every row of `input` into `output`, both `[sites, channels]`.
    pub fn relu(&self, input: &[f32], output: &mut [f32]) {
        let channels = self.scale.len();
        output.par_chunks_mut(CHUNK * channels).zip(input.par_chunks(CHUNK * channels)).for_each(
            |(output, input)| {
                for (y, x) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&self.scale).zip(&self.shift) {
                        *y = (scale * x + shift).max(0.0);
                    }
                }
            },
        );
    }
}

/// Weights of a convolution or linear layer, packed for the tile kernel.
#[derive(Clone, Debug)]
pub struct SparseConv {
    inputs: usize,
    outputs: usize,
    taps: usize,
    /// `[panel][tap][in]`, the last panel padded with zeros.
    weights: Vec<[f32; PANEL]>,
    /// `[panel]`.
    bias: Vec<[f32; PANEL]>,
}

impl SparseConv {
    /// A convolution without bias.
    pub fn new(kernel: &Kernel) -> Self {
        let Kernel { inputs, outputs, ref values } = *kernel;
        Self::pack(inputs, outputs, values, |_| (1.0, 0.0))
    }

    /// A convolution with the normalisation that follows it folded in.
    pub fn with_norm(kernel: &Kernel, norm: &Affine) -> Self {
        let Kernel { inputs, outputs, ref values } = *kernel;
        Self::pack(inputs, outputs, values, |out| (norm.scale[out], norm.shift[out]))
    }

    /// A linear layer.
    pub fn linear(layer: &Linear) -> Self {
        let Linear { inputs, outputs, ref weight, ref bias } = *layer;
        let transposed: Vec<f32> =
            (0..inputs * outputs).map(|index| weight[index % outputs * inputs + index / outputs]).collect();
        Self::pack(inputs, outputs, &transposed, |out| (1.0, bias[out]))
    }

    /// Packs `[tap, in, out]`; `fold` gives the factor and bias of an output channel.
    fn pack(inputs: usize, outputs: usize, values: &[f32], fold: impl Fn(usize) -> (f32, f32)) -> Self {
        let rows = values.len() / outputs;
        let panels = outputs.div_ceil(PANEL);
        let mut weights = vec![[0.0; PANEL]; panels * rows];
        let mut bias = vec![[0.0; PANEL]; panels];
        for out in 0..outputs {
            let (panel, lane) = (out / PANEL, out % PANEL);
            let (scale, shift) = fold(out);
            bias[panel][lane] = shift;
            for row in 0..rows {
                weights[panel * rows + row][lane] = values[row * outputs + out] * scale;
            }
        }
        Self { inputs, outputs, taps: rows / inputs, weights, bias }
    }

    /// Channels read per site.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels written per site.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiply-adds for a number of present pairs.
    pub fn multiply_adds(&self, pairs: u64) -> u64 {
        pairs * self.inputs as u64 * self.outputs as u64
    }

    /// Computes all sites in parallel. `input` is `[input sites, inputs]`, `output` `[output sites, outputs]`.
    pub fn run(&self, gather: Gather<'_>, input: &[f32], output: &mut [f32], finish: Finish) {
        output.par_chunks_mut(CHUNK * self.outputs).enumerate().for_each(|(chunk, output)| {
            self.chunk(gather, input, chunk * CHUNK, output, finish);
        });
    }

    /// A 1x1 layer over the rows of `input`, on the calling thread.
    pub fn rows(&self, input: &[f32], output: &mut [f32], finish: Finish) {
        for (input, output) in input.chunks(CHUNK * self.inputs).zip(output.chunks_mut(CHUNK * self.outputs))
        {
            self.chunk(Gather::Same, input, 0, output, finish);
        }
    }

    /// Computes the at most [`CHUNK`] sites from `first` on.
    fn chunk(&self, gather: Gather<'_>, input: &[f32], first: usize, output: &mut [f32], finish: Finish) {
        let count = output.len() / self.outputs;
        let mut order = [0u16; CHUNK];
        let mut run = |order: &[u16], taps: &[usize]| {
            tile::run(self, Tile { gather, input, first, order, taps }, output, finish);
        };
        match gather {
            Gather::Same | Gather::Nine(_) => {
                for (position, site) in order.iter_mut().enumerate() {
                    *site = position as u16;
                }
                run(&order[..count], &[0, 1, 2, 3, 4, 5, 6, 7, 8][..self.taps]);
            }
            Gather::Up(_, pixels) => {
                // Sites of one parity share their taps; the sums of a site do not depend on the grouping.
                for class in 0..4 {
                    let mut found = 0;
                    for (position, &pixel) in pixels[first..first + count].iter().enumerate() {
                        order[found] = position as u16;
                        found += usize::from(up_class(pixel) == class);
                    }
                    run(&order[..found], up_taps(class));
                }
            }
        }
    }

    /// Weights `[in][PANEL]` of a panel and tap.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize, tap: usize) -> &[[f32; PANEL]] {
        &self.weights[(panel * self.taps + tap) * self.inputs..][..self.inputs]
    }

    /// Bias of a panel.
    #[inline(always)]
    pub(super) fn panel_bias(&self, panel: usize) -> [f32; PANEL] {
        self.bias[panel]
    }
}

impl Gather<'_> {
    /// The input of an output site at a slot, or `ABSENT`.
    #[inline(always)]
    pub(super) fn id(&self, site: usize, slot: usize) -> u32 {
        match self {
            Self::Same => site as u32,
            Self::Nine(map) => map[site][slot],
            Self::Up(map, _) => map[site][slot],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dense_reference::{Map, Mask, Random, conv_transpose2d, conv2d};
    use super::super::kernel_map::{Pyramid, build_submanifold, pairs};
    use super::super::sites::tests::{any_mask, sites_of};
    use super::super::sites::{ABSENT, SiteSet};
    use super::*;
    use crate::bundle::refiner::Bound;
    use crate::types::Size;

    fn mask_of(size: Size, mask: &[bool]) -> Mask {
        Mask { height: size.height as usize, width: size.width as usize, set: mask.to_vec() }
    }

    fn worst(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs()).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn convolutions_equal_masked_dense_ones(
            (size, set) in any_mask(30),
            inputs in 1..=70usize,
            outputs in 1..=35usize,
            image in any::<bool>(),
        ) {
            let bound = if image { Bound::Image } else { Bound::Active };
            let mut random = Random::new((inputs * 100 + outputs) as u64);
            let (sites, mask) = (sites_of(size, &set), mask_of(size, &set));
            let coarse_mask = mask.coarser(bound);
            let mut pyramid = Pyramid::default();
            pyramid.rebuild(&sites, 2, bound);
            let coarse = &pyramid.coarser[0];
            let kernel = random.kernel(9, inputs, outputs);
            let conv = SparseConv::new(&kernel);

            let x = random.vector(sites.len() * inputs, -1.0, 1.0);
            let dense = Map::scatter(&mask, inputs, &x);
            let mut y = vec![f32::NAN; sites.len() * outputs];
            conv.run(Gather::Nine(&pyramid.neighbours[0]), &x, &mut y, Finish::Store);
            let difference = worst(&y, &conv2d(&dense, &kernel, 1, 1).gather(&mask));
            prop_assert!(difference < 1e-5, "submanifold {difference}");

            let mut y = vec![f32::NAN; coarse.sites.len() * outputs];
            conv.run(Gather::Nine(&coarse.down), &x, &mut y, Finish::Store);
            let difference = worst(&y, &conv2d(&dense, &kernel, 2, 0).gather(&coarse_mask));
            prop_assert!(difference < 1e-5, "down {difference}");

            let x = random.vector(coarse.sites.len() * inputs, -1.0, 1.0);
            let mut y = vec![f32::NAN; sites.len() * outputs];
            conv.run(Gather::Up(&coarse.up, sites.pixels()), &x, &mut y, Finish::Store);
            let dense = Map::scatter(&coarse_mask, inputs, &x);
            let expected = conv_transpose2d(&dense, &kernel, mask.height, mask.width).gather(&mask);
            let difference = worst(&y, &expected);
            prop_assert!(difference < 1e-5, "up {difference}");
        }
    }

    #[test]
    fn an_isolated_site_sees_the_centre_tap_only() {
        let mut sites = SiteSet::default();
        sites.rebuild_from_pixels(Size::new(9, 9), [Pixel { row: 5, col: 4 }]);
        let mut pyramid = Pyramid::default();
        pyramid.rebuild(&sites, 1, Bound::Image);
        let values = (0..9).flat_map(|tap| [tap as f32, 10.0 * tap as f32]).collect();
        let conv = SparseConv::new(&Kernel { inputs: 2, outputs: 1, values });
        let mut y = [0.0];
        conv.run(Gather::Nine(&pyramid.neighbours[0]), &[3.0, 0.5], &mut y, Finish::Store);
        assert_eq!(y, [3.0 * 4.0 + 0.5 * 40.0]);
    }

    #[test]
    fn a_missing_neighbour_adds_zero_after_normalisation() {
        // relu(shift) of a zero row would be 1: the eight missing neighbours must not contribute it.
        let one = |value| vec![value];
        let bn =
            BatchNorm { weight: one(1.0), bias: one(1.0), running_mean: one(0.0), running_var: one(1.0) };
        let mut activated = [0.0];
        Affine::new(&bn).relu(&[0.0], &mut activated);
        let conv = SparseConv::new(&Kernel { inputs: 1, outputs: 1, values: vec![1.0; 9] });
        let mut entry = [ABSENT; 9];
        entry[4] = 0;
        let mut y = [0.0];
        conv.run(Gather::Nine(&[entry]), &activated, &mut y, Finish::Store);
        assert_eq!(y, [1.0]);
    }

    #[test]
    fn finishes_store_rectify_and_add() {
        let layer = Linear { inputs: 1, outputs: 2, weight: vec![2.0, -2.0], bias: vec![0.5, 0.25] };
        let conv = SparseConv::linear(&layer);
        for (finish, expected) in
            [(Finish::Store, [2.5, -1.75]), (Finish::Relu, [2.5, 0.0]), (Finish::Add, [12.5, 8.25])]
        {
            let mut y = [10.0, 10.0];
            conv.rows(&[1.0], &mut y, finish);
            assert_eq!(y, expected, "{finish:?}");
        }
    }

    #[test]
    fn a_folded_normalisation_equals_the_two_steps() {
        let mut random = Random::new(8);
        let kernel = random.kernel(1, 6, 20);
        let mut vector = |low, high| random.vector(20, low, high);
        let bn = BatchNorm {
            weight: vector(0.5, 1.5),
            bias: vector(-1.0, 1.0),
            running_mean: vector(-1.0, 1.0),
            running_var: vector(0.3, 2.0),
        };
        let norm = Affine::new(&bn);
        let x = random.vector(6 * 7, -1.0, 1.0);
        let (mut plain, mut two, mut folded) = ([0.0; 140], [0.0; 140], [0.0; 140]);
        SparseConv::new(&kernel).rows(&x, &mut plain, Finish::Store);
        norm.relu(&plain, &mut two);
        SparseConv::with_norm(&kernel, &norm).rows(&x, &mut folded, Finish::Relu);
        for (a, b) in two.iter().zip(&folded) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    #[ignore = "timing; run by hand"]
    fn timing_of_a_submanifold_convolution() {
        // 2x2 blocks along a diagonal band: 330 thousand sites at 8 megapixels.
        let size = Size::new(3840, 2160);
        let mut sites = SiteSet::default();
        let fill = |row: u32, words: &mut [u64]| {
            for col in 0..3840u32 {
                if (col / 2 + row / 2 * 3 / 4) % 150 < 6 {
                    words[col as usize / 64] |= 1 << (col % 64);
                }
            }
        };
        let best = |name: &str, step: &mut dyn FnMut()| {
            let mut best = f64::INFINITY;
            for _ in 0..10 {
                let start = std::time::Instant::now();
                step();
                best = best.min(start.elapsed().as_secs_f64() * 1e3);
            }
            println!("{name}: {best:.2} ms");
        };
        best("sites, drawing them included", &mut || sites.rebuild_from_rows(size, fill));
        let mut pyramid = Pyramid::default();
        let mut map = Vec::new();
        best("submanifold map", &mut || build_submanifold(&sites, &mut map));
        best("four levels of maps", &mut || pyramid.rebuild(&sites, 4, Bound::Image));
        let occupancy = pairs(&map) as f64 / (9.0 * map.len() as f64);
        println!("{} sites, occupancy {occupancy:.3}", sites.len());
        assert!((300_000..360_000).contains(&sites.len()));
        for channels in [16, 32, 64] {
            let mut random = Random::new(1);
            let conv = SparseConv::new(&random.kernel(9, channels, channels));
            let x = random.vector(sites.len() * channels, -1.0, 1.0);
            let mut y = vec![0.0; x.len()];
            let bn = vec![1.0; channels];
            let norm = Affine::new(&BatchNorm {
                weight: bn.clone(),
                bias: bn.clone(),
                running_mean: bn.clone(),
                running_var: bn,
            });
            best(&format!("norm and ReLU of {channels} channels"), &mut || norm.relu(&x, &mut y));
            best(&format!("submanifold {channels} to {channels}"), &mut || {
                conv.run(Gather::Nine(&map), &x, &mut y, Finish::Store);
            });
            assert!(y.iter().all(|y| y.is_finite()));
        }
    }
}
