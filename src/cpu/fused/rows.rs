//! Vectors of sites in memory, weights as the kernels read them, and what happens to a sum before it is stored.

use super::super::sparse_conv::Affine;
use super::isa::{Isa, LANES, Lanes};

/// How far ahead the sites of a row are asked for: about what a batch of tiles reads of it. On Zen 5, 16 to 40 did the same.
const AHEAD: usize = 24;

/// Features of consecutive sites: site `base + i` has the vectors `data[i * width..][..width]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [Lanes],
    pub(super) base: u32,
    pub(super) width: usize,
}

impl<'a> Rows<'a> {
    /// One vector of a site.
    #[inline(always)]
    pub(super) fn at(&self, site: u32, part: usize) -> &'a Lanes {
        &self.data[(site - self.base) as usize * self.width + part]
    }

    /// All vectors of `count` sites from `site` on.
    #[inline(always)]
    pub(super) fn run(&self, site: u32, count: usize) -> &'a [Lanes] {
        &self.data[(site - self.base) as usize * self.width..][..count * self.width]
    }

    /// Asks for two sites of a row that will be read some tiles after `site`. Rows are read side by side and by fits and
    /// starts: the processor does not see by itself what comes next.
    #[inline(always)]
    pub(super) fn prefetch<I: Isa>(&self, isa: I, site: u32, part: usize) {
        let ahead = (site.wrapping_sub(self.base) as usize + AHEAD) * self.width + part;
        let from = self.data.as_ptr().wrapping_add(ahead);
        isa.prefetch(from);
        isa.prefetch(from.wrapping_add(self.width));
    }
}

/// The same, to be written.
pub(super) struct RowsMut<'a> {
    pub(super) data: &'a mut [Lanes],
    pub(super) base: u32,
    pub(super) width: usize,
}

impl RowsMut<'_> {
    #[inline(always)]
    pub(super) fn at(&mut self, site: u32, part: usize) -> &mut Lanes {
        &mut self.data[(site - self.base) as usize * self.width + part]
    }
}

/// A normalisation with ReLU, channels padded with zeros.
#[derive(Clone, Debug)]
pub(super) struct Activation {
    scale: Vec<Lanes>,
    shift: Vec<Lanes>,
}

impl Activation {
    /// Of the channels `from..from + count` of a normalisation.
    pub(super) fn new(norm: &Affine, from: usize, count: usize) -> Self {
        let (scale, shift) = norm.coefficients();
        Self {
            scale: Lanes::pack(&scale[from..from + count]),
            shift: Lanes::pack(&shift[from..from + count]),
        }
    }

    /// `relu(scale * x + shift)` of one vector.
    #[inline(always)]
    pub(super) fn apply<I: Isa>(&self, isa: I, x: I::Vector, part: usize) -> I::Vector {
        let y = isa.mul_add(isa.load(&self.scale[part]), x, isa.load(&self.shift[part]));
        isa.max(y, isa.splat(0.0))
    }
}

/// What is done with the sums of a layer, in the order of the fields.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    pub(super) bias: Option<&'a [Lanes]>,
    pub(super) residual: Option<Rows<'a>>,
    pub(super) rectify: bool,
    /// Where the result goes.
    pub(super) raw: Option<RowsMut<'a>>,
    /// It is added there.
    pub(super) add: bool,
    /// Where the normalised, rectified result goes.
    pub(super) activated: Option<(&'a Activation, RowsMut<'a>)>,
}

impl Epilogue<'_> {
    #[inline(always)]
    pub(super) fn finish<I: Isa>(&mut self, isa: I, sum: I::Vector, site: u32, part: usize) {
        let mut y = sum;
        if let Some(bias) = self.bias {
            y = isa.add(y, isa.load(&bias[part]));
        }
        if let Some(residual) = &self.residual {
            y = isa.add(y, isa.load(residual.at(site, part)));
        }
        if self.rectify {
            y = isa.max(y, isa.splat(0.0));
        }
        if let Some(raw) = &mut self.raw {
            let raw = raw.at(site, part);
            if self.add {
                y = isa.add(y, isa.load(raw));
            }
            isa.store(y, raw);
        }
        if let Some((activation, rows)) = &mut self.activated {
            isa.store(activation.apply(isa, y, part), rows.at(site, part));
        }
    }
}

/// The sites of a tile's four pixels.
pub(super) type TileSites = [Option<u32>; 4];

impl Epilogue<'_> {
    /// [`Epilogue::finish`] of a tile, step by step for all four: the tests are made once.
    #[inline(always)]
    pub(super) fn finish_tile<I: Isa>(
        &mut self,
        isa: I,
        mut sums: [I::Vector; 4],
        sites: &TileSites,
        part: usize,
    ) {
        if let Some(bias) = self.bias {
            let bias = isa.load(&bias[part]);
            for y in &mut sums {
                *y = isa.add(*y, bias);
            }
        }
        if let Some(residual) = &self.residual {
            for (y, site) in sums.iter_mut().zip(sites) {
                if let Some(site) = site {
                    residual.prefetch(isa, *site, part);
                    *y = isa.add(*y, isa.load(residual.at(*site, part)));
                }
            }
        }
        if self.rectify {
            for y in &mut sums {
                *y = isa.max(*y, isa.splat(0.0));
            }
        }
        if let Some(raw) = &mut self.raw {
            for (y, site) in sums.iter_mut().zip(sites) {
                if let Some(site) = site {
                    let raw = raw.at(*site, part);
                    if self.add {
                        *y = isa.add(*y, isa.load(raw));
                    }
                    isa.store(*y, raw);
                }
            }
        }
        if let Some((activation, rows)) = &mut self.activated {
            for (y, site) in sums.iter().zip(sites) {
                if let Some(site) = site {
                    isa.store(activation.apply(isa, *y, part), rows.at(*site, part));
                }
            }
        }
    }
}

/// A matrix `[inputs][outputs]` as `[panel][block]` of `[LANES inputs][LANES outputs]`, the channels of each source
/// (`parts`) and the outputs filled up with zeros to whole vectors.
pub(super) fn pack_matrix(matrix: &[f32], parts: &[usize], outputs: usize) -> Vec<[Lanes; LANES]> {
    let mut packed = Vec::new();
    for panel in 0..outputs.div_ceil(LANES) {
        let lanes = (outputs - panel * LANES).min(LANES);
        let mut first = 0;
        for &part in parts {
            for block in (0..part).step_by(LANES) {
                let mut weights = [Lanes::ZERO; LANES];
                for (channel, weights) in weights.iter_mut().enumerate().take(part - block) {
                    let row = &matrix[(first + block + channel) * outputs + panel * LANES..][..lanes];
                    weights.0[..lanes].copy_from_slice(row);
                }
                packed.push(weights);
            }
            first += part;
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_padded_source_by_source() {
        let (parts, outputs) = ([3, 17], 18);
        let matrix: Vec<f32> = (0..20 * outputs).map(|i| i as f32 + 1.0).collect();
        let packed = pack_matrix(&matrix, &parts, outputs);
        assert_eq!(packed.len(), 2 * 3);
        let at = |panel: usize, block: usize, channel: usize, lane: usize| {
            packed[panel * 3 + block][channel].0[lane]
        };
        assert_eq!(at(0, 0, 2, 5), matrix[2 * outputs + 5]);
        assert_eq!((at(0, 0, 3, 5), at(0, 2, 1, 0)), (0.0, 0.0));
        assert_eq!(at(0, 1, 0, 7), matrix[3 * outputs + 7]);
        assert_eq!(at(1, 2, 0, 1), matrix[19 * outputs + 17]);
        assert_eq!(at(1, 2, 0, 2), 0.0);
    }
}
