//! NEON.
#![allow(unsafe_code, reason = "vector instructions, called where the processor was found to have them")]

use std::arch::aarch64::*;

use super::isa::{EXPONENT, Isa, Kernel, LANES, Lanes};

/// Runs a kernel on NEON: six sums take twenty-four of thirty-two registers.
#[target_feature(enable = "neon")]
pub(super) fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<_, 6>(Neon(()))
}

/// Made by [`run_neon`] only.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

const QUARTER: usize = LANES / 4;

type Vector = [float32x4_t; 4];

#[inline(always)]
fn each(a: Vector, b: Vector, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Vector {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Isa for Neon {
    type Vector = Vector;

    #[inline(always)]
    fn splat(self, x: f32) -> Vector {
        // SAFETY: the value `self` exists only inside `run_neon`; so for all below.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> Vector {
        // SAFETY: sixteen floats lie behind the reference.
        [0, 1, 2, 3].map(|part| unsafe { vld1q_f32(from.0[part * QUARTER..].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, vector: Vector, to: &mut Lanes) {
        for (part, vector) in vector.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_f32(to.0[part * QUARTER..].as_mut_ptr(), vector) }
        }
    }
    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see `splat`.
        each(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see `splat`.
        each(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see `splat`.
        each(a, b, |a, b| unsafe { vmaxq_f32(a, b) })
    }
    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see `splat`.
        each(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    fn pick(self, a: Vector, b: Vector, x: Vector, y: Vector) -> Vector {
        // SAFETY: see `splat`.
        std::array::from_fn(|part| unsafe { vbslq_f32(vcgtq_f32(a[part], b[part]), x[part], y[part]) })
    }
    #[inline(always)]
    fn power_of_two(self, rounded: Vector) -> Vector {
        // SAFETY: see `splat`.
        rounded.map(|part| unsafe {
            let exponent = vaddq_s32(vreinterpretq_s32_f32(part), vdupq_n_s32(EXPONENT));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        // SAFETY: see `splat`.
        std::array::from_fn(|part| unsafe { vfmaq_f32(c[part], a[part], b[part]) })
    }
}
