//! Linear light and how it becomes display bytes.

use std::ops::{Add, Mul};

/// Linear red, green and blue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rgb(pub(super) f32, pub(super) f32, pub(super) f32);

impl Rgb {
    /// The linear value of display bytes, with gamma 2 so that the way back is an exact square root.
    pub(super) fn of(r: u8, g: u8, b: u8) -> Self {
        let linear = |v: u8| (f32::from(v) / 255.0) * (f32::from(v) / 255.0);
        Self(linear(r), linear(g), linear(b))
    }

    /// A grey.
    pub(super) fn grey(v: f32) -> Self {
        Self(v, v, v)
    }

    /// Part way to another colour.
    pub(super) fn towards(self, other: Self, t: f32) -> Self {
        self * (1.0 - t) + other * t
    }

    /// Display bytes: a little more saturation, an extended Reinhard curve that reaches white at 3, then gamma 2.
    pub(super) fn display(self) -> [u8; 3] {
        let luma = 0.3 * self.0 + 0.55 * self.1 + 0.15 * self.2;
        let vivid = |v: f32| (luma + 1.14 * (v - luma)).max(0.0);
        let byte = |v: f32| {
            let v = v * (1.0 + v * (1.0 / 9.0)) / (1.0 + v);
            (v.clamp(0.0, 1.0).sqrt() * 255.0 + 0.5) as u8
        };
        [byte(vivid(self.0)), byte(vivid(self.1)), byte(vivid(self.2))]
    }
}

impl Add for Rgb {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(self.0 + o.0, self.1 + o.1, self.2 + o.2)
    }
}

impl Mul for Rgb {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        Self(self.0 * o.0, self.1 * o.1, self.2 * o.2)
    }
}

impl Mul<f32> for Rgb {
    type Output = Self;
    fn mul(self, k: f32) -> Self {
        Self(self.0 * k, self.1 * k, self.2 * k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_monotonic_and_saturates() {
        assert_eq!(Rgb::default().display(), [0, 0, 0]);
        assert_eq!(Rgb::grey(9.0).display(), [255, 255, 255]);
        let steps: Vec<u8> = (0..100).map(|i| Rgb::grey(i as f32 * 0.04).display()[0]).collect();
        assert!(steps.is_sorted());
    }
}
