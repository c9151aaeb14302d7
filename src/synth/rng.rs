//! Seeded randomness that is the same on every machine: integer hashes only.
//!
//! Streams are splitmix64; lattice values are the 32-bit `lowbias32` mixer; noise is value noise on that lattice.

/// A splitmix64 stream.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// A stream that depends on every key and on their order.
    pub(super) fn keyed(seed: u64, keys: &[i64]) -> Self {
        let mut rng = Self(seed);
        for &key in keys {
            rng.0 = rng.next() ^ (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        rng.next();
        rng
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 32 random bits, to seed a noise.
    pub(super) fn seed32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `[low, high)`.
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Uniform in `0..n`.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// One of the items, each as likely.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }
}

/// Mixes 32 bits (`lowbias32`).
pub(super) fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// Hash of a lattice point.
pub(super) fn hash(seed: u32, x: i32, y: i32) -> u32 {
    mix(seed
        .wrapping_add((x as u32).wrapping_mul(0x9E37_79B1))
        .wrapping_add((y as u32).wrapping_mul(0x85EB_CA77)))
}

/// Hash of a lattice point, uniform in `[0, 1)`.
pub(super) fn cell(seed: u32, x: i32, y: i32) -> f32 {
    (hash(seed, x, y) >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Integer part, rounded down, and the rest of a value within the integers of 32 bits. `f32::floor` is a call into
/// the mathematics library on processors without SSE 4.1; this is not, and gives the same.
pub(super) fn split(x: f32) -> (i32, f32) {
    let whole = x as i32;
    let whole = if whole as f32 > x { whole.wrapping_sub(1) } else { whole };
    (whole, x - whole as f32)
}

/// Fraction above the integer below.
pub(super) fn fract(x: f32) -> f32 {
    split(x).1
}

/// Value noise in `[0, 1)` with lattice spacing 1.
pub(super) fn noise(seed: u32, x: f32, y: f32) -> f32 {
    let ((ix, tx), (iy, ty)) = (split(x), split(y));
    let (tx, ty) = (tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty));
    let top = lerp(cell(seed, ix, iy), cell(seed, ix.wrapping_add(1), iy), tx);
    let iy = iy.wrapping_add(1);
    let bottom = lerp(cell(seed, ix, iy), cell(seed, ix.wrapping_add(1), iy), tx);
    lerp(top, bottom, ty)
}

/// `octaves` of [`noise`], each at twice the frequency and half the weight of the one before; in `[0, 1)`.
pub(super) fn fractal(seed: u32, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        sum += weight * noise(seed.wrapping_add(octave), x * scale, y * scale);
        total += weight;
        weight *= 0.5;
        scale *= 2.03;
    }
    sum / total
}

/// Linear interpolation.
pub(super) fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn smoothstep(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_their_keys() {
        let first = Rng::keyed(7, &[1, 2]).next();
        assert_eq!(first, Rng::keyed(7, &[1, 2]).next());
        assert_ne!(first, Rng::keyed(7, &[2, 1]).next());
        assert_ne!(first, Rng::keyed(8, &[1, 2]).next());
    }

    #[test]
    fn uniform_values_fill_their_range() {
        let mut rng = Rng::keyed(1, &[]);
        let values: Vec<f32> = (0..100_000).map(|_| rng.range(-2.0, 3.0)).collect();
        assert!(values.iter().all(|v| (-2.0..3.0).contains(v)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean - 0.5).abs() < 0.05, "mean {mean}");
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }

    #[test]
    fn splitting_is_flooring() {
        for x in [0.0, 0.25, -0.25, 1.0, -1.0, -7.5, 1e6 + 0.5, -3e8, 8_388_607.5] {
            let x: f32 = x;
            assert_eq!(split(x), (x.floor() as i32, x - x.floor()), "{x}");
        }
    }

    #[test]
    fn noise_is_continuous_and_bounded() {
        for i in -500..500 {
            let x = i as f32 * 0.037;
            let (a, b) = (noise(3, x, 1.5), noise(3, x + 0.001, 1.5));
            assert!((0.0..1.0).contains(&a) && (a - b).abs() < 0.01, "at {x}: {a} {b}");
        }
    }
}
