//! Layers that are not worth Winograd's transforms: 1x1, strided and transposed convolutions, tap by tap.

use super::super::sites::{ABSENT, Pixel, SiteSet};
use super::isa::{Isa, Kernel, LANES, Lanes, accumulate};
use super::patches::Patch;
use super::rows::{Epilogue, Rows, pack_matrix};

/// Packed weights of a layer.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    panels: usize,
    blocks: usize,
    taps: usize,
    /// `[panel][tap][block]`, each `[LANES inputs][LANES outputs]`.
    weights: Vec<[Lanes; LANES]>,
}

impl Taps {
    /// Packs `[tap][in][out]`; `parts` are the channels of each source.
    pub(super) fn new(values: &[f32], parts: &[usize], outputs: usize) -> Self {
        let matrix = parts.iter().sum::<usize>() * outputs;
        let packed: Vec<_> = values.chunks_exact(matrix).map(|m| pack_matrix(m, parts, outputs)).collect();
        let panels = outputs.div_ceil(LANES);
        let blocks = parts.iter().map(|part| part.div_ceil(LANES)).sum::<usize>();
        let panel = |panel: usize| packed.iter().flat_map(move |m| &m[panel * blocks..][..blocks]).copied();
        let weights = (0..panels).flat_map(panel).collect();
        Self { panels, blocks, taps: packed.len(), weights }
    }

    #[inline(always)]
    fn of(&self, panel: usize, tap: usize) -> &[[Lanes; LANES]] {
        &self.weights[(panel * self.taps + tap) * self.blocks..][..self.blocks]
    }
}

/// Adds the products of `ROWS` sites of `source` with one tap's weights; a site that is [`ABSENT`] is a row of zeros.
#[inline(always)]
fn add_tap<I: Isa, const ROWS: usize>(
    isa: I,
    sums: &mut [I::Vector; ROWS],
    source: &Rows<'_>,
    sites: &[u32; ROWS],
    weights: &[[Lanes; LANES]],
) {
    if sites.iter().all(|&site| site == ABSENT) {
        return;
    }
    for (part, weights) in weights.iter().enumerate() {
        let mut rows = [&Lanes::ZERO; ROWS];
        for (row, &site) in rows.iter_mut().zip(sites) {
            if site != ABSENT {
                *row = source.at(site, part);
            }
        }
        accumulate(isa, sums, &rows, weights);
    }
}

/// A 1x1 layer over `count` sites from `first` on.
pub(super) struct Pointwise<'a> {
    pub(super) layer: &'a Taps,
    pub(super) first: u32,
    pub(super) count: usize,
    pub(super) sources: &'a [Rows<'a>],
    pub(super) epilogue: Epilogue<'a>,
}

impl Kernel for Pointwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { layer, first, count, sources, mut epilogue } = self;
        let end = first + count as u32;
        for start in (first..end).step_by(ROWS) {
            let mut sites = [end - 1; ROWS];
            for (site, index) in sites.iter_mut().zip(start..end) {
                *site = index;
            }
            for panel in 0..layer.panels {
                let mut weights = layer.of(panel, 0);
                let mut sums = [isa.splat(0.0); ROWS];
                for source in sources {
                    let (own, rest) = weights.split_at(source.width);
                    add_tap(isa, &mut sums, source, &sites, own);
                    weights = rest;
                }
                for (sum, site) in sums.into_iter().zip(start..end) {
                    epilogue.finish(isa, sum, site, panel);
                }
            }
        }
    }
}

/// A strided convolution onto the coarse sites `pixels`, the first of which has the index `first`.
pub(super) struct Down<'a> {
    pub(super) layer: &'a Taps,
    pub(super) first: u32,
    pub(super) pixels: &'a [Pixel],
    pub(super) fine: &'a SiteSet,
    pub(super) source: Rows<'a>,
    pub(super) epilogue: Epilogue<'a>,
}

impl Kernel for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { layer, first, pixels, fine, source, mut epilogue } = self;
        for (start, pixels) in (first..).step_by(ROWS).zip(pixels.chunks(ROWS)) {
            let mut sites = [[ABSENT; ROWS]; 9];
            for (row, pixel) in pixels.iter().enumerate() {
                for dr in 0..3 {
                    let (r, c) = (2 * i32::from(pixel.row) + dr, 2 * i32::from(pixel.col));
                    for (dc, site) in fine.three_ids(r, c).into_iter().enumerate() {
                        sites[dr as usize + 3 * dc][row] = site;
                    }
                }
            }
            for panel in 0..layer.panels {
                let mut sums = [isa.splat(0.0); ROWS];
                for (tap, sites) in sites.iter().enumerate() {
                    add_tap(isa, &mut sums, &source, sites, layer.of(panel, tap));
                }
                for ((sum, site), _) in sums.into_iter().zip(start..).zip(pixels) {
                    epilogue.finish(isa, sum, site, panel);
                }
            }
        }
    }
}

/// A transposed convolution onto the fine sites of `patches`.
pub(super) struct Up<'a> {
    pub(super) layer: &'a Taps,
    pub(super) patches: &'a [Patch],
    pub(super) coarse: &'a SiteSet,
    pub(super) source: Rows<'a>,
    pub(super) epilogue: Epilogue<'a>,
}

/// Taps along an axis for the first and the second pixel of a tile, and what each reads: 1 the coarse site with the
/// tile's own coordinate, 0 the one before it.
const REACH: [&[(usize, usize)]; 2] = [&[(0, 1), (2, 0)], &[(1, 1)]];

impl Kernel for Up<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { layer, patches, coarse, source, mut epilogue } = self;
        for patches in patches.chunks(ROWS) {
            // `[above or own][left or own]`.
            let mut corners = [[[ABSENT; ROWS]; 2]; 2];
            for (tile, patch) in patches.iter().enumerate() {
                for (i, corners) in corners.iter_mut().enumerate() {
                    let row = i32::from(patch.row) + i as i32 - 1;
                    let [left, own, _] = coarse.three_ids(row, i32::from(patch.column) - 1);
                    corners[0][tile] = left;
                    corners[1][tile] = own;
                }
            }
            for position in 0..4 {
                let (i, j) = (position / 2, position % 2);
                for panel in 0..layer.panels {
                    let mut sums = [isa.splat(0.0); ROWS];
                    for &(dc, left) in REACH[j] {
                        for &(dr, above) in REACH[i] {
                            add_tap(
                                isa,
                                &mut sums,
                                &source,
                                &corners[above][left],
                                layer.of(panel, dr + 3 * dc),
                            );
                        }
                    }
                    for (sum, patch) in sums.into_iter().zip(patches) {
                        if let Some(site) = patch.id(1 + i, 1 + j) {
                            epilogue.finish(isa, sum, site, panel);
                        }
                    }
                }
            }
        }
    }
}

/// Normalises and rectifies `count` sites from `first` on.
pub(super) struct Activate<'a> {
    pub(super) first: u32,
    pub(super) count: usize,
    pub(super) source: Rows<'a>,
    pub(super) epilogue: Epilogue<'a>,
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        let Self { first, count, source, mut epilogue } = self;
        for site in first..first + count as u32 {
            for part in 0..source.width {
                epilogue.finish(isa, isa.load(source.at(site, part)), site, part);
            }
        }
    }
}
