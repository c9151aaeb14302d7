//! Submanifold 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3): 16 products where the definition takes 36.
//!
//! For the 2x2 outputs of a tile, the 4x4 inputs `d` around it and a 3x3 kernel `g`:
//! `Y = A^T [ sum over inputs (G g G^T) * (B^T d B) ] A` (Lavin and Gray, arXiv 1509.09308). The transforms add and
//! subtract only, so the error stays that of the definition's sums. Absent pixels are zeros; absent outputs are not
//! written. A result depends on the pixels of its tile's patch alone, whatever the strip or the thread.

use super::isa::{Isa, Kernel, LANES, Lanes, accumulate};
use super::patches::{Patch, SIDE};
use super::rows::{Epilogue, Rows, pack_matrix};
use crate::bundle::refiner::Kernel as Weights;

/// Products of a tile.
const POINTS: usize = SIDE * SIDE;

/// Tiles that pass together: a multiple of the rows of every instruction set, few enough to stay in the first cache.
const BATCH: usize = 12;

/// Transformed weights of one convolution.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    panels: usize,
    blocks: usize,
    /// `[panel][point][block]`, each `[LANES inputs][LANES outputs]`.
    weights: Vec<[Lanes; LANES]>,
}

/// A tile's channels at every point.
type Points = [Lanes; POINTS];

/// Work memory of a thread.
#[derive(Clone, Debug, Default)]
pub(super) struct WinogradScratch {
    /// `[block][tile]`.
    inputs: Vec<Points>,
    products: Vec<Points>,
}

impl Winograd {
    /// Transforms a kernel `[tap][in][out]`, `tap = dr + 3*dc`. `parts` are the channels of each of its sources, `scale`
    /// the factor of an output channel.
    pub(super) fn new(kernel: &Weights, parts: &[usize], scale: impl Fn(usize) -> f32) -> Self {
        let Weights { inputs, outputs, ref values } = *kernel;
        assert_eq!(inputs, parts.iter().sum::<usize>());
        let mut transformed = vec![vec![0.0; inputs * outputs]; POINTS];
        for pair in 0..inputs * outputs {
            let g = |dr: usize, dc: usize| {
                f64::from(values[(dr + 3 * dc) * inputs * outputs + pair] * scale(pair % outputs))
            };
            let column = |dc| filter([g(0, dc), g(1, dc), g(2, dc)]);
            let columns = [column(0), column(1), column(2)];
            for row in 0..SIDE {
                let line = filter(columns.map(|column| column[row]));
                for (col, value) in line.into_iter().enumerate() {
                    transformed[row * SIDE + col][pair] = value as f32;
                }
            }
        }
        let packed: Vec<_> = transformed.iter().map(|matrix| pack_matrix(matrix, parts, outputs)).collect();
        let panels = outputs.div_ceil(LANES);
        let blocks = parts.iter().map(|part| part.div_ceil(LANES)).sum::<usize>();
        let mut weights = Vec::with_capacity(panels * POINTS * blocks);
        for panel in 0..panels {
            for matrix in &packed {
                weights.extend_from_slice(&matrix[panel * blocks..][..blocks]);
            }
        }
        Self { panels, blocks, weights }
    }
}

/// `G g` of three taps.
fn filter(g: [f64; 3]) -> [f64; SIDE] {
    [g[0], (g[0] + g[1] + g[2]) / 2.0, (g[0] - g[1] + g[2]) / 2.0, g[2]]
}

/// One convolution over some tiles.
pub(super) struct Convolve<'a> {
    pub(super) conv: &'a Winograd,
    pub(super) patches: &'a [Patch],
    /// Inputs side by side, in the order of the kernel's parts.
    pub(super) sources: &'a [Rows<'a>],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) scratch: &'a mut WinogradScratch,
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { conv, patches, sources, mut epilogue, scratch } = self;
        let Winograd { panels, blocks, .. } = *conv;
        assert_eq!(sources.iter().map(|source| source.width).sum::<usize>(), blocks);
        scratch.inputs.resize(BATCH * blocks, [Lanes::ZERO; POINTS]);
        scratch.products.resize(BATCH, [Lanes::ZERO; POINTS]);
        let WinogradScratch { inputs, products } = scratch;
        for batch in patches.chunks(BATCH) {
            let mut tiles = inputs.chunks_exact_mut(BATCH);
            for source in sources {
                for part in 0..source.width {
                    let tiles = tiles.next().expect("as many as blocks");
                    for (patch, tile) in batch.iter().zip(tiles) {
                        transform_inputs(isa, patch, source, part, tile);
                    }
                }
            }
            for panel in 0..panels {
                for point in 0..POINTS {
                    let weights = &conv.weights[(panel * POINTS + point) * blocks..][..blocks];
                    for first in (0..batch.len()).step_by(ROWS) {
                        multiply::<I, ROWS>(isa, point, &inputs[first..], weights, &mut products[first..]);
                    }
                }
                for (patch, products) in batch.iter().zip(&*products) {
                    let outputs = transform_products(isa, products);
                    epilogue.finish_tile(isa, outputs, &patch.tile(), panel);
                }
            }
        }
    }
}

/// `B^T d B` of one block of channels.
#[inline(always)]
fn transform_inputs<I: Isa>(isa: I, patch: &Patch, source: &Rows<'_>, part: usize, out: &mut Points) {
    for row in 0..SIDE {
        source.prefetch(isa, patch.first(row), part);
    }
    let mut d = [[&Lanes::ZERO; SIDE]; SIDE];
    if patch.is_full() {
        for (row, d) in d.iter_mut().enumerate() {
            let row = source.run(patch.first(row), SIDE);
            for (column, d) in d.iter_mut().enumerate() {
                *d = &row[column * source.width + part];
            }
        }
    } else {
        for (row, d) in d.iter_mut().enumerate() {
            for (column, d) in d.iter_mut().enumerate() {
                if let Some(site) = patch.id(row, column) {
                    *d = source.at(site, part);
                }
            }
        }
    }
    // Columns first: `columns` becomes the transpose of B^T d.
    let mut columns = [[isa.splat(0.0); SIDE]; SIDE];
    for (column, out) in columns.iter_mut().enumerate() {
        let mut values = [isa.splat(0.0); SIDE];
        for (value, d) in values.iter_mut().zip(&d) {
            *value = isa.load(d[column]);
        }
        *out = spread(isa, values);
    }
    for row in 0..SIDE {
        let values = spread(isa, [columns[0][row], columns[1][row], columns[2][row], columns[3][row]]);
        for (column, value) in values.into_iter().enumerate() {
            isa.store(value, &mut out[row * SIDE + column]);
        }
    }
}

/// `B^T a`. No closures around vectors here and below: what is not inlined is not compiled for the instruction set.
#[inline(always)]
fn spread<I: Isa>(isa: I, a: [I::Vector; SIDE]) -> [I::Vector; SIDE] {
    [isa.sub(a[0], a[2]), isa.add(a[1], a[2]), isa.sub(a[2], a[1]), isa.sub(a[1], a[3])]
}

/// `A^T a`.
#[inline(always)]
fn collect<I: Isa>(isa: I, a: [I::Vector; SIDE]) -> [I::Vector; 2] {
    let (sum, difference) = (isa.add(a[1], a[2]), isa.sub(a[1], a[2]));
    [isa.add(a[0], sum), isa.sub(difference, a[3])]
}

/// Inputs of the first `ROWS` tiles at a point times its weights.
#[inline(always)]
fn multiply<I: Isa, const ROWS: usize>(
    isa: I,
    point: usize,
    inputs: &[Points],
    weights: &[[Lanes; LANES]],
    products: &mut [Points],
) {
    let mut sums = [isa.splat(0.0); ROWS];
    for (block, weights) in weights.iter().enumerate() {
        let inputs: &[Points; ROWS] = inputs[block * BATCH..].first_chunk().expect("whole batches");
        accumulate(isa, &mut sums, &inputs.each_ref().map(|tile| &tile[point]), weights);
    }
    for (sum, products) in sums.into_iter().zip(&mut products[..ROWS]) {
        isa.store(sum, &mut products[point]);
    }
}

/// `A^T m A` of a tile: its four outputs, row by row.
#[inline(always)]
fn transform_products<I: Isa>(isa: I, products: &Points) -> [I::Vector; 4] {
    let mut columns = [[isa.splat(0.0); 2]; SIDE];
    for (column, out) in columns.iter_mut().enumerate() {
        let mut m = [isa.splat(0.0); SIDE];
        for (row, m) in m.iter_mut().enumerate() {
            *m = isa.load(&products[row * SIDE + column]);
        }
        *out = collect(isa, m);
    }
    let top = collect(isa, [columns[0][0], columns[1][0], columns[2][0], columns[3][0]]);
    let bottom = collect(isa, [columns[0][1], columns[1][1], columns[2][1], columns[3][1]]);
    [top[0], top[1], bottom[0], bottom[1]]
}
