//! Trees, bushes and hedges: clusters of leaves with ragged edges and holes.

use super::super::look::unit;
use super::super::rng::{Rng, fractal, noise};
use super::{Board, Class, Hit, Look, Rgb, Shape, Sprite};

/// Crown of overlapping balls on a trunk.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Tree {
    board: Board,
    balls: Vec<[f32; 3]>,
    trunk: f32,
    bark: Rgb,
    leaf: Rgb,
    thin: f32,
    /// How far the crown bulges towards the camera.
    bulge: f32,
    seed: u32,
}

impl Tree {
    /// A tree of this height.
    pub(in crate::synth) fn tree(rng: &mut Rng, look: &Look, board: Board, height: f32) -> Sprite {
        let slender = rng.chance(0.2);
        let radius = height * if slender { 0.16 } else { rng.range(0.24, 0.36) };
        let bottom = if slender { 0.15 } else { rng.range(0.26, 0.42) } * height;
        let mut balls = Vec::new();
        let count = if slender { 7 } else { 11 };
        for index in 0..count {
            let size = radius * if slender { rng.range(0.7, 0.95) } else { rng.range(0.36, 0.62) };
            // One ball in each storey of the crown, so that it hangs together.
            let storey = (index as f32 + rng.unit()) / count as f32;
            let h = bottom + size * 0.8 + (height - bottom - size * 1.8) * storey;
            // The crown is widest at a third of its height.
            let at = (h - bottom) / (height - bottom);
            let wide = radius * (1.0 - (at - 0.38) * (at - 0.38) * 2.2).max(0.1) - size * 0.6;
            balls.push([rng.range(-1.0, 1.0) * wide.max(0.05), h, size]);
        }
        balls.push([0.0, bottom + (height - bottom) * 0.45, radius * 0.7]);
        let shape = Self {
            board,
            balls,
            trunk: height * rng.range(0.016, 0.03),
            bark: Rgb(0.085, 0.065, 0.048) * rng.range(0.7, 1.8),
            leaf: leaf(rng, look),
            thin: rng.range(-0.05, 0.12),
            bulge: (0.8 * radius).min(0.4 * board.depth),
            seed: rng.seed32(),
        };
        let (reach, nearest) = (radius * 1.8, board.depth - shape.bulge);
        let sprite = board.sprite([-reach, reach], [-0.1, height * 1.12], Shape::Tree(shape));
        Sprite { depth: nearest, ..sprite }
    }

    /// A bush or a piece of hedge.
    pub(in crate::synth) fn bush(
        rng: &mut Rng,
        look: &Look,
        board: Board,
        width: f32,
        height: f32,
    ) -> Sprite {
        let mut balls = Vec::new();
        let count = 3 + (width * 2.0) as u32;
        for i in 0..count.min(14) {
            let x = ((i as f32 + 0.5) / count as f32 - 0.5) * width;
            let size = height * rng.range(0.42, 0.56);
            balls.push([x, height - size * rng.range(0.95, 1.15), size]);
            balls.push([x, height * 0.3, height * 0.36]);
        }
        let shape = Self {
            board,
            balls,
            trunk: 0.0,
            bark: Rgb::default(),
            leaf: leaf(rng, look),
            thin: -0.12,
            bulge: 0.0,
            seed: rng.seed32(),
        };
        let reach = 0.5 * width + height * 0.85;
        board.sprite([-reach, reach], [0.0, height * 1.3], Shape::Tree(shape))
    }

    /// The depth of leaf or bark at a pixel, and what it shows.
    pub(super) fn sample(&self, look: &Look, column: f32, row: f32) -> Option<(f32, Hit)> {
        let (x, h) = self.board.at(column, row);
        if h < 0.0 {
            return None;
        }
        let mut best = f32::NEG_INFINITY;
        let mut normal = [0.0, 0.0];
        for &[bx, bh, size] in &self.balls {
            let (ox, oh) = (x - bx, h - bh);
            // Too far for any leaf, see the limit below.
            if ox * ox + oh * oh > 1.8 * size * size {
                continue;
            }
            let (dx, dh) = (ox / size, oh / size);
            let inside = 1.0 - dx * dx - dh * dh;
            if inside > best {
                best = inside;
                normal = [dx, dh];
            }
        }
        if best > -0.75 {
            let ragged = fractal(self.seed, x * 2.3, h * 2.3, 3) - 0.5;
            let fine = noise(self.seed ^ 1, x * 14.0, h * 14.0) - 0.5;
            let density = best + 1.5 * ragged + 0.7 * fine - self.thin;
            if density > 0.08 {
                return Some((self.board.depth - self.bulge, self.leaves(look, x, h, normal, ragged, fine)));
            }
        }
        self.trunk_at(look, x, h).map(|hit| (self.board.depth, hit))
    }

    fn leaves(&self, look: &Look, x: f32, h: f32, [nx, nh]: [f32; 2], ragged: f32, fine: f32) -> Hit {
        let leafy =
            if self.board.pixel() < 0.06 { noise(self.seed ^ 2, x * 31.0, h * 31.0) - 0.5 } else { 0.0 };
        let front = (1.0 - nx * nx - nh * nh).max(0.05).sqrt();
        let normal = unit([nx + 1.6 * fine, nh + 0.35 + 1.4 * ragged + leafy, -front]);
        let tone = (0.78 + 1.0 * ragged + 0.7 * fine + 0.5 * leafy).max(0.16);
        // Light comes through leaves from behind, so the dark side is not black.
        let light = look.light(normal, self.board.sunlit) + look.sun * (0.12 * self.board.sunlit);
        let tint = self.leaf.towards(self.leaf * Rgb(1.5, 1.25, 0.7), (fine + 0.5) * 0.5);
        Hit { class: Class::Vegetation, light: look.haze(tint * light * tone, self.board.depth) }
    }

    fn trunk_at(&self, look: &Look, x: f32, h: f32) -> Option<Hit> {
        let top = self.balls.last()?[1];
        let flare = 1.0 + 0.6 * (0.35 - h).max(0.0);
        let half = (self.trunk * flare * (1.0 - 0.5 * h / top)).max(0.5 * self.board.pixel());
        let across = (x - 0.12 * (noise(self.seed ^ 3, 0.5, h * 0.6) - 0.5) * h.min(1.5)) / half;
        if self.trunk == 0.0 || h > top || across.abs() > 1.0 {
            return None;
        }
        let groove = 0.7 + 0.6 * noise(self.seed ^ 4, x * 26.0, h * 5.0);
        let light = self.bark
            * look.light([across, 0.0, -(1.0 - across * across).sqrt()], self.board.sunlit)
            * groove;
        Some(Hit { class: Class::Vegetation, light: look.haze(light, self.board.depth) })
    }
}

fn leaf(rng: &mut Rng, look: &Look) -> Rgb {
    let green = rng.pick(&[
        Rgb(0.09, 0.17, 0.035),
        Rgb(0.06, 0.13, 0.04),
        Rgb(0.13, 0.19, 0.05),
        Rgb(0.08, 0.12, 0.055),
    ]);
    let autumn = rng.pick(&[Rgb(0.42, 0.22, 0.03), Rgb(0.36, 0.11, 0.03), Rgb(0.38, 0.30, 0.06)]);
    let turned = rng.unit() < look.autumn;
    let share = if turned { rng.range(0.5, 1.0) } else { 0.0 };
    green.towards(autumn, share) * rng.range(0.8, 1.3)
}
