//! The pre-activation residual block: `x + conv2(relu(bn2(conv1(relu(bn1(x))))))`.

use super::sparse_conv::{Affine, Finish, Gather, SparseConv};
use crate::bundle::refiner::Residual;

/// A buffer that grows and is never cleared: whoever asks for it writes all of it.
#[derive(Clone, Debug, Default)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `len` values, holding anything.
    pub fn sized(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }

    /// The first `len` values as they were written.
    pub fn get(&self, len: usize) -> &[f32] {
        &self.0[..len]
    }

    /// Values it holds memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Buffers a block works in; they hold nothing between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Normalised, rectified input of a convolution.
    pub activated: Buffer,
    /// Output of a block's first convolution.
    pub hidden: Buffer,
}

/// A residual block, `bn2` folded into `conv1`.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    projection: Option<SparseConv>,
    bn1: Affine,
    conv1: SparseConv,
    conv2: SparseConv,
}

impl ResidualBlock {
    /// Packs a block's weights.
    pub fn new(weights: &Residual) -> Self {
        Self {
            projection: weights.projection.as_ref().map(SparseConv::new),
            bn1: Affine::new(&weights.bn1),
            conv1: SparseConv::with_norm(&weights.conv1, &Affine::new(&weights.bn2)),
            conv2: SparseConv::new(&weights.conv2),
        }
    }

    /// `output = block(input)`, `[sites, inputs]` to `[sites, outputs]`.
    pub fn run(&self, neighbours: &[[u32; 9]], input: &[f32], output: &mut [f32], scratch: &mut Scratch) {
        match &self.projection {
            Some(projection) => projection.run(Gather::Same, input, output, Finish::Store),
            None => output.copy_from_slice(input),
        }
        self.bn1.relu(input, scratch.activated.sized(input.len()));
        self.branch(neighbours, output, scratch);
    }

    /// `x = block(x)` for a block without projection.
    pub fn run_in_place(&self, neighbours: &[[u32; 9]], x: &mut [f32], scratch: &mut Scratch) {
        debug_assert!(self.projection.is_none(), "a projection changes the number of channels");
        self.bn1.relu(x, scratch.activated.sized(x.len()));
        self.branch(neighbours, x, scratch);
    }

    /// Adds the two convolutions of `scratch.activated` to `x`.
    fn branch(&self, neighbours: &[[u32; 9]], x: &mut [f32], scratch: &mut Scratch) {
        let hidden = scratch.hidden.sized(x.len());
        let activated = scratch.activated.sized(neighbours.len() * self.conv1.inputs());
        self.conv1.run(Gather::Nine(neighbours), activated, hidden, Finish::Relu);
        self.conv2.run(Gather::Nine(neighbours), hidden, x, Finish::Add);
    }

    /// Multiply-adds over `sites` sites with `pairs` present neighbours.
    pub fn multiply_adds(&self, sites: u64, pairs: u64) -> u64 {
        let projection = self.projection.as_ref().map_or(0, |projection| projection.multiply_adds(sites));
        projection + self.conv1.multiply_adds(pairs) + self.conv2.multiply_adds(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dense_reference::{Map, Mask, Random, residual};
    use super::super::kernel_map::build_submanifold;
    use super::super::sites::tests::sites_of;
    use super::*;
    use crate::bundle::refiner::{Bound, Features, RefinerSpec};
    use crate::types::Size;

    #[test]
    fn blocks_equal_masked_dense_ones() {
        let planes = vec![7, 3];
        let spec =
            RefinerSpec { classes: 2, planes, blocks: 1, features: Features::Rgb, bound: Bound::Image };
        let mut random = Random::new(5);
        let weights = random.weights(&spec);
        let size = Size::new(21, 13);
        let set: Vec<bool> = (0..size.pixels()).map(|i| i * 7 % 11 < 6).collect();
        let sites = sites_of(size, &set);
        let mask = Mask { height: 13, width: 21, set };
        let mut neighbours = Vec::new();
        build_submanifold(&sites, &mut neighbours);

        let level = &weights.levels[0];
        let project = &level.descent.as_ref().unwrap().post[0];
        for (name, block, inputs) in [("same", &level.pre[0], 7), ("project", project, 14)] {
            let x = random.vector(sites.len() * inputs, -1.0, 1.0);
            let expected = residual(&Map::scatter(&mask, inputs, &x), &mask, block).gather(&mask);
            let packed = ResidualBlock::new(block);
            let mut y = vec![f32::NAN; sites.len() * 7];
            packed.run(&neighbours, &x, &mut y, &mut Scratch::default());
            let worst = y.iter().zip(&expected).map(|(&y, e)| (f64::from(y) - e).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-5, "{name}: {worst}");
            if name == "same" {
                let mut in_place = x.clone();
                packed.run_in_place(&neighbours, &mut in_place, &mut Scratch::default());
                assert_eq!(in_place, y);
            }
        }
    }
}
