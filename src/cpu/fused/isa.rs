//! Vectors of sixteen floats on every instruction set, behind one trait, chosen when the program runs.
//!
//! A value of an [`Isa`] exists only where the processor has its instructions, so its operations are safe to call. They
//! are inlined into functions compiled for these instructions by [`dispatch`]; whatever a [`Kernel`] calls in loops must
//! be `#[inline(always)]` too.
#![allow(unsafe_code, reason = "calls functions compiled for more than the baseline processor")]

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::super::simd::has_avx2;

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen floats on a cache line of their own: a vector in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

impl Lanes {
    /// Nothing but zeros.
    pub(crate) const ZERO: Self = Self([0.0; LANES]);

    /// Consecutive vectors as plain floats.
    pub(crate) fn as_floats(lanes: &[Self]) -> &[f32] {
        // SAFETY: `Lanes` is `repr(C)` and its size, 64 bytes, equals its alignment: sixteen floats and no padding.
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
    }

    /// Vectors that hold `values`, the last filled up with zeros.
    pub(crate) fn pack(values: &[f32]) -> Vec<Self> {
        let pack = |chunk: &[f32]| {
            let mut lanes = Self::ZERO;
            lanes.0[..chunk.len()].copy_from_slice(chunk);
            lanes
        };
        values.chunks(LANES).map(pack).collect()
    }
}

/// `1.5 * 2^23`: adding it rounds to an integer and leaves that in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// What to add to the bits of `n + ROUND` to have the exponent of `2^n` in the lowest bits.
pub(super) const EXPONENT: i32 = 127 - ROUND.to_bits() as i32;

/// Operations of one instruction set. `mul_add` rounds once where the processor can, else twice.
pub(crate) trait Isa: Copy {
    /// Sixteen floats in registers.
    type Vector: Copy;

    fn splat(self, x: f32) -> Self::Vector;
    fn load(self, from: &Lanes) -> Self::Vector;
    fn store(self, vector: Self::Vector, to: &mut Lanes);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `x` where `a > b`, else `y`.
    fn pick(self, a: Self::Vector, b: Self::Vector, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `2^n` for integers `n` given as `n + ROUND`.
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector;
    /// `e^x` for `x <= 0`; below -87 it stays at `e^-87`. The steps of [`super::super::math::exp`].
    #[inline(always)]
    fn exp(self, x: Self::Vector) -> Self::Vector {
        let x = self.max(x, self.splat(-87.0));
        let round = self.splat(ROUND);
        let rounded = self.mul_add(x, self.splat(std::f32::consts::LOG2_E), round);
        let n = self.sub(rounded, round);
        let r = self.mul_add(n, self.splat(-355.0 / 512.0), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
            p = self.mul_add(p, r, self.splat(coefficient));
        }
        self.mul_add(p, self.power_of_two(rounded), self.splat(0.0))
    }
    /// Asks for a vector that may be loaded soon. Any address will do.
    #[inline(always)]
    fn prefetch(self, _from: *const Lanes) {}
    /// Sixteen vectors as the rows of a matrix, into its columns.
    #[inline(always)]
    fn transpose(self, rows: [&Lanes; LANES], columns: &mut [Lanes; LANES]) {
        for (lane, row) in rows.iter().enumerate() {
            for (column, value) in columns.iter_mut().zip(row.0) {
                column.0[lane] = value;
            }
        }
    }
}

/// Work for any instruction set.
pub(crate) trait Kernel {
    /// What the work gives.
    type Output;
    /// Does it. `ROWS` is the number of vectors of sums that fit into the registers beside one of weights.
    fn run<I: Isa, const ROWS: usize>(self, isa: I) -> Self::Output;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSet(Kind);

/// Name of the environment variable that forces an instruction set.
pub const FORCE_VARIABLE: &str = "SPARSE_REFINE_ISA";

impl InstructionSet {
    /// All that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vector = {
            let avx2 = has_avx2() && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f");
            [avx512.then_some(Self(Kind::Avx512)), avx2.then_some(Self(Kind::Avx2))]
        };
        #[cfg(target_arch = "aarch64")]
        let vector = [std::arch::is_aarch64_feature_detected!("neon").then_some(Self(Kind::Neon))];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let vector: [Option<Self>; 0] = [];
        vector.into_iter().flatten().chain([Self(Kind::Portable)])
    }

    /// The one the kernels use: the fastest, or the one that `SPARSE_REFINE_ISA` names if the processor has it.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<InstructionSet> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let forced = std::env::var(FORCE_VARIABLE).ok();
            let forced = forced.and_then(|name| Self::available().find(|set| set.name() == name));
            forced.or_else(|| Self::available().next()).unwrap_or(Self(Kind::Portable))
        })
    }

    /// `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }
}

/// Runs a kernel with an instruction set.
pub(crate) fn dispatch<K: Kernel>(set: InstructionSet, kernel: K) -> K::Output {
    match set.0 {
        Kind::Portable => kernel.run::<_, 2>(Portable),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a value of `InstructionSet` names one that the processor was found to have.
        Kind::Avx2 => unsafe { super::x86::run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Kind::Avx512 => unsafe { super::x86::run_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Kind::Neon => unsafe { super::arm::run_neon(kernel) },
    }
}

/// Plain arithmetic: the reference of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Isa for Portable {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &Lanes) -> Self::Vector {
        from.0
    }
    #[inline(always)]
    fn store(self, vector: Self::Vector, to: &mut Lanes) {
        to.0 = vector;
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn pick(self, a: Self::Vector, b: Self::Vector, x: Self::Vector, y: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| if a[lane] > b[lane] { x[lane] } else { y[lane] })
    }
    #[inline(always)]
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
        rounded.map(|x| f32::from_bits(((x.to_bits() as i32).wrapping_add(EXPONENT) as u32) << 23))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        each(each(a, b, |a, b| a * b), c, |product, c| product + c)
    }
}

/// `sums[row] += rows[row] * weights`: row vectors of [`LANES`] inputs times a matrix `[inputs][LANES]`.
///
/// The other way round, with the weights of `ROWS` outputs as rows and the inputs of sixteen sites side by side as the
/// matrix, it is a layer over sites in lanes.
#[inline(always)]
pub(crate) fn accumulate<I: Isa, const ROWS: usize>(
    isa: I,
    sums: &mut [I::Vector; ROWS],
    rows: &[&Lanes; ROWS],
    weights: &[Lanes; LANES],
) {
    for (channel, weight) in weights.iter().enumerate() {
        let weight = isa.load(weight);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = isa.mul_add(isa.splat(row.0[channel]), weight, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct EveryOperation([Lanes; LANES]);

    impl Kernel for EveryOperation {
        type Output = Vec<Lanes>;

        #[inline(always)]
        fn run<I: Isa, const ROWS: usize>(self, isa: I) -> Vec<Lanes> {
            let [a, b, c] = [0, 1, 2].map(|row| isa.load(&self.0[row]));
            let results = [
                isa.add(a, b),
                isa.sub(a, b),
                isa.max(a, b),
                isa.mul_add(a, b, c),
                isa.splat(self.0[3].0[7]),
                isa.div(a, isa.splat(4.0)),
                isa.pick(a, b, b, c),
                isa.power_of_two(isa.add(a, isa.splat(ROUND))),
            ];
            let mut out = results.map(|vector| {
                let mut lanes = Lanes::ZERO;
                isa.store(vector, &mut lanes);
                lanes
            });
            let mut columns = [Lanes::ZERO; LANES];
            isa.transpose(self.0.each_ref(), &mut columns);
            // Products of small integers: exact, however often they are rounded.
            let mut sums = [isa.splat(0.5); ROWS];
            let rows: [&Lanes; ROWS] = std::array::from_fn(|row| &self.0[row % LANES]);
            accumulate(isa, &mut sums, &rows, &self.0);
            isa.store(sums[ROWS - 1], &mut out[0]);
            let row = out[0];
            let expected: [f32; LANES] = std::array::from_fn(|lane| {
                let products = (0..LANES).map(|k| rows[ROWS - 1].0[k] * self.0[k].0[lane]);
                0.5 + products.sum::<f32>()
            });
            assert_eq!(row.0, expected);
            isa.store(results[0], &mut out[0]);
            out.into_iter().chain(columns).collect()
        }
    }

    struct Exponentials(Lanes);

    impl Kernel for Exponentials {
        type Output = Lanes;

        #[inline(always)]
        fn run<I: Isa, const ROWS: usize>(mut self, isa: I) -> Lanes {
            isa.store(isa.exp(isa.load(&self.0)), &mut self.0);
            self.0
        }
    }

    #[test]
    fn exponentials_are_right_on_every_instruction_set() {
        for set in InstructionSet::available() {
            for step in 0..20_000 {
                let x: [f32; LANES] =
                    std::array::from_fn(|lane| -(step as f32) * 0.0043 - lane as f32 * 1e-4);
                let found = dispatch(set, Exponentials(Lanes(x)));
                for (x, y) in x.into_iter().zip(found.0) {
                    assert!((f64::from(y) / f64::from(x).exp() - 1.0).abs() < 3e-7, "{} {x}", set.name());
                }
            }
            let edges = dispatch(set, Exponentials(Lanes([-1e30; LANES]))).0;
            assert!(edges.iter().all(|&y| (0.0..2e-38).contains(&y)));
            assert_eq!(dispatch(set, Exponentials(Lanes::ZERO)).0, [1.0; LANES]);
        }
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        let matrix: [Lanes; LANES] = std::array::from_fn(|row| {
            Lanes(std::array::from_fn(|lane| ((row * 7 + lane * 5) % 23) as f32 - 11.0))
        });
        let expected = EveryOperation(matrix).run::<_, 2>(Portable);
        assert_eq!(expected[0].0[1], matrix[0].0[1] + matrix[1].0[1]);
        assert_eq!(expected[7].0[0], 2f32.powi(-11), "a power of two");
        assert_eq!(expected[8 + 3].0[9], matrix[9].0[3], "the transpose");
        for set in InstructionSet::available() {
            assert_eq!(dispatch(set, EveryOperation(matrix)), expected, "{}", set.name());
        }
    }
}
