//! Straight strokes on the screen: poles, their arms, and pieces of wire.

use super::{Class, Hit, Look, Rgb, Shape, Sprite, pixel};

/// A line with a width in pixels at each end.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Stroke {
    from: [f32; 2],
    to: [f32; 2],
    half: [f32; 2],
    depth: f32,
    class: Class,
    albedo: Rgb,
    sunlit: f32,
}

/// What all points of a stroke share.
#[derive(Clone, Copy, Debug)]
pub(in crate::synth) struct Ink {
    pub(in crate::synth) class: Class,
    pub(in crate::synth) albedo: Rgb,
    pub(in crate::synth) sunlit: f32,
}

impl Stroke {
    /// A stroke between two pixels; what is thinner than a pixel is drawn one pixel wide so that it stays whole.
    pub(in crate::synth) fn sprite(
        from: [f32; 2],
        to: [f32; 2],
        widths: [f32; 2],
        depth: f32,
        ink: Ink,
    ) -> Sprite {
        let half = widths.map(|w| 0.5 * w.max(1.0));
        let widest = half[0].max(half[1]);
        // Room for the ends of slanted strokes.
        let reach = 1.5 * widest;
        Sprite {
            columns: [pixel(from[0].min(to[0]) - reach), pixel(from[0].max(to[0]) + reach) + 1],
            rows: [pixel(from[1].min(to[1]) - reach), pixel(from[1].max(to[1]) + reach) + 1],
            depth,
            shape: Shape::Stroke(Self {
                from,
                to,
                half,
                depth,
                class: ink.class,
                albedo: ink.albedo,
                sunlit: ink.sunlit,
            }),
        }
    }

    fn steep(&self) -> bool {
        (self.to[1] - self.from[1]).abs() >= (self.to[0] - self.from[0]).abs()
    }

    /// Columns whose centres the stroke covers in a row.
    pub(super) fn span(&self, row: f32) -> [i32; 2] {
        let ([x0, y0], [x1, y1]) = (self.from, self.to);
        let (left, right) = if self.steep() {
            let t = (row - y0) / (y1 - y0);
            if !(0.0..=1.0).contains(&t) {
                return [0, 0];
            }
            let (centre, half) = (x0 + (x1 - x0) * t, self.half[0] + (self.half[1] - self.half[0]) * t);
            (centre - half, centre + half)
        } else {
            // In a shallow stroke the width is measured vertically.
            let slope = (y1 - y0) / (x1 - x0);
            let half = 0.5 * (self.half[0] + self.half[1]);
            let (low, high) = (x0.min(x1), x0.max(x1));
            if slope.abs() < 1e-4 {
                if (row - y0).abs() > half {
                    return [0, 0];
                }
                (low, high)
            } else {
                let (a, b) = (x0 + (row - half - y0) / slope, x0 + (row + half - y0) / slope);
                (a.min(b).max(low), a.max(b).min(high))
            }
        };
        // Pixel centres lie at half columns.
        [pixel(left + 0.5), pixel(right + 0.5)]
    }

    pub(super) fn sample(&self, look: &Look, column: f32, row: f32) -> Hit {
        let ([x0, y0], [x1, y1]) = (self.from, self.to);
        let across = if self.steep() {
            let t = (row - y0) / (y1 - y0);
            let half = self.half[0] + (self.half[1] - self.half[0]) * t;
            (column - x0 - (x1 - x0) * t) / half
        } else {
            let t = (column - x0) / (x1 - x0);
            (y0 + (y1 - y0) * t - row) / (0.5 * (self.half[0] + self.half[1]))
        };
        let across = across.clamp(-1.0, 1.0);
        let facing = (1.0 - across * across).sqrt();
        let normal = if self.steep() { [across, 0.0, -facing] } else { [0.0, across, -facing] };
        let light = self.albedo * look.light(normal, self.sunlit);
        Hit { class: self.class, light: look.haze(light, self.depth) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(from: [f32; 2], to: [f32; 2], width: f32) -> Sprite {
        let ink = Ink { class: Class::Wire, albedo: Rgb::default(), sunlit: 1.0 };
        Stroke::sprite(from, to, [width, width], 10.0, ink)
    }

    #[test]
    fn strokes_thinner_than_a_pixel_stay_whole() {
        for (to, width) in [([90.0, 40.0], 0.1), ([90.0, 12.0], 0.4), ([14.0, 80.0], 0.1)] {
            let sprite = stroke([10.0, 10.0], to, width);
            let mut covered = Vec::new();
            for row in sprite.rows[0]..sprite.rows[1] {
                let [from, end] = sprite.span(row as f32 + 0.5);
                covered.extend((from..end).map(|column| (column, row)));
            }
            let steep = to[0] < 20.0;
            for i in 11..if steep { 79 } else { 89 } {
                let seen = covered.iter().filter(|(x, y)| if steep { *y == i } else { *x == i }).count();
                assert!((1..=2).contains(&seen), "{to:?}: {seen} pixels at {i}");
            }
        }
    }
}
