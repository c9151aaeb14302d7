//! The register tile of the sparse convolution, compiled for the instruction sets of the host.
//!
//! The same portable code three times: plain, AVX2 with FMA, AVX-512. FMA rounds once where the plain version rounds
//! twice, so hosts differ in the last bits; one host always answers the same.

use super::sites::ABSENT;
use super::sparse_conv::{Finish, Gather, SparseConv};

/// Output channels of a tile.
pub(super) const PANEL: usize = 16;

/// Output sites of one chunk that share their taps.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) gather: Gather<'a>,
    /// `[input sites, inputs]`.
    pub(super) input: &'a [f32],
    /// Index of the chunk's first output site.
    pub(super) first: usize,
    /// Output sites, counted from `first`.
    pub(super) order: &'a [u16],
    /// Tap of each slot of the gather.
    pub(super) taps: &'a [usize],
}

/// Computes the sites of `tile`; `output` is the chunk's rows.
pub(super) fn run(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    #[cfg(target_arch = "x86_64")]
    {
        #[allow(unsafe_code, reason = "calling code compiled for instructions that were just found")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the host has AVX-512F.
            return unsafe { run_avx512(conv, tile, output, finish) };
        }
        #[allow(unsafe_code, reason = "as above")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the host has AVX2 and FMA.
            return unsafe { run_avx2(conv, tile, output, finish) };
        }
    }
    run_portable(conv, tile, output, finish);
}

/// Two sites of sixteen channels fill the sixteen registers of SSE2 by half.
pub(super) fn run_portable(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    run_tiles::<2>(conv, tile, output, finish, accumulate::<2, false>);
}

/// Six sites take twelve of sixteen registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    // Not inlined into the loop over taps, where the optimiser forgets that the rows are equally long.
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    fn accumulate_avx2(sums: &mut [[f32; PANEL]; 6], rows: &[&[f32]; 6], weights: &[f32]) {
        accumulate::<6, true>(sums, rows, weights);
    }
    run_tiles::<6>(conv, tile, output, finish, |sums, rows, weights| accumulate_avx2(sums, rows, weights));
}

/// Twelve sites take twelve of thirty-two registers; more would not find a general register for each row's address.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    fn accumulate_avx512(sums: &mut [[f32; PANEL]; 12], rows: &[&[f32]; 12], weights: &[f32]) {
        accumulate::<12, true>(sums, rows, weights);
    }
    run_tiles::<12>(conv, tile, output, finish, |sums, rows, weights| accumulate_avx512(sums, rows, weights));
}

/// Tiles of `SITES` sites by [`PANEL`] channels; a panel's weights stay in cache for the whole chunk.
#[inline(always)]
fn run_tiles<const SITES: usize>(
    conv: &SparseConv,
    tile: Tile<'_>,
    output: &mut [f32],
    finish: Finish,
    accumulate: impl Fn(&mut [[f32; PANEL]; SITES], &[&[f32]; SITES], &[f32]),
) {
    let Tile { gather, input, first, order, taps } = tile;
    let (inputs, outputs) = (conv.inputs(), conv.outputs());
    for panel in 0..outputs.div_ceil(PANEL) {
        let bias = conv.panel_bias(panel);
        let lanes = panel * PANEL..outputs.min((panel + 1) * PANEL);
        for sites in order.chunks(SITES) {
            let mut sums = [bias; SITES];
            for (slot, &tap) in taps.iter().enumerate() {
                let mut rows = [conv.absent(); SITES];
                let mut present = false;
                for (row, &site) in rows.iter_mut().zip(sites) {
                    let id = gather.id(first + usize::from(site), slot);
                    if id != ABSENT {
                        *row = &input[id as usize * inputs..][..inputs];
                        present = true;
                    }
                }
                if present {
                    accumulate(&mut sums, &rows, conv.panel(panel, tap));
                }
            }
            for (sum, &site) in sums.iter().zip(sites) {
                let row = &mut output[usize::from(site) * outputs..][..outputs][lanes.clone()];
                match finish {
                    Finish::Store => row.iter_mut().zip(sum).for_each(|(y, &x)| *y = x),
                    Finish::Relu => row.iter_mut().zip(sum).for_each(|(y, &x)| *y = x.max(0.0)),
                    Finish::Add => row.iter_mut().zip(sum).for_each(|(y, &x)| *y += x),
                }
            }
        }
    }
}

/// `sums[site] += rows[site] * weights`, input channel by input channel.
#[inline(always)]
fn accumulate<const SITES: usize, const FMA: bool>(
    sums: &mut [[f32; PANEL]; SITES],
    rows: &[&[f32]; SITES],
    weights: &[f32],
) {
    let (weights, _) = weights.as_chunks::<PANEL>();
    let rows = rows.map(|row| &row[..weights.len()]);
    let mut local = *sums;
    for (channel, weight) in weights.iter().enumerate() {
        for (sum, row) in local.iter_mut().zip(&rows) {
            let x = row[channel];
            for (sum, &w) in sum.iter_mut().zip(weight) {
                *sum = if FMA { x.mul_add(w, *sum) } else { *sum + x * w };
            }
        }
    }
    *sums = local;
}
