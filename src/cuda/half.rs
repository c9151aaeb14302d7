//! Half precision on the host.

/// The bits of the nearest half, ties to even; beyond the range infinity.
pub(super) fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Subnormal: adding 1/2 leaves the wanted bits, correctly rounded, at the end of the mantissa.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let rounded = magnitude + 0x0fff + (magnitude >> 13 & 1) - 0x3800_0000;
    sign | (rounded >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a half from its definition.
    fn value(half: u16) -> f64 {
        let (exponent, mantissa) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(-24),
            31 => f64::INFINITY,
            _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
        };
        if half >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_half_and_every_midpoint_rounds_to_nearest_even() {
        for half in 0..0x7c00u16 {
            let (low, high) = (value(half), value(half + 1));
            for sign in [0, 0x8000] {
                let signed = |x: f64| if sign == 0 { x as f32 } else { -x as f32 };
                assert_eq!(half_bits(signed(low)), half | sign);
                if half < 0x7bff {
                    let middle = (low + high) / 2.0;
                    let even = if half % 2 == 0 { half } else { half + 1 };
                    assert_eq!(half_bits(signed(middle)), even | sign, "{middle}");
                    let above = f32::from_bits((middle as f32).to_bits() + 1);
                    assert_eq!(half_bits(signed(f64::from(above))), (half + 1) | sign, "{above}");
                }
            }
        }
        assert_eq!(half_bits(65520.0), 0x7c00);
        assert_eq!(half_bits(65519.0), 0x7bff);
        assert_eq!((half_bits(f32::INFINITY), half_bits(f32::NAN) & 0x7c00), (0x7c00, 0x7c00));
    }
}
