//! What stands and moves along the street in one frame: sprites, and the shadows they cast on the ground.

use super::camera::Camera;
use super::classes::Class;
use super::colour::Rgb;
use super::look::Look;
use super::rng::Rng;
use super::shadow::{Caster, Shadow};
use super::sprites::stroke::{Ink, Stroke};
use super::sprites::{Board, Sprite};
use super::street::{FAR, KERB_HEIGHT, Lots, Street};

/// Sprites from near to far, and shadows.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) sprites: Vec<Sprite>,
    pub(super) shadows: Vec<Shadow>,
}

/// Collects the things around a camera.
pub(super) struct Builder<'a> {
    pub(super) camera: &'a Camera,
    pub(super) look: &'a Look,
    pub(super) street: &'a Street,
    pub(super) lots: &'a Lots,
    pub(super) frame: f32,
    pub(super) world: World,
}

const NEAR: f32 = 1.6;

impl World {
    /// Everything the camera may see in this frame.
    pub(super) fn new(camera: &Camera, look: &Look, street: &Street, lots: &Lots, frame: u32) -> Self {
        let mut builder = Builder { camera, look, street, lots, frame: frame as f32, world: Self::default() };
        for block in street.block(camera.s - 40.0)..=street.block(camera.s + FAR) {
            builder.crossing(block);
            for side in [-1.0, 1.0] {
                builder.furniture(block, side);
                builder.greenery(block, side);
                builder.parked(block, side);
            }
        }
        builder.wires();
        builder.traffic();
        builder.walkers();
        let mut world = builder.world;
        world.sprites.sort_by(|a, b| a.depth.total_cmp(&b.depth));
        world
    }
}

impl Builder<'_> {
    pub(super) fn rng(&self, kind: i64, index: i32, side: f32) -> Rng {
        Rng::keyed(self.street.seed, &[kind, i64::from(index), side as i64])
    }

    /// Depth of a position along the street, where the camera may see something there.
    pub(super) fn depth(&self, s: f32) -> Option<f32> {
        let depth = s - self.camera.s;
        (depth > NEAR && depth < FAR).then_some(depth)
    }

    pub(super) fn sunlit(&self, u: f32, s: f32, h: f32) -> f32 {
        self.lots.sunlit(self.look.to_sun, self.street.lot_line(), u, s, h)
    }

    pub(super) fn board(&self, u: f32, s: f32, h: f32) -> Option<Board> {
        let depth = self.depth(s)?;
        Some(Board::new(self.camera, u, depth, h, self.sunlit(u, s, h + 1.0)))
    }

    pub(super) fn shadow(&mut self, u: f32, s: f32, caster: Caster) {
        self.world.shadows.push(Shadow { u, s, caster });
    }

    /// A straight bar between two points at one depth or two.
    pub(super) fn bar(&mut self, from: [f32; 3], to: [f32; 3], widths: [f32; 2], class: Class, albedo: Rgb) {
        let (Some(d0), Some(d1)) = (self.depth(from[1]), self.depth(to[1])) else { return };
        let camera = self.camera;
        let screen = |[u, _, h]: [f32; 3], d: f32| [camera.column(u, d), camera.row(h, d)];
        let pixels = [widths[0] * camera.focal / d0, widths[1] * camera.focal / d1];
        let sunlit = self.sunlit(to[0], to[1], to[2].max(from[2]));
        let ink = Ink { class, albedo, sunlit };
        self.world.sprites.push(Stroke::sprite(
            screen(from, d0),
            screen(to, d1),
            pixels,
            0.5 * (d0 + d1),
            ink,
        ));
    }

    /// An upright pole with its shadow.
    pub(super) fn pole(&mut self, u: f32, s: f32, height: f32, width: f32, albedo: Rgb) {
        self.bar([u, s, KERB_HEIGHT], [u, s, height], [width, width * 0.75], Class::Pole, albedo);
        self.shadow(u, s, Caster::Post { height, width });
    }

    pub(super) fn metal(rng: &mut Rng) -> Rgb {
        rng.pick(&[
            Rgb::grey(0.32),
            Rgb::grey(0.18),
            Rgb::grey(0.05),
            Rgb(0.06, 0.1, 0.07),
            Rgb(0.26, 0.22, 0.18),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::SceneSpec;
    use crate::types::Size;

    #[test]
    fn sprites_stand_in_view_and_come_near_to_far() {
        for seed in 0..6 {
            let spec = SceneSpec { size: Size::new(640, 360), seed, camera: 0, frame: 5 };
            let street = Street::new(seed);
            let camera = Camera::new(&spec, &street);
            let lots = Lots::around(&street, camera.s);
            let world = World::new(&camera, &Look::new(seed), &street, &lots, spec.frame);
            let depths: Vec<f32> = world.sprites.iter().map(|sprite| sprite.depth).collect();
            assert!(depths.len() > 100, "seed {seed}: {} sprites", depths.len());
            assert!(depths.is_sorted() && depths.iter().all(|d| *d > 0.0 && *d < FAR), "seed {seed}");
        }
    }
}
