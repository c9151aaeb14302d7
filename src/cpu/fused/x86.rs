//! AVX-512 and AVX2 with FMA.
#![allow(unsafe_code, reason = "vector instructions, called where the processor was found to have them")]

use std::arch::x86_64::*;

use super::isa::{EXPONENT, Isa, Kernel, LANES, Lanes};

/// Runs a kernel on AVX-512. Twelve sums leave registers for weights and for the addresses of twelve rows.
#[target_feature(enable = "avx512f,avx2,fma,popcnt,bmi1,bmi2")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<_, 12>(Avx512(()))
}

/// Runs a kernel on AVX2: six sums take twelve of sixteen registers.
#[target_feature(enable = "avx2,fma,popcnt,bmi1,bmi2")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<_, 6>(Avx2(()))
}

/// Made by [`run_avx512`] only.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Isa for Avx512 {
    type Vector = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the value `self` exists only inside `run_avx512`; so for all below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> __m512 {
        // SAFETY: sixteen floats, 64-byte aligned, lie behind the reference.
        unsafe { _mm512_load_ps(from.0.as_ptr()) }
    }
    #[inline(always)]
    fn prefetch(self, from: *const Lanes) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn store(self, vector: __m512, to: &mut Lanes) {
        // SAFETY: as above.
        unsafe { _mm512_store_ps(to.0.as_mut_ptr(), vector) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn pick(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn power_of_two(self, rounded: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(EXPONENT));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn transpose(self, rows: [&Lanes; LANES], columns: &mut [Lanes; LANES]) {
        // SAFETY: see `splat`.
        unsafe {
            // Pairs of rows, then quadruples of floats; then the 128-bit parts of four rows change places, twice.
            let mut pairs = [_mm512_setzero_ps(); LANES];
            for i in (0..LANES).step_by(2) {
                let (a, b) = (self.load(rows[i]), self.load(rows[i + 1]));
                pairs[i] = _mm512_unpacklo_ps(a, b);
                pairs[i + 1] = _mm512_unpackhi_ps(a, b);
            }
            let mut quads = [_mm512_setzero_ps(); LANES];
            for i in (0..LANES).step_by(4) {
                let (a, b) = (_mm512_castps_pd(pairs[i]), _mm512_castps_pd(pairs[i + 1]));
                let (c, d) = (_mm512_castps_pd(pairs[i + 2]), _mm512_castps_pd(pairs[i + 3]));
                quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                quads[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                quads[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
            }
            for i in 0..4 {
                let (a, b, c, d) = (quads[i], quads[i + 4], quads[i + 8], quads[i + 12]);
                let (ab_even, ab_odd) =
                    (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (cd_even, cd_odd) =
                    (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                self.store(_mm512_shuffle_f32x4::<0x88>(ab_even, cd_even), &mut columns[i]);
                self.store(_mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd), &mut columns[i + 4]);
                self.store(_mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even), &mut columns[i + 8]);
                self.store(_mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd), &mut columns[i + 12]);
            }
        }
    }
}

/// Made by [`run_avx2`] only.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

const HALF: usize = LANES / 2;

impl Isa for Avx2 {
    type Vector = [__m256; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: the value `self` exists only inside `run_avx2`; so for all below.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> [__m256; 2] {
        // SAFETY: sixteen floats, 64-byte aligned, lie behind the reference.
        unsafe { [_mm256_load_ps(from.0.as_ptr()), _mm256_load_ps(from.0[HALF..].as_ptr())] }
    }
    #[inline(always)]
    fn prefetch(self, from: *const Lanes) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn store(self, vector: [__m256; 2], to: &mut Lanes) {
        // SAFETY: as above.
        unsafe {
            _mm256_store_ps(to.0.as_mut_ptr(), vector[0]);
            _mm256_store_ps(to.0[HALF..].as_mut_ptr(), vector[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn pick(self, a: [__m256; 2], b: [__m256; 2], x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe {
            [
                _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
                _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    fn power_of_two(self, rounded: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe {
            let bias = _mm256_set1_epi32(EXPONENT);
            let low = _mm256_add_epi32(_mm256_castps_si256(rounded[0]), bias);
            let high = _mm256_add_epi32(_mm256_castps_si256(rounded[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        }
    }
    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see `splat`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
}
