//! Gate and fuser at sixteen sites side by side: [`super::super::gate`] is the reference.
//!
//! Where cells stand for several pixels, what the gate makes of the coarse logits is computed once a cell.

use super::super::select::Selection;
use super::super::sites::{ABSENT, Pixel, SiteSet};
use super::super::split::{Split, split};
use super::beliefs::{Coarse, softmax_entropy};
use super::isa::{InstructionSet, Isa, Kernel, LANES, Lanes, dispatch};
use super::network::RefinedLogits;
use crate::bundle::manifest::Upsample;
use crate::bundle::refiner::{HIDDEN, Linear, MAX_CLASSES, RefinerWeights};

/// Weights of the gate and the fuser.
#[derive(Clone, Debug)]
pub(crate) struct FusedGate {
    set: InstructionSet,
    classes: usize,
    /// First layer of the gate over the coarse beliefs, with its bias; over the refined ones.
    coarse: Broadcast,
    refined: Broadcast,
    /// Difference of the second layer's two outputs.
    votes: [f32; HIDDEN],
    votes_bias: f32,
    into: Broadcast,
    out: Broadcast,
}

/// A layer over sites side by side: its weights are broadcast, those of one input next to each other.
#[derive(Clone, Debug)]
struct Broadcast {
    /// `[in][out]`, the outputs filled up with zeros to whole vectors.
    weights: Vec<f32>,
    outputs: usize,
    bias: Vec<f32>,
}

impl Broadcast {
    /// The inputs `first..first + count` of a layer.
    fn new(layer: &Linear, first: usize, count: usize) -> Self {
        let outputs = layer.outputs.next_multiple_of(LANES);
        let mut weights = vec![0.0; count * outputs];
        for (out, row) in layer.weight.chunks_exact(layer.inputs).enumerate() {
            for (input, &weight) in row[first..first + count].iter().enumerate() {
                weights[input * outputs + out] = weight;
            }
        }
        let mut bias = layer.bias.clone();
        bias.resize(outputs, 0.0);
        Self { weights, outputs, bias }
    }

    /// The biases of `ROWS` outputs from `first` on.
    #[inline(always)]
    fn biases<I: Isa, const ROWS: usize>(&self, isa: I, first: usize) -> [I::Vector; ROWS] {
        let mut sums = [isa.splat(0.0); ROWS];
        for (sum, &bias) in sums.iter_mut().zip(&self.bias[first..first + ROWS]) {
            *sum = isa.splat(bias);
        }
        sums
    }

    /// Adds `ROWS` outputs from `first` on over `inputs`, one vector of sixteen sites per input.
    #[inline(always)]
    fn add<I: Isa, const ROWS: usize>(
        &self,
        isa: I,
        first: usize,
        inputs: &[Lanes],
        sums: &mut [I::Vector; ROWS],
    ) {
        for (input, weights) in inputs.iter().zip(self.weights.chunks_exact(self.outputs)) {
            let input = isa.load(input);
            let weights: &[f32; ROWS] = weights[first..].first_chunk().expect("outputs are padded");
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = isa.mul_add(isa.splat(weight), input, *sum);
            }
        }
    }
}

/// Pixels of a cell from which it pays to batch by cell: the coarse part, two fifths of the work, is done once for all,
/// but lanes beyond the cell's pixels are idle.
const FULL_CELL: u32 = 12;

/// What passes between the layers, for sixteen sites.
struct Work {
    refined: [Lanes; MAX_CLASSES + 1],
    beliefs: [Lanes; MAX_CLASSES + 1],
    mixed: [Lanes; MAX_CLASSES + 1],
    hidden: [Lanes; HIDDEN],
    fused: [Lanes; MAX_CLASSES + 1],
}

impl Work {
    fn new() -> Self {
        let zero = [Lanes::ZERO; MAX_CLASSES + 1];
        Self { refined: zero, beliefs: zero, mixed: zero, hidden: [Lanes::ZERO; HIDDEN], fused: zero }
    }
}

/// What the coarse logits of sixteen cells, or of sixteen pixels, give.
struct CoarsePart {
    logits: [Lanes; MAX_CLASSES],
    /// Sums of the gate's first layer so far.
    hidden: [Lanes; HIDDEN],
}

impl CoarsePart {
    fn new() -> Self {
        Self { logits: [Lanes::ZERO; MAX_CLASSES], hidden: [Lanes::ZERO; HIDDEN] }
    }
}

/// Where the coarse part of sixteen sites is.
trait Start {
    fn hidden<I: Isa>(&self, isa: I, index: usize) -> I::Vector;
    fn logit<I: Isa>(&self, isa: I, class: usize) -> I::Vector;
}

/// All sixteen are pixels of one cell.
struct OneCell<'a>(&'a CoarsePart, usize);

impl Start for OneCell<'_> {
    #[inline(always)]
    fn hidden<I: Isa>(&self, isa: I, index: usize) -> I::Vector {
        isa.splat(self.0.hidden[index].0[self.1])
    }
    #[inline(always)]
    fn logit<I: Isa>(&self, isa: I, class: usize) -> I::Vector {
        isa.splat(self.0.logits[class].0[self.1])
    }
}

/// Each has its own.
struct OwnPixels<'a>(&'a CoarsePart);

impl Start for OwnPixels<'_> {
    #[inline(always)]
    fn hidden<I: Isa>(&self, isa: I, index: usize) -> I::Vector {
        isa.load(&self.0.hidden[index])
    }
    #[inline(always)]
    fn logit<I: Isa>(&self, isa: I, class: usize) -> I::Vector {
        isa.load(&self.0.logits[class])
    }
}

/// Where a fused result goes.
pub(crate) struct Scene<'a> {
    pub(crate) coarse: Coarse<'a>,
    pub(crate) selection: &'a Selection,
    pub(crate) sites: &'a SiteSet,
    /// Refined logits of every site.
    pub(crate) refined: &'a RefinedLogits,
    /// Label of each channel.
    pub(crate) label_of_channel: &'a [u8],
}

impl FusedGate {
    /// Packs the gate and the fuser of a refiner.
    pub(crate) fn new(weights: &RefinerWeights, set: InstructionSet) -> Self {
        let classes = weights.spec.classes;
        let [first, second] = &weights.gate;
        let [into, out] = &weights.fuser;
        let mut refined = Broadcast::new(first, classes + 1, classes + 1);
        refined.bias.fill(0.0);
        Self {
            set,
            classes,
            coarse: Broadcast::new(first, 0, classes + 1),
            refined,
            votes: std::array::from_fn(|hidden| second.weight[hidden] - second.weight[HIDDEN + hidden]),
            votes_bias: second.bias[0] - second.bias[1],
            into: Broadcast::new(into, 0, classes),
            out: Broadcast::new(out, 0, HIDDEN),
        }
    }

    /// Writes the fused labels of all sites over the base labels `[camera rows, camera columns]`.
    pub(crate) fn label(&self, scene: &Scene<'_>, labels: &mut [u8]) {
        let starts = scene.selection.row_starts();
        let width = scene.coarse.geometry.camera.width as usize;
        split(Split { starts, width, smallest: 4 }, labels, &|first, starts, labels| {
            for (index, rows) in starts.windows(2).enumerate() {
                let labels = &mut labels[(rows[0] - starts[0]) as usize * width..]
                    [..(rows[1] - rows[0]) as usize * width];
                let row = (first + index) as u32;
                dispatch(self.set, LabelRow { gate: self, scene, row, pixels: (rows[0], rows[1]), labels });
            }
        });
    }

    /// The gate's first layer over coarse logits.
    #[inline(always)]
    fn coarse_part<I: Isa, const ROWS: usize>(&self, isa: I, part: &mut CoarsePart, work: &mut Work) {
        let beliefs = &mut work.beliefs[..self.classes + 1];
        softmax_entropy(isa, &part.logits[..self.classes], beliefs);
        for first in (0..HIDDEN).step_by(ROWS) {
            let mut sums = self.coarse.biases::<I, ROWS>(isa, first);
            self.coarse.add(isa, first, beliefs, &mut sums);
            for (sum, hidden) in sums.into_iter().zip(&mut part.hidden[first..]) {
                isa.store(sum, hidden);
            }
        }
    }

    /// Fused logits of sixteen sites into `work.fused`, from `work.refined` and the coarse part.
    #[inline(always)]
    fn fuse<I: Isa, const ROWS: usize>(&self, isa: I, work: &mut Work, start: &impl Start) {
        let zero = isa.splat(0.0);
        let Work { refined, beliefs, mixed, hidden, fused } = work;
        let (classes, beliefs) = (self.classes, &mut beliefs[..self.classes + 1]);
        softmax_entropy(isa, &refined[..classes], beliefs);
        let mut votes = [isa.splat(0.0); 4];
        votes[0] = isa.splat(self.votes_bias);
        for first in (0..HIDDEN).step_by(ROWS) {
            let mut sums = [zero; ROWS];
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = start.hidden(isa, first + row);
            }
            self.refined.add(isa, first, beliefs, &mut sums);
            for (row, sum) in sums.into_iter().enumerate() {
                let weight = isa.splat(self.votes[first + row]);
                votes[row % 4] = isa.mul_add(isa.max(sum, zero), weight, votes[row % 4]);
            }
        }
        // The softmax of two votes, without overflow.
        let difference = isa.add(isa.add(votes[0], votes[1]), isa.add(votes[2], votes[3]));
        let negative = isa.sub(zero, difference);
        let one = isa.splat(1.0);
        let smaller = isa.exp(isa.sub(zero, isa.max(difference, negative)));
        let sum = isa.add(one, smaller);
        let (large, small) = (isa.div(one, sum), isa.div(smaller, sum));
        let w1 = isa.pick(negative, zero, small, large);
        let w2 = isa.pick(negative, zero, large, small);
        for (class, (mixed, refined)) in mixed.iter_mut().zip(refined.iter()).enumerate().take(classes) {
            let product = isa.mul_add(w2, isa.load(refined), zero);
            isa.store(isa.mul_add(w1, start.logit(isa, class), product), mixed);
        }
        for first in (0..HIDDEN).step_by(ROWS) {
            let mut sums = self.into.biases::<I, ROWS>(isa, first);
            self.into.add(isa, first, &mixed[..classes], &mut sums);
            for (sum, hidden) in sums.into_iter().zip(&mut hidden[first..]) {
                isa.store(isa.max(sum, zero), hidden);
            }
        }
        for first in (0..classes).step_by(ROWS) {
            let mut sums = self.out.biases::<I, ROWS>(isa, first);
            self.out.add(isa, first, hidden, &mut sums);
            for (sum, fused) in sums.into_iter().zip(&mut fused[first..]) {
                isa.store(sum, fused);
            }
        }
    }

    /// Best channel of each of the sixteen in `work.fused`, the lowest where several are equal.
    #[inline(always)]
    fn best<I: Isa>(&self, isa: I, work: &Work) -> [f32; LANES] {
        let mut top = isa.load(&work.fused[0]);
        let mut best = isa.splat(0.0);
        for (class, fused) in work.fused[..self.classes].iter().enumerate().skip(1) {
            let value = isa.load(fused);
            best = isa.pick(value, top, isa.splat(class as f32), best);
            top = isa.pick(value, top, value, top);
        }
        let mut lanes = Lanes::ZERO;
        isa.store(best, &mut lanes);
        lanes.0
    }

    /// Transposes the refined logits of up to sixteen sites into `work.refined`.
    #[inline(always)]
    fn gather<I: Isa>(&self, isa: I, refined: &[Lanes], sites: &[u32; LANES], work: &mut Work) {
        let width = self.classes.div_ceil(LANES);
        for part in 0..width {
            let mut rows = [&Lanes::ZERO; LANES];
            for (row, &site) in rows.iter_mut().zip(sites) {
                *row = &refined[site as usize * width + part];
            }
            let (columns, _) = work.refined[part * LANES..].as_chunks_mut::<LANES>();
            isa.transpose(rows, &mut columns[0]);
        }
    }
}

/// One row of the selection's lattice.
struct LabelRow<'a> {
    gate: &'a FusedGate,
    scene: &'a Scene<'a>,
    row: u32,
    /// First camera row and the one after the last.
    pixels: (u32, u32),
    labels: &'a mut [u8],
}

impl Kernel for LabelRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        // These divide the hidden channels and the padded classes.
        match ROWS {
            12.. => self.run_rows::<I, 16>(isa),
            4.. => self.run_rows::<I, 4>(isa),
            _ => self.run_rows::<I, 2>(isa),
        }
    }
}

impl LabelRow<'_> {
    #[inline(always)]
    fn run_rows<I: Isa, const ROWS: usize>(self, isa: I) {
        let Coarse { geometry, upsample, .. } = self.scene.coarse;
        let pixels_of_cell = (self.pixels.1 - self.pixels.0) * geometry.canvas.width / geometry.grid.width;
        match upsample {
            Upsample::Nearest if pixels_of_cell >= FULL_CELL => self.cells::<I, ROWS>(isa),
            Upsample::Nearest | Upsample::Bilinear => self.sites::<I, ROWS>(isa),
        }
    }

    /// A row of cells: all pixels of a cell share its coarse logits.
    #[inline(always)]
    fn cells<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { gate, scene, row, pixels: (top, bottom), labels } = self;
        let Scene { coarse, selection, sites, refined, label_of_channel } = scene;
        let (grid, pitch) = (coarse.geometry.grid.width as usize, coarse.geometry.camera.width);
        let kept = &selection.kept()[row as usize * grid..][..grid];
        let columns = selection.column_starts();
        let (mut part, mut work) = (CoarsePart::new(), Work::new());
        for (group, cells) in kept.chunks(LANES).enumerate() {
            if !cells.contains(&true) {
                continue;
            }
            coarse.cells(row, group, &mut part.logits[..gate.classes]);
            gate.coarse_part::<I, ROWS>(isa, &mut part, &mut work);
            for (lane, _) in cells.iter().enumerate().filter(|(_, kept)| **kept) {
                let (left, right) = (columns[group * LANES + lane], columns[group * LANES + lane + 1]);
                let mut batch = Batch::default();
                for pixel_row in top..bottom {
                    let first = sites.id(pixel_row as i32, left as i32);
                    for column in left..right {
                        let at = (pixel_row - top) * pitch + column;
                        if batch.push(first + (column - left), at) {
                            gate.gather(isa, &refined.0, &batch.sites, &mut work);
                            gate.fuse::<I, ROWS>(isa, &mut work, &OneCell(&part, lane));
                            batch.write(gate.best(isa, &work), label_of_channel, labels);
                        }
                    }
                }
                if batch.count > 0 {
                    gate.gather(isa, &refined.0, &batch.filled(), &mut work);
                    gate.fuse::<I, ROWS>(isa, &mut work, &OneCell(&part, lane));
                    batch.write(gate.best(isa, &work), label_of_channel, labels);
                }
            }
        }
    }

    /// A row of the lattice whose pixels each have coarse logits of their own, or are too few in a cell to fill the lanes.
    #[inline(always)]
    fn sites<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { gate, scene, pixels: (top, bottom), labels, .. } = self;
        let Scene { coarse, sites, refined, label_of_channel, .. } = scene;
        let pitch = coarse.geometry.camera.width;
        let first = sites.before_row(top);
        let row = &sites.pixels()[first as usize..sites.before_row(bottom) as usize];
        let (mut part, mut work) = (CoarsePart::new(), Work::new());
        for (index, pixels) in row.chunks(LANES).enumerate() {
            coarse.pixels(pixels, &mut part.logits[..gate.classes]);
            gate.coarse_part::<I, ROWS>(isa, &mut part, &mut work);
            let mut batch = Batch::default();
            for (lane, &Pixel { row, col }) in pixels.iter().enumerate() {
                let at = (u32::from(row) - top) * pitch + u32::from(col);
                batch.push(first + (index * LANES + lane) as u32, at);
            }
            gate.gather(isa, &refined.0, &batch.filled(), &mut work);
            gate.fuse::<I, ROWS>(isa, &mut work, &OwnPixels(&part));
            batch.write(gate.best(isa, &work), label_of_channel, labels);
        }
    }
}

/// Up to sixteen sites and where their labels go.
struct Batch {
    sites: [u32; LANES],
    labels: [u32; LANES],
    count: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { sites: [0; LANES], labels: [0; LANES], count: 0 }
    }
}

impl Batch {
    /// Takes a site; answers whether the batch is full.
    #[inline(always)]
    fn push(&mut self, site: u32, label: u32) -> bool {
        debug_assert_ne!(site, ABSENT);
        self.sites[self.count] = site;
        self.labels[self.count] = label;
        self.count += 1;
        self.count == LANES
    }

    /// The sites, the last one repeated in what is left.
    #[inline(always)]
    fn filled(&self) -> [u32; LANES] {
        std::array::from_fn(|lane| self.sites[lane.min(self.count - 1)])
    }

    #[inline(always)]
    fn write(&mut self, best: [f32; LANES], label_of_channel: &[u8], labels: &mut [u8]) {
        for (&at, best) in self.labels.iter().zip(best).take(self.count) {
            labels[at as usize] = label_of_channel[best as usize];
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dense_reference::Random;
    use super::super::super::entropy::argmax;
    use super::super::super::evaluate::{Logits, gather_logits};
    use super::super::super::gate::Gate;
    use super::*;
    use crate::bundle::refiner::{Bound, Features, RefinerSpec};
    use crate::plan::Geometry;
    use crate::types::Size;

    #[test]
    fn labels_are_those_of_the_reference_gate() {
        let mut memory = Vec::new();
        for (classes, camera, grid) in [
            (13, Size::new(160, 90), Size::new(40, 24)),
            (13, Size::new(101, 57), Size::new(50, 29)),
            (2, Size::new(70, 50), Size::new(70, 50)),
            (19, Size::new(200, 61), Size::new(33, 20)),
            (40, Size::new(37, 29), Size::new(9, 7)),
        ] {
            let planes = vec![4];
            let spec =
                RefinerSpec { classes, planes, blocks: 1, features: Features::Rgb, bound: Bound::Image };
            let mut random = Random::new(classes as u64);
            let weights = random.weights(&spec);
            let data = random.vector(classes * grid.pixels(), -3.0, 3.0);
            let geometry = Geometry::pad(camera, grid);
            for upsample in [Upsample::Nearest, Upsample::Bilinear] {
                let logits = Logits::new(&data, grid, classes);
                let mut selection = Selection::default();
                selection.select(&logits, &geometry, upsample, 0.4, camera.pixels() as u32 / 2);
                let mut sites = SiteSet::default();
                sites.rebuild_from_words(geometry.canvas, |words, pitch| selection.write_mask(words, pitch));
                assert!(!sites.is_empty());

                let y2 = random.vector(sites.len() * classes, -3.0, 3.0);
                let mut y1 = vec![0.0; y2.len()];
                gather_logits(&logits, &geometry, upsample, sites.pixels(), &mut y1);
                let mut expected = vec![0.0; y2.len()];
                Gate::new(&weights).fuse(&y1, &y2, &mut expected, None);

                memory.clear();
                memory.extend(y2.chunks(classes).flat_map(Lanes::pack));
                let refined = RefinedLogits(std::mem::take(&mut memory));
                let label_of_channel: Vec<u8> = (0..classes as u8).map(|channel| 200 - channel).collect();
                for set in InstructionSet::available() {
                    let mut labels = vec![7; camera.pixels()];
                    let scene = Scene {
                        coarse: Coarse { logits, geometry: &geometry, upsample },
                        selection: &selection,
                        sites: &sites,
                        refined: &refined,
                        label_of_channel: &label_of_channel,
                    };
                    FusedGate::new(&weights, set).label(&scene, &mut labels);
                    let mut ties = 0;
                    for (pixel, fused) in sites.pixels().iter().zip(expected.chunks(classes)) {
                        let at = usize::from(pixel.row) * camera.width as usize + usize::from(pixel.col);
                        let found = 200 - usize::from(std::mem::replace(&mut labels[at], 7));
                        let best = argmax(fused);
                        assert!(
                            fused[best] - fused[found] < 1e-4,
                            "{classes} classes, {pixel:?}, {}",
                            set.name()
                        );
                        ties += usize::from(found != best);
                    }
                    assert!(labels.iter().all(|&label| label == 7), "only sites are labelled");
                    assert!(ties * 100 <= sites.len(), "{ties} ties of {}", sites.len());
                }
                memory = refined.0;
            }
        }
    }
}
