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
    pub fn capacity(&self) -> usize {
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
