//! Pedestrians: a few capsules that walk.

use super::super::rng::{Rng, noise};
use super::{Board, Class, Hit, Look, Rgb, Shape, Sprite};

/// A walking person.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Person {
    board: Board,
    parts: Vec<Part>,
    height: f32,
    seed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    from: [f32; 2],
    to: [f32; 2],
    radii: [f32; 2],
    albedo: Rgb,
}

/// How a person moves in this frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::synth) struct Gait {
    /// Whether they cross the view rather than walk along it.
    pub(in crate::synth) across: bool,
    /// Position in the step, -1..=1.
    pub(in crate::synth) phase: f32,
    /// Direction of travel across the view, -1 or 1.
    pub(in crate::synth) facing: f32,
}

impl Person {
    /// A person on the board's origin.
    pub(in crate::synth) fn sprite(rng: &mut Rng, board: Board, gait: Gait) -> Sprite {
        let height = if rng.chance(0.12) { rng.range(1.05, 1.4) } else { rng.range(1.55, 1.9) };
        let cloth = |rng: &mut Rng| {
            let base = rng.pick(&[
                Rgb::grey(0.03),
                Rgb::grey(0.08),
                Rgb::grey(0.55),
                Rgb(0.03, 0.05, 0.16),
                Rgb(0.35, 0.04, 0.04),
                Rgb(0.42, 0.28, 0.06),
                Rgb(0.05, 0.16, 0.08),
                Rgb(0.18, 0.13, 0.09),
                Rgb(0.12, 0.22, 0.4),
                Rgb(0.4, 0.2, 0.3),
            ]);
            base * rng.range(0.7, 1.3)
        };
        let (top, trousers) = (cloth(rng), cloth(rng) * 0.6);
        let skin = rng.pick(&[
            Rgb(0.5, 0.3, 0.2),
            Rgb(0.32, 0.17, 0.1),
            Rgb(0.14, 0.07, 0.045),
            Rgb(0.58, 0.38, 0.28),
        ]);
        let hair =
            rng.pick(&[Rgb(0.015, 0.012, 0.01), Rgb(0.09, 0.05, 0.025), Rgb(0.3, 0.2, 0.08), Rgb::grey(0.3)]);
        let k = height / 1.75;
        let stride = if gait.across { 0.30 } else { 0.05 } * gait.phase;
        let swing = if gait.across { 0.22 } else { 0.04 } * gait.phase;
        let (hips, shoulders) = if gait.across { (0.03, 0.06) } else { (0.09, 0.19) };
        let lift = if gait.across { 0.0 } else { 0.05 * gait.phase };
        let part = |x0: f32, y0: f32, x1: f32, y1: f32, r0: f32, r1: f32, albedo| Part {
            from: [x0 * k, y0 * k],
            to: [x1 * k, y1 * k],
            radii: [r0 * k, r1 * k],
            albedo,
        };
        let shoe = Rgb::grey(0.03);
        let lean = 0.03 * gait.facing * f32::from(u8::from(gait.across));
        let mut parts = vec![
            part(
                -hips - stride,
                0.06 + lift.max(0.0),
                -hips - stride + 0.06 * gait.facing,
                0.05 + lift.max(0.0),
                0.05,
                0.045,
                shoe,
            ),
            part(
                hips + stride,
                0.06 - lift.min(0.0),
                hips + stride + 0.06 * gait.facing,
                0.05 - lift.min(0.0),
                0.05,
                0.045,
                shoe,
            ),
            part(-hips, 0.86, -hips - stride, 0.10 + lift.max(0.0), 0.095, 0.058, trousers),
            part(hips, 0.86, hips + stride, 0.10 - lift.min(0.0), 0.095, 0.058, trousers * 0.85),
            part(-shoulders, 1.38, -shoulders - 0.04 + swing, 0.86, 0.058, 0.045, top * 0.85),
            part(
                0.0,
                0.92,
                lean,
                1.36,
                if gait.across { 0.12 } else { 0.155 },
                if gait.across { 0.13 } else { 0.175 },
                top,
            ),
            part(shoulders, 1.38, shoulders + 0.04 - swing, 0.86, 0.055, 0.042, top * 0.9),
            part(lean, 1.46, lean, 1.53, 0.055, 0.055, skin),
            part(lean, 1.62, lean + 0.02 * gait.facing, 1.64, 0.1, 0.1, skin),
            part(lean - 0.01 * gait.facing, 1.685, lean - 0.02 * gait.facing, 1.67, 0.088, 0.085, hair),
        ];
        if rng.chance(0.3) {
            let bag = cloth(rng);
            parts.push(part(-shoulders - 0.05, 0.84, -shoulders - 0.05, 0.7, 0.09, 0.13, bag));
        }
        if rng.chance(0.35) {
            parts.push(part(lean, 0.95, -0.5 * stride, 0.62, 0.15, 0.19, top * 0.9));
        }
        let shape = Self { board, parts, height: 1.78 * k, seed: rng.seed32() };
        let reach = 0.55 * k + board.pixel();
        board.sprite([-reach, reach], [-0.02, height * 1.04], Shape::Person(shape))
    }

    pub(super) fn sample(&self, look: &Look, column: f32, row: f32) -> Option<Hit> {
        let (x, h) = self.board.at(column, row);
        let thin = 0.4 * self.board.pixel();
        // The last part that covers the point lies on top.
        let (part, across) =
            self.parts.iter().rev().find_map(|part| part.at(x, h, thin).map(|across| (part, across)))?;
        let fold = 0.75 + 0.5 * noise(self.seed, x * 11.0, h * 6.0);
        let facing = (1.0 - across * across).max(0.0).sqrt();
        let shade = 0.65 + 0.35 * (h / self.height).min(1.0);
        let light =
            part.albedo * look.light([across * 0.9, 0.25, -facing], self.board.sunlit) * (fold * shade);
        Some(Hit { class: Class::Pedestrian, light: look.haze(light, self.board.depth) })
    }
}

impl Part {
    /// Where a point lies across the part, -1..=1, if inside; radii grow by `thin` so that distant limbs stay whole.
    fn at(&self, x: f32, h: f32, thin: f32) -> Option<f32> {
        let (dx, dh) = (self.to[0] - self.from[0], self.to[1] - self.from[1]);
        let (px, ph) = (x - self.from[0], h - self.from[1]);
        let t = ((px * dx + ph * dh) / (dx * dx + dh * dh).max(1e-9)).clamp(0.0, 1.0);
        let radius = (self.radii[0] + (self.radii[1] - self.radii[0]) * t).max(thin);
        let (ex, eh) = (px - dx * t, ph - dh * t);
        (ex * ex + eh * eh <= radius * radius).then(|| (ex / radius).clamp(-1.0, 1.0))
    }
}
