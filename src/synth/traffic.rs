//! Crossings with their lights, cars that park and move, people.

use super::classes::Class;
use super::colour::Rgb;
use super::rng::Rng;
use super::shadow::Caster;
use super::sprites::Board;
use super::sprites::car::{Car, Heading};
use super::sprites::person::{Gait, Person};
use super::sprites::plate::{Sign, Signal};
use super::street::{FAR, KERB_HEIGHT};
use super::world::Builder;

impl Builder<'_> {
    /// Traffic lights, waiting cars and people on the zebra.
    pub(super) fn crossing(&mut self, block: i32) {
        let street = self.street;
        let start = block as f32 * street.period;
        let mut rng = self.rng(12, block, 0.0);
        let (metal, housing) =
            (Self::metal(&mut rng), rng.pick(&[Rgb::grey(0.02), Rgb::grey(0.03), Rgb(0.45, 0.3, 0.02)]));
        let state = rng.below(3) as u8;
        if street.signalled(block) {
            for (side, s) in [
                (1.0, start - 0.7),
                (-1.0, start - 0.7),
                (1.0, start + street.cross + 0.9),
                (-1.0, start + street.cross + 0.9),
            ] {
                let u = side * (street.half + 0.7);
                self.pole(u, s, 3.5, 0.12, metal);
                self.signal(u, s - 0.12, 2.95, state, housing);
                if side > 0.0 && s > start && street.lanes > 1 {
                    let tip = street.half * 0.35;
                    self.pole(u, s, 6.0, 0.2, metal);
                    self.bar([u, s, 5.8], [tip, s, 6.1], [0.14, 0.09], Class::Pole, metal);
                    self.signal(tip, s - 0.12, 5.7, state, housing);
                    self.signal(tip + 0.45 * (u - tip), s - 0.12, 5.65, state, housing);
                    if let Some(board) = self.board(tip + 0.75 * (u - tip), s - 0.1, 5.75) {
                        self.world.sprites.push(Sign::panel(&mut rng, board, [0.8, 0.22]));
                    }
                }
            }
        }
        for side in [-1.0, 1.0] {
            if rng.chance(0.45 * street.density + 0.15) {
                let heading = if side > 0.0 { Heading::Left } else { Heading::Right };
                let lane = if side > 0.0 { 0.7 } else { 0.28 };
                let u = side * (street.half + 3.2 + rng.range(2.3, 6.0));
                self.car(&mut rng, u, start + street.cross * lane, heading);
            }
        }
        for edge in [start - 2.1, start + street.cross + 2.1] {
            for _ in 0..(street.density * rng.range(0.0, 4.0)) as u32 {
                let direction = if rng.chance(0.5) { 1.0 } else { -1.0 };
                let span = 2.0 * street.half + 3.0;
                let walked = rng.range(0.0, span) + self.frame * 0.13;
                let u = direction * ((walked - (walked / span).floor() * span) - 0.5 * span);
                let gait = Gait { across: true, phase: phase(walked), facing: direction };
                let s = edge + rng.range(-1.2, 1.2);
                let seed = rng.next();
                self.person(seed, u, s, gait);
            }
        }
    }

    fn signal(&mut self, u: f32, s: f32, h: f32, state: u8, housing: Rgb) {
        if let Some(board) = self.board(u, s, h) {
            self.world.sprites.push(Signal::sprite(board, state, housing));
        }
    }

    pub(super) fn parked(&mut self, block: i32, side: f32) {
        let street = self.street;
        if !street.parking {
            return;
        }
        let mut rng = self.rng(14, block, side);
        let (start, end) =
            (block as f32 * street.period + street.cross + 9.0, (block + 1) as f32 * street.period - 9.0);
        let mut s = start;
        while s < end {
            let mut seeds = Rng::keyed(rng.next(), &[]);
            // A car right beside the camera would hide the street.
            if rng.chance(0.75 * street.density) && (s - self.camera.s > 8.5 || side < 0.0) {
                let heading = if side > 0.0 { Heading::Ahead } else { Heading::Towards };
                let u = side * (street.half - 1.15 + seeds.range(-0.1, 0.1));
                let off = seeds.range(-0.4, 0.4);
                self.car(&mut seeds, u, s + off, heading);
            }
            s += 6.2;
        }
    }

    fn car(&mut self, rng: &mut Rng, u: f32, s: f32, heading: Heading) {
        let depth = s - self.camera.s;
        if !(0.0..FAR).contains(&depth) {
            return;
        }
        let sunlit = self.sunlit(u, s, 1.0);
        if let Some(sprite) = Car::sprite(rng, self.camera, u, depth, heading, sunlit) {
            self.world.sprites.push(sprite);
        }
        let half = if matches!(heading, Heading::Ahead | Heading::Towards) { [0.9, 2.2] } else { [2.2, 0.9] };
        self.shadow(u, s, Caster::Block { half, height: 1.4 });
    }

    /// Moving cars: each lane is an endless train that moves at one speed.
    pub(super) fn traffic(&mut self) {
        let street = self.street;
        for lane in 0..street.lanes {
            for side in [-1.0, 1.0] {
                let mut shared = self.rng(15, lane as i32, side);
                let gap = shared.range(14.0, 40.0) / (0.4 + street.density);
                let speed = if side > 0.0 {
                    street.speed * shared.range(0.75, 1.25)
                } else {
                    -street.speed * shared.range(0.8, 1.3)
                };
                let u = side * street.lane_width * (lane as f32 + 0.5);
                let own = (u - self.camera.u).abs() < 1.6;
                // The camera's own lane keeps its distance.
                let moved = self.frame * if own { street.speed } else { speed };
                let first = ((self.camera.s - moved) / gap).floor() as i32;
                for index in first..first + (FAR / gap) as i32 {
                    let mut rng = self.rng(16 + i64::from(lane), index, side);
                    let s = index as f32 * gap + rng.range(0.0, gap - 8.0).max(0.0) + moved;
                    if !rng.chance(0.7) || (own && s - self.camera.s < 9.0) {
                        continue;
                    }
                    let heading = if side > 0.0 { Heading::Ahead } else { Heading::Towards };
                    let sway = rng.range(-0.25, 0.25);
                    self.car(&mut rng, u + sway, s, heading);
                }
            }
        }
    }

    /// People on the sidewalks: on each side one train each way.
    pub(super) fn walkers(&mut self) {
        let street = self.street;
        for side in [-1.0, 1.0] {
            for (way, direction) in [(0, 1.0), (1, -1.0)] {
                let mut shared = self.rng(20 + way, 0, side);
                let gap = shared.range(7.0, 26.0) / (0.3 + street.density);
                let moved = direction * self.frame * shared.range(0.1, 0.16);
                let first = ((self.camera.s - moved) / gap).floor() as i32;
                for index in first..first + (300.0 / gap) as i32 {
                    let mut rng = self.rng(22 + way, index, side);
                    if !rng.chance(0.75) {
                        continue;
                    }
                    let s = index as f32 * gap + rng.range(0.0, gap * 0.8) + moved;
                    let u = side * (street.half + rng.range(0.9, street.sidewalk - 0.4));
                    let gait =
                        Gait { across: false, phase: phase(moved + rng.range(0.0, 3.0)), facing: direction };
                    for companion in 0..1 + u32::from(rng.chance(0.25)) {
                        let seed = rng.next();
                        self.person(seed, u + 0.62 * companion as f32, s, gait);
                    }
                }
            }
        }
    }

    fn person(&mut self, seed: u64, u: f32, s: f32, gait: Gait) {
        let mut rng = Rng::keyed(seed, &[]);
        let ground = if u.abs() > self.street.half && !self.street.crossing(s) { KERB_HEIGHT } else { 0.0 };
        let Some(depth) = self.depth(s) else { return };
        let board = Board::new(self.camera, u, depth, ground, self.sunlit(u, s, 1.2));
        self.world.sprites.push(Person::sprite(&mut rng, board, gait));
        self.shadow(u, s, Caster::Post { height: 1.7, width: 0.42 });
    }
}

/// Position in a step after `walked` metres, a triangle wave in -1..=1.
fn phase(walked: f32) -> f32 {
    let t = walked / 1.3;
    4.0 * (t - (t + 0.5).floor()).abs() - 1.0
}
