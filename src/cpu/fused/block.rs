//! Residual blocks and strided steps with their weights packed.

use super::super::sparse_conv::Affine;
use super::isa::Lanes;
use super::rows::Activation;
use super::strided::Taps;
use super::winograd::Winograd;
use crate::bundle::refiner::{Residual, Strided};

/// `P x + conv2(relu(bn2(conv1(relu(bn1(x))))))`, `bn2` folded into `conv1`.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) projection: Option<Taps>,
    /// `bn1`, for each source of the input.
    pub(super) enter: Vec<Activation>,
    pub(super) conv1: Winograd,
    pub(super) bias: Vec<Lanes>,
    pub(super) conv2: Winograd,
}

impl Block {
    /// `parts` are the channels of each source of the input.
    pub(super) fn new(weights: &Residual, parts: &[usize]) -> Self {
        let (bn1, bn2) = (Affine::new(&weights.bn1), Affine::new(&weights.bn2));
        let (scale, shift) = bn2.coefficients();
        let outputs = weights.conv1.outputs;
        Self {
            projection: weights.projection.as_ref().map(|p| Taps::new(&p.values, parts, outputs)),
            enter: enter(&bn1, parts),
            conv1: Winograd::new(&weights.conv1, parts, |out| scale[out]),
            bias: Lanes::pack(shift),
            conv2: Winograd::new(&weights.conv2, &[outputs], |_| 1.0),
        }
    }
}

fn enter(norm: &Affine, parts: &[usize]) -> Vec<Activation> {
    let mut first = 0;
    let mut next = |&count: &usize| {
        let activation = Activation::new(norm, first, count);
        first += count;
        activation
    };
    parts.iter().map(&mut next).collect()
}

/// A normalisation with ReLU and the strided or transposed convolution after it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) enter: Activation,
    pub(super) conv: Taps,
}

impl Step {
    pub(super) fn new(weights: &Strided) -> Self {
        let (inputs, outputs) = (weights.kernel.inputs, weights.kernel.outputs);
        Self {
            enter: Activation::new(&Affine::new(&weights.bn), 0, inputs),
            conv: Taps::new(&weights.kernel.values, &[inputs], outputs),
        }
    }
}
