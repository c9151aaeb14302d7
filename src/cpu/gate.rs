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

#[cfg(test)]
mod tests {
    use super::super::dense_reference::Random;
    use super::*;

    fn linear(random: &mut Random, inputs: usize, outputs: usize) -> Linear {
        let bound = (3.0 / inputs as f32).sqrt();
        let weight = random.vector(inputs * outputs, -bound, bound);
        Linear { inputs, outputs, weight, bias: random.vector(outputs, -0.3, 0.3) }
    }

    fn layers(random: &mut Random, classes: usize) -> ([Linear; 2], [Linear; 2]) {
        let gate = [linear(random, 2 * classes + 2, HIDDEN), linear(random, HIDDEN, 2)];
        (gate, [linear(random, classes, HIDDEN), linear(random, HIDDEN, classes)])
    }

    /// A layer in f64, from the definition.
    fn apply(layer: &Linear, x: &[f64]) -> Vec<f64> {
        let rows = layer.weight.chunks(layer.inputs).zip(&layer.bias);
        rows.map(|(row, &b)| f64::from(b) + row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>())
            .collect()
    }

    fn softmax(x: &[f64]) -> Vec<f64> {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect()
    }

    fn network(layers: &[Linear; 2], x: &[f64]) -> Vec<f64> {
        let hidden: Vec<f64> = apply(&layers[0], x).iter().map(|x| x.max(0.0)).collect();
        apply(&layers[1], &hidden)
    }

    /// METHODS 1.1(6-8) for one site: fused logits and w1.
    fn reference(gate: &[Linear; 2], fuser: &[Linear; 2], y1: &[f32], y2: &[f32]) -> (Vec<f64>, f64) {
        let [y1, y2] = [y1, y2].map(|y| y.iter().map(|&y| f64::from(y)).collect::<Vec<_>>());
        let mut g = Vec::new();
        for y in [&y1, &y2] {
            let p = softmax(y);
            g.extend(&p);
            g.push(-p.iter().map(|p| p * p.max(1e-5).ln()).sum::<f64>());
        }
        let w = softmax(&network(gate, &g));
        let mixed: Vec<f64> = y1.iter().zip(&y2).map(|(y1, y2)| w[0] * y1 + w[1] * y2).collect();
        (network(fuser, &mixed), w[0])
    }

    #[test]
    fn fuse_follows_the_formula_for_any_number_of_sites_and_classes() {
        let mut random = Random::new(1);
        for (classes, sites) in [(19, 1000), (2, 25), (1, 3), (255, 49), (13, 0)] {
            let (gate, fuser) = layers(&mut random, classes);
            let y1 = random.vector(sites * classes, -4.0, 4.0);
            let y2 = random.vector(sites * classes, -4.0, 4.0);
            let (mut out, mut w1) = (vec![f32::NAN; y1.len()], vec![f32::NAN; sites]);
            let layers = Gate::from_layers(classes, &gate, &fuser);
            layers.fuse(&y1, &y2, &mut out, Some(&mut w1));
            for (site, w1) in w1.iter().enumerate() {
                let row = site * classes..(site + 1) * classes;
                let (expected, weight) = reference(&gate, &fuser, &y1[row.clone()], &y2[row.clone()]);
                assert!((f64::from(*w1) - weight).abs() < 1e-5, "site {site} of {classes} classes");
                for (found, expected) in out[row].iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "site {site} of {classes} classes");
                }
            }
            let mut without = vec![0.0; y1.len()];
            layers.fuse(&y1, &y2, &mut without, None);
            assert_eq!(without, out, "the weights are a by-product");
        }
    }

    /// A gate that votes for the coarse logits by `votes . [p1, e1, p2, e2]`, and a fuser that changes nothing.
    fn voting(votes: [f32; 6]) -> Gate {
        let mut first =
            Linear { inputs: 6, outputs: HIDDEN, weight: vec![0.0; 6 * HIDDEN], bias: vec![0.0; HIDDEN] };
        first.weight[..6].copy_from_slice(&votes);
        let mut second =
            Linear { inputs: HIDDEN, outputs: 2, weight: vec![0.0; 2 * HIDDEN], bias: vec![0.0; 2] };
        second.weight[0] = 1.0;
        // y + 100, rectified, less 100.
        let mut into =
            Linear { inputs: 2, outputs: HIDDEN, weight: vec![0.0; 2 * HIDDEN], bias: vec![100.0; HIDDEN] };
        into.weight[0] = 1.0;
        into.weight[3] = 1.0;
        let mut back =
            Linear { inputs: HIDDEN, outputs: 2, weight: vec![0.0; 2 * HIDDEN], bias: vec![-100.0; 2] };
        back.weight[0] = 1.0;
        back.weight[HIDDEN + 1] = 1.0;
        Gate::from_layers(2, &[first, second], &[into, back])
    }

    #[test]
    fn the_gate_sees_coarse_probabilities_and_entropy_before_the_refined_ones() {
        let (y1, y2) = ([2.0f32, 0.0], [-1.0f32, 0.0]);
        let mut p = [0.0; 2];
        let e1 = softmax_entropy(&y1, &mut p);
        let first = p;
        let e2 = softmax_entropy(&y2, &mut p);
        for (slot, value) in [first[0], first[1], e1, p[0], p[1], e2].into_iter().enumerate() {
            let mut votes = [0.0; 6];
            votes[slot] = 3.0;
            let (mut out, mut w1) = ([0.0; 2], [0.0; 1]);
            voting(votes).fuse(&y1, &y2, &mut out, Some(&mut w1));
            let expected = 1.0 / (1.0 + (-3.0 * value).exp());
            assert!((w1[0] - expected).abs() < 1e-6, "slot {slot}: {} {expected}", w1[0]);
            let mixed = expected * y1[0] + (1.0 - expected) * y2[0];
            assert!(
                (out[0] - mixed).abs() < 2e-5 && out[1].abs() < 2e-5,
                "logits are mixed, then fused: {out:?}"
            );
        }
    }

    #[test]
    fn softmax_of_two_is_a_sigmoid_and_does_not_overflow() {
        for (a, b) in [(0.0, 0.0), (1.0, -2.0), (-3.0, 4.0), (1e4, -1e4), (-1e4, 1e4)] {
            let (w1, w2) = softmax_of_two(a, b);
            let exact = 1.0 / (1.0 + f64::from(b - a).exp());
            assert!(
                (f64::from(w1) - exact).abs() < 1e-6 && (w1 + w2 - 1.0).abs() < 1e-6,
                "{a} {b}: {w1} {w2}"
            );
        }
    }

    #[test]
    fn thread_count_does_not_change_a_byte() {
        let mut random = Random::new(3);
        let (gate, fuser) = layers(&mut random, 19);
        let layers = Gate::from_layers(19, &gate, &fuser);
        let (y1, y2) = (random.vector(19 * 3000, -4.0, 4.0), random.vector(19 * 3000, -4.0, 4.0));
        let [one, two] = [1, 2].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; y1.len()];
            pool.install(|| layers.fuse(&y1, &y2, &mut out, None));
            out.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        });
        assert!(one == two);
    }

    #[test]
    fn multiply_adds_of_the_released_gate_are_its_weights() {
        let (gate, fuser) = layers(&mut Random::new(1), 19);
        assert_eq!(
            Gate::from_layers(19, &gate, &fuser).multiply_adds(10),
            10 * (40 * 64 + 64 * 2 + 2 * 19 * 64)
        );
    }
}
