//! The register tile of the sparse convolution, compiled for the instruction sets of the host.
//!
//! Plain, AVX2 with FMA, AVX-512. FMA rounds once where the plain version rounds
//! twice, so hosts differ in the last bits; one host always answers the same.

use super::sites::ABSENT;
use super::sparse_conv::{Finish, Gather, SparseConv};

/// Output channels of a tile.
pub(super) const PANEL: usize = 16;

/// Input channels of one step of a tile.
const BLOCK: usize = 16;

type Sums<const SITES: usize> = [[f32; PANEL]; SITES];

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

/// Compiled for the target's least instruction set; one rounding more per step than the others.
fn run_portable(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    let block = |sums: &mut Sums<2>, rows: &[&[f32; BLOCK]; 2], weights: &[[f32; PANEL]; BLOCK]| {
        accumulate::<2, false>(sums, &rows.map(|row| &row[..]), weights);
    };
    run_tiles::<2>(conv, tile, output, finish, block, accumulate::<2, false>);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    fn rest(sums: &mut Sums<6>, rows: &[&[f32]; 6], weights: &[[f32; PANEL]]) {
        accumulate::<6, true>(sums, rows, weights);
    }
    run_tiles::<6>(conv, tile, output, finish, |s, r, w| x86::block_avx2(s, r, w), |s, r, w| rest(s, r, w));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512(conv: &SparseConv, tile: Tile<'_>, output: &mut [f32], finish: Finish) {
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    fn rest(sums: &mut Sums<12>, rows: &[&[f32]; 12], weights: &[[f32; PANEL]]) {
        accumulate::<12, true>(sums, rows, weights);
    }
    run_tiles::<12>(
        conv,
        tile,
        output,
        finish,
        |s, r, w| x86::block_avx512(s, r, w),
        |s, r, w| rest(s, r, w),
    );
}

/// The inner loop in intrinsics: left to itself the compiler unrolls it into thousands of scalar operations first, and
/// takes minutes to put them together again.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector loads and stores")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, PANEL, Sums};

    /// `sums[site] += rows[site] * weights`. Twelve sites take twelve of thirty-two registers; more would leave some
    /// row without a register for its address.
    #[target_feature(enable = "avx512f")]
    pub(super) fn block_avx512(
        sums: &mut Sums<12>,
        rows: &[&[f32; BLOCK]; 12],
        weights: &[[f32; PANEL]; BLOCK],
    ) {
        let mut local = [_mm512_setzero_ps(); 12];
        for (local, sum) in local.iter_mut().zip(sums.iter()) {
            // SAFETY: PANEL = 16 floats lie behind the reference.
            *local = unsafe { _mm512_loadu_ps(sum.as_ptr()) };
        }
        for (channel, weight) in weights.iter().enumerate() {
            // SAFETY: as above.
            let weight = unsafe { _mm512_loadu_ps(weight.as_ptr()) };
            for (local, row) in local.iter_mut().zip(rows) {
                *local = _mm512_fmadd_ps(_mm512_set1_ps(row[channel]), weight, *local);
            }
        }
        for (local, sum) in local.iter().zip(sums) {
            // SAFETY: as above, and nobody else has the reference.
            unsafe { _mm512_storeu_ps(sum.as_mut_ptr(), *local) };
        }
    }

    /// The same for six sites, which take twelve of sixteen registers.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn block_avx2(sums: &mut Sums<6>, rows: &[&[f32; BLOCK]; 6], weights: &[[f32; PANEL]; BLOCK]) {
        const HALF: usize = PANEL / 2;
        let mut local = [[_mm256_setzero_ps(); 2]; 6];
        for (local, sum) in local.iter_mut().zip(sums.iter()) {
            // SAFETY: PANEL = 2 * 8 floats lie behind the reference.
            *local = unsafe { [_mm256_loadu_ps(sum.as_ptr()), _mm256_loadu_ps(sum[HALF..].as_ptr())] };
        }
        for (channel, weight) in weights.iter().enumerate() {
            // SAFETY: as above.
            let weight =
                unsafe { [_mm256_loadu_ps(weight.as_ptr()), _mm256_loadu_ps(weight[HALF..].as_ptr())] };
            for (local, row) in local.iter_mut().zip(rows) {
                let x = _mm256_set1_ps(row[channel]);
                *local = [_mm256_fmadd_ps(x, weight[0], local[0]), _mm256_fmadd_ps(x, weight[1], local[1])];
            }
        }
        for (local, sum) in local.iter().zip(sums) {
            // SAFETY: as above, and nobody else has the reference.
            unsafe {
                _mm256_storeu_ps(sum.as_mut_ptr(), local[0]);
                _mm256_storeu_ps(sum[HALF..].as_mut_ptr(), local[1]);
            }
        }
    }
}

/// Tiles of `SITES` sites by [`PANEL`] channels; a panel's weights stay in cache for the whole chunk.
#[inline(always)]
fn run_tiles<const SITES: usize>(
    conv: &SparseConv,
    tile: Tile<'_>,
    output: &mut [f32],
    finish: Finish,
    accumulate: impl Fn(&mut Sums<SITES>, &[&[f32; BLOCK]; SITES], &[[f32; PANEL]; BLOCK]),
    accumulate_rest: impl Fn(&mut Sums<SITES>, &[&[f32]; SITES], &[[f32; PANEL]]),
) {
    let Tile { gather, input, first, order, taps } = tile;
    let (inputs, outputs) = (conv.inputs(), conv.outputs());
    for panel in 0..outputs.div_ceil(PANEL) {
        let bias = conv.panel_bias(panel);
        let lanes = panel * PANEL..outputs.min((panel + 1) * PANEL);
        for sites in order.chunks(SITES) {
            let mut sums = [bias; SITES];
            for (slot, &tap) in taps.iter().enumerate() {
                // A missing neighbour is a row of zeros; a tap without any neighbour is left out.
                let mut ids = [ABSENT; SITES];
                let mut present = false;
                for (id, &site) in ids.iter_mut().zip(sites) {
                    *id = gather.id(first + usize::from(site), slot);
                    present |= *id != ABSENT;
                }
                if !present {
                    continue;
                }
                let (blocks, rest) = conv.panel(panel, tap).as_chunks::<BLOCK>();
                for (index, weights) in blocks.iter().enumerate() {
                    let mut rows = [&[0.0; BLOCK]; SITES];
                    for (row, &id) in rows.iter_mut().zip(&ids) {
                        if id != ABSENT {
                            let start = id as usize * inputs + index * BLOCK;
                            *row = input[start..].first_chunk().expect("the input holds whole rows");
                        }
                    }
                    accumulate(&mut sums, &rows, weights);
                }
                if !rest.is_empty() {
                    let mut rows = [&[0.0; BLOCK][..rest.len()]; SITES];
                    for (row, &id) in rows.iter_mut().zip(&ids) {
                        if id != ABSENT {
                            *row = &input[id as usize * inputs..][blocks.len() * BLOCK..inputs];
                        }
                    }
                    accumulate_rest(&mut sums, &rows, rest);
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

/// `sums[site] += rows[site] * weights`: the reference of the intrinsics, and what takes the fewer than [`BLOCK`]
/// channels that are left over.
#[inline(always)]
fn accumulate<const SITES: usize, const FMA: bool>(
    sums: &mut Sums<SITES>,
    rows: &[&[f32]; SITES],
    weights: &[[f32; PANEL]],
) {
    let mut local = *sums;
    for (channel, weight) in weights.iter().enumerate() {
        for (sum, row) in local.iter_mut().zip(rows) {
            add_scaled::<FMA>(sum, row[channel], weight);
        }
    }
    *sums = local;
}

#[inline(always)]
fn add_scaled<const FMA: bool>(sum: &mut [f32; PANEL], x: f32, weight: &[f32; PANEL]) {
    for (sum, &w) in sum.iter_mut().zip(weight) {
        *sum = if FMA { x.mul_add(w, *sum) } else { *sum + x * w };
    }
}

#[cfg(test)]
mod tests {
    use super::super::dense_reference::Random;
    use super::*;

    #[test]
    fn instruction_sets_agree_on_every_remainder() {
        let mut random = Random::new(6);
        for (inputs, outputs) in [(3, 16), (16, 5), (33, 21), (64, 32)] {
            let conv = SparseConv::new(&random.kernel(1, inputs, outputs));
            for sites in 1..30 {
                let input = random.vector(sites * inputs, -1.0, 1.0);
                let order: Vec<u16> = (0..sites as u16).rev().collect();
                let tile = Tile { gather: Gather::Same, input: &input, first: 0, order: &order, taps: &[0] };
                let compute = |run: &dyn Fn(&mut [f32])| {
                    let mut output = vec![f32::NAN; sites * outputs];
                    run(&mut output);
                    output
                };
                let host = compute(&|output| run(&conv, tile, output, Finish::Store));
                let plain = compute(&|output| run_portable(&conv, tile, output, Finish::Store));
                for (a, b) in host.iter().zip(&plain) {
                    assert!((a - b).abs() < 1e-5, "{inputs} to {outputs}, {sites} sites: {a} {b}");
                }
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    #[allow(
                        unsafe_code,
                        reason = "calling code compiled for instructions that were just found"
                    )]
                    // SAFETY: the host has AVX2 and FMA.
                    let avx2 = compute(&|output| unsafe { run_avx2(&conv, tile, output, Finish::Store) });
                    assert_eq!(avx2, host, "{inputs} to {outputs}, {sites} sites: both round once");
                }
            }
        }
    }
}
