//! Gate and fuser: whom to believe at a refined site, METHODS 1.1(6-8).

use rayon::prelude::*;

use super::entropy::softmax_entropy;
use super::math::exp;
use super::sparse_conv::{Finish, SparseConv};
use crate::bundle::refiner::{HIDDEN, Linear, MAX_CLASSES, RefinerWeights};

/// Sites that pass through the layers together, so that what is between them stays in cache.
const TILE: usize = 24;

/// Sites one thread takes at a time.
const CHUNK: usize = 20 * TILE;

/// The two small networks over the logits of a site.
#[derive(Clone, Debug)]
pub struct Gate {
    classes: usize,
    gate: [SparseConv; 2],
    fuser: [SparseConv; 2],
}

impl Gate {
    /// Packs the gate and the fuser of a refiner.
    pub fn new(weights: &RefinerWeights) -> Self {
        Self::from_layers(weights.spec.classes, &weights.gate, &weights.fuser)
    }

    /// Packs a gate and a fuser for `classes` logits.
    pub fn from_layers(classes: usize, gate: &[Linear; 2], fuser: &[Linear; 2]) -> Self {
        assert!((1..=MAX_CLASSES).contains(&classes), "{classes} classes");
        Self {
            classes,
            gate: gate.each_ref().map(SparseConv::linear),
            fuser: fuser.each_ref().map(SparseConv::linear),
        }
    }

    /// Fused logits of the coarse logits `y1` and the refined logits `y2`, all `[sites, classes]`. Where asked for, the
    /// weight of the coarse logits goes to `w1` `[sites]`.
    pub fn fuse(&self, y1: &[f32], y2: &[f32], out: &mut [f32], w1: Option<&mut [f32]>) {
        assert!(y1.len() == out.len() && y2.len() == out.len(), "{}, {}, {}", y1.len(), y2.len(), out.len());
        let chunk = CHUNK * self.classes;
        let rows = out.par_chunks_mut(chunk).zip(y1.par_chunks(chunk)).zip(y2.par_chunks(chunk));
        match w1 {
            Some(w1) => {
                assert_eq!(w1.len() * self.classes, y1.len(), "one weight per site");
                let rows = rows.zip(w1.par_chunks_mut(CHUNK));
                rows.for_each(|(((out, y1), y2), w1)| self.chunk(y1, y2, out, w1));
            }
            None => rows.for_each(|((out, y1), y2)| self.chunk(y1, y2, out, &mut [0.0; CHUNK])),
        }
    }

    fn chunk(&self, y1: &[f32], y2: &[f32], out: &mut [f32], w1: &mut [f32]) {
        let tile = TILE * self.classes;
        let mut scratch = TileScratch::new();
        let rows = out.chunks_mut(tile).zip(y1.chunks(tile)).zip(y2.chunks(tile));
        for (((out, y1), y2), w1) in rows.zip(w1.chunks_mut(TILE)) {
            self.tile(y1, y2, out, w1, &mut scratch);
        }
    }

    fn tile(&self, y1: &[f32], y2: &[f32], out: &mut [f32], w1: &mut [f32], scratch: &mut TileScratch) {
        let classes = self.classes;
        let sites = out.len() / classes;
        let beliefs = &mut scratch.beliefs[..sites * (2 * classes + 2)];
        let hidden = &mut scratch.hidden[..sites * HIDDEN];
        let votes = &mut scratch.votes[..sites * 2];
        let mixed = &mut scratch.mixed[..sites * classes];

        let logits = || y1.chunks_exact(classes).zip(y2.chunks_exact(classes));
        for (g, (y1, y2)) in beliefs.chunks_exact_mut(2 * classes + 2).zip(logits()) {
            let (coarse, refined) = g.split_at_mut(classes + 1);
            coarse[classes] = softmax_entropy(y1, &mut coarse[..classes]);
            refined[classes] = softmax_entropy(y2, &mut refined[..classes]);
        }
        self.gate[0].rows(beliefs, hidden, Finish::Relu);
        self.gate[1].rows(hidden, votes, Finish::Store);
        let rows = mixed.chunks_exact_mut(classes).zip(logits());
        for (((mixed, (y1, y2)), votes), weight) in rows.zip(votes.chunks_exact(2)).zip(w1) {
            let (w1, w2) = softmax_of_two(votes[0], votes[1]);
            for ((y, y1), y2) in mixed.iter_mut().zip(y1).zip(y2) {
                *y = w1 * y1 + w2 * y2;
            }
            *weight = w1;
        }
        self.fuser[0].rows(mixed, hidden, Finish::Relu);
        self.fuser[1].rows(hidden, out, Finish::Store);
    }

    /// Multiply-adds of the layers over `sites` sites.
    pub fn multiply_adds(&self, sites: u64) -> u64 {
        self.gate.iter().chain(&self.fuser).map(|layer| layer.multiply_adds(sites)).sum()
    }
}

/// What lies between the layers, on the stack: 24 sites of up to 255 classes are 81 kB.
struct TileScratch {
    beliefs: [f32; TILE * (2 * MAX_CLASSES + 2)],
    hidden: [f32; TILE * HIDDEN],
    votes: [f32; TILE * 2],
    mixed: [f32; TILE * MAX_CLASSES],
}

impl TileScratch {
    fn new() -> Self {
        Self {
            beliefs: [0.0; TILE * (2 * MAX_CLASSES + 2)],
            hidden: [0.0; TILE * HIDDEN],
            votes: [0.0; TILE * 2],
            mixed: [0.0; TILE * MAX_CLASSES],
        }
    }
}

fn softmax_of_two(a: f32, b: f32) -> (f32, f32) {
    let smaller = exp(-(a - b).abs());
    let (large, small) = (1.0 / (1.0 + smaller), smaller / (1.0 + smaller));
    if a >= b { (large, small) } else { (small, large) }
}
