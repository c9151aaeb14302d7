//! `exp` and `ln` in plain f32 additions and multiplications, so that a selection has the same bits on every machine.
//!
//! The standard library leaves both to the platform's libm, whose last bit differs between machines. Every step here
//! is one correctly rounded IEEE operation in the order written: a CUDA twin gives the same bits when it is compiled
//! without contraction to fused multiply-add. The loops around them vectorise. Polynomials: Cephes `expf`, `logf`.

/// The clamp of METHODS 1.1(2): `p ln(max(p, 1e-5))`.
pub const SMALLEST_PROBABILITY: f32 = 1e-5;

/// `-ln(1e-5)`: the largest surprise a class is counted with.
pub const LARGEST_SURPRISE: f32 = 11.512_925;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has so few bits that `n * LN2_HIGH` is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding `1.5 * 2^23` rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` for finite or infinite `x <= 0`; below -87 it stays at `e^-87` (1.6e-38). `exp(0)` is exactly 1.
/// Relative error at most 1.2e-7 (tested).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = (p * (r * r) + r) + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    value * f32::from_bits(exponent << 23)
}

/// `ln x` for finite normal `x > 0`. `ln(1)` is exactly 0. Error at most 1.2e-7 relative, or 6e-8 absolute near 1
/// (tested).
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    /// Bits of sqrt(1/2): the mantissa is taken from [sqrt(1/2), sqrt(2)).
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let offset = x.to_bits().wrapping_sub(SQRT_HALF) as i32 >> 23;
    let e = offset as f32;
    let m = f32::from_bits(x.to_bits().wrapping_sub((offset << 23) as u32)) - 1.0;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_4e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333_e-1;
    let square = m * m;
    let tail = ((p * m) * square + e * LN2_LOW) - 0.5 * square;
    (m + tail) + e * LN2_HIGH
}

/// Softmax of one vector in place: subtracts the largest, `exp`, sums in order, divides.
pub fn softmax(values: &mut [f32]) {
    let top = values.iter().fold(f32::NEG_INFINITY, |top, &value| if value > top { value } else { top });
    let mut total = 0.0;
    for value in values.iter_mut() {
        *value = exp(*value - top);
        total += *value;
    }
    for value in values {
        *value /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_error_over_the_whole_range() {
        let mut worst = 0.0_f64;
        for step in 0..4_000_000 {
            let x = -87.0 * (step as f32 / 4_000_000.0);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 1.2e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(-1e30) < 2e-38);
    }

    #[test]
    fn ln_is_within_its_error_over_many_binades() {
        let mut worst = 0.0_f64;
        for bits in (f32::MIN_POSITIVE.to_bits()..1e30_f32.to_bits()).step_by(331) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs();
            worst = worst.max((error / exact.abs()).min(error * 2.0));
        }
        assert!(worst < 1.2e-7, "{worst:e}");
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(LARGEST_SURPRISE, (-f64::from(SMALLEST_PROBABILITY).ln()) as f32);
    }

    #[test]
    fn results_are_the_same_bits_everywhere() {
        // Any machine, compiler or vector width must reproduce these.
        let mut hash = 0_u64;
        for step in 0..100_000_u32 {
            let x = -(step as f32) / 1024.0;
            hash = (hash ^ u64::from(exp(x).to_bits())).wrapping_mul(0x100_0000_01b3);
            hash = (hash ^ u64::from(ln(1.0 - x).to_bits())).wrapping_mul(0x100_0000_01b3);
        }
        assert_eq!(hash, 0x7b23_d134_b761_826f);
    }

    #[test]
    fn softmax_sums_to_one_and_takes_large_logits() {
        let mut values = [1000.0, 999.0, -3e38, 1000.0];
        softmax(&mut values);
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(values[0], values[3]);
        assert!(values[2] < 1e-30);
    }
}
