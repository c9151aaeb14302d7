//! What stands and moves along the street in one frame: sprites, and the shadows they cast on the ground.

use super::camera::Camera;
use super::classes::Class;
use super::colour::Rgb;
use super::look::Look;
use super::rng::Rng;
use super::shadow::{Caster, Shadow};
use super::sprites::car::{Car, Heading};
use super::sprites::person::{Gait, Person};
use super::sprites::plate::{Sign, Signal};
use super::sprites::stroke::{Ink, Stroke};
use super::sprites::tree::Tree;
use super::sprites::{Board, Sprite};
use super::street::{FAR, KERB_HEIGHT, Lots, Street};

/// Sprites from near to far, and shadows.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) sprites: Vec<Sprite>,
    pub(super) shadows: Vec<Shadow>,
}

/// Collects the things around a camera.
struct Builder<'a> {
    camera: &'a Camera,
    look: &'a Look,
    street: &'a Street,
    lots: &'a Lots,
    frame: f32,
    world: World,
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
    fn rng(&self, kind: i64, index: i32, side: f32) -> Rng {
        Rng::keyed(self.street.seed, &[kind, i64::from(index), side as i64])
    }

    /// Depth of a position along the street, where the camera may see something there.
    fn depth(&self, s: f32) -> Option<f32> {
        let depth = s - self.camera.s;
        (depth > NEAR && depth < FAR).then_some(depth)
    }

    fn sunlit(&self, u: f32, s: f32, h: f32) -> f32 {
        self.lots.sunlit(self.look.to_sun, self.street.lot_line(), u, s, h)
    }

    fn board(&self, u: f32, s: f32, h: f32) -> Option<Board> {
        let depth = self.depth(s)?;
        Some(Board::new(self.camera, u, depth, h, self.sunlit(u, s, h + 1.0)))
    }

    fn shadow(&mut self, u: f32, s: f32, caster: Caster) {
        self.world.shadows.push(Shadow { u, s, caster });
    }

    /// A straight bar between two points at one depth or two.
    fn bar(&mut self, from: [f32; 3], to: [f32; 3], widths: [f32; 2], class: Class, albedo: Rgb) {
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
    fn pole(&mut self, u: f32, s: f32, height: f32, width: f32, albedo: Rgb) {
        self.bar([u, s, KERB_HEIGHT], [u, s, height], [width, width * 0.75], Class::Pole, albedo);
        self.shadow(u, s, Caster::Post { height, width });
    }

    fn metal(rng: &mut Rng) -> Rgb {
        rng.pick(&[
            Rgb::grey(0.32),
            Rgb::grey(0.18),
            Rgb::grey(0.05),
            Rgb(0.06, 0.1, 0.07),
            Rgb(0.26, 0.22, 0.18),
        ])
    }

    /// Lamps, signs and bollards along one side of a block.
    fn furniture(&mut self, block: i32, side: f32) {
        let street = self.street;
        let mut shared = self.rng(10, 0, 0.0);
        let (pitch, height, metal) =
            (shared.range(22.0, 36.0), shared.range(5.5, 9.0), Self::metal(&mut shared));
        let (reach, bollards) = (shared.range(0.8, 2.4), shared.chance(0.35));
        let mut rng = self.rng(11, block, side);
        let (start, end) =
            (block as f32 * street.period + street.cross + 2.0, (block + 1) as f32 * street.period - 2.0);
        let kerb = side * (street.half + 0.55);
        let mut s = start + rng.range(2.0, 8.0) + if side > 0.0 { 0.0 } else { pitch * 0.5 };
        while s < end {
            self.pole(kerb, s, height, 0.15, metal);
            let tip = kerb - side * reach;
            self.bar([kerb, s, height - 0.05], [tip, s, height + 0.25], [0.09, 0.07], Class::Pole, metal);
            self.bar(
                [tip, s, height + 0.22],
                [tip - side * 0.55, s, height + 0.26],
                [0.13, 0.16],
                Class::Pole,
                metal * 0.8,
            );
            if rng.chance(0.2)
                && let Some(board) = self.board(kerb, s - 0.1, 2.5)
            {
                self.world.sprites.push(Sign::traffic(&mut rng, board));
            }
            s += pitch;
        }
        for _ in 0..1 + (street.density * 4.0) as u32 {
            let s = rng.range(start, end);
            let u = side * (street.half + rng.range(0.45, 0.9));
            self.sign_post(&mut rng, u, s);
        }
        if bollards {
            let mut s = start;
            while s < start + 14.0 {
                self.pole(kerb, s, 0.95, 0.11, metal * 0.8);
                s += 1.7;
            }
        }
    }

    fn sign_post(&mut self, rng: &mut Rng, u: f32, s: f32) {
        let top = rng.range(2.2, 3.1);
        self.pole(u, s, top, 0.07, Rgb::grey(0.3));
        let large = rng.chance(0.15);
        let Some(board) = self.board(u, s - 0.06, top) else { return };
        let sprite = if large {
            let half = [rng.range(0.6, 1.1), rng.range(0.35, 0.6)];
            Sign::panel(rng, board, half)
        } else {
            Sign::traffic(rng, board)
        };
        self.world.sprites.push(sprite);
        if !large
            && rng.chance(0.35)
            && let Some(board) = self.board(u, s - 0.06, top - 0.75)
        {
            self.world.sprites.push(Sign::traffic(rng, board));
        }
    }

    /// Traffic lights, waiting cars and people on the zebra.
    fn crossing(&mut self, block: i32) {
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

    /// Street trees, and gardens on empty lots.
    fn greenery(&mut self, block: i32, side: f32) {
        let street = self.street;
        let mut rng = self.rng(13, block, side);
        let (start, end) =
            (block as f32 * street.period + street.cross + 3.0, (block + 1) as f32 * street.period - 3.0);
        if rng.chance(0.55) {
            let pitch = rng.range(7.0, 16.0);
            let u = if street.verge > 0.0 {
                street.half + street.sidewalk + 0.5 * street.verge
            } else {
                street.half + 1.1
            };
            let height = rng.range(5.0, 11.0);
            let mut s = start + rng.range(1.0, 5.0);
            while s < end {
                let own = height * rng.range(0.8, 1.2);
                let mut seeds = Rng::keyed(rng.next(), &[]);
                if rng.chance(0.85) {
                    self.tree(&mut seeds, side * u, s, own);
                }
                s += pitch;
            }
        }
        let line = street.lot_line();
        let mut s = start;
        while s < end {
            let mut seeds = Rng::keyed(rng.next(), &[]);
            if self.lots.at(side, s).is_none() && self.lots.at(side, s + 1.5).is_none() {
                if seeds.chance(0.75) {
                    let u = side * (line + 0.7);
                    let (width, height) = (seeds.range(1.6, 3.2), seeds.range(0.8, 1.9));
                    self.bush(&mut seeds, u, s + 0.5, width, height);
                }
                if seeds.chance(0.4) {
                    let (u, height) = (side * (line + seeds.range(3.0, 14.0)), seeds.range(4.0, 12.0));
                    self.tree(&mut seeds, u, s + 0.9, height);
                }
            }
            s += 2.2;
        }
        // Behind the houses, so that gaps do not open on nothing.
        let mut s = start - street.cross;
        while s < end {
            let mut seeds = Rng::keyed(rng.next(), &[]);
            let (u, height) = (side * (line + seeds.range(19.0, 34.0)), seeds.range(6.0, 14.0));
            if !street.crossing(s) {
                self.tree(&mut seeds, u, s, height);
            }
            s += 9.0;
        }
    }

    fn tree(&mut self, rng: &mut Rng, u: f32, s: f32, height: f32) {
        let Some(depth) = self.depth(s) else { return };
        let board = Board::new(self.camera, u, depth, KERB_HEIGHT, self.sunlit(u, s, height * 0.6));
        self.world.sprites.push(Tree::tree(rng, self.look, board, height));
        self.shadow(u, s, Caster::Crown { height: height * 0.66, radius: height * 0.3 });
        self.shadow(u, s, Caster::Post { height: height * 0.5, width: height * 0.045 });
    }

    fn bush(&mut self, rng: &mut Rng, u: f32, s: f32, width: f32, height: f32) {
        if let Some(board) = self.board(u, s, KERB_HEIGHT) {
            self.world.sprites.push(Tree::bush(rng, self.look, board, width, height));
            self.shadow(u, s, Caster::Crown { height: height * 0.5, radius: width * 0.5 });
        }
    }

    fn parked(&mut self, block: i32, side: f32) {
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
    fn traffic(&mut self) {
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
    fn walkers(&mut self) {
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

    /// Poles with wires along one or both sides, and wires across the street.
    fn wires(&mut self) {
        let street = self.street;
        let mut shared = self.rng(30, 0, 0.0);
        let sides: &[f32] = match shared.below(5) {
            0 | 1 => &[1.0],
            2 | 3 => &[-1.0],
            _ => &[-1.0, 1.0],
        };
        let (pitch, height) = (shared.range(26.0, 42.0), shared.range(7.5, 10.5));
        let count = 2 + shared.below(5);
        let wood = if shared.chance(0.6) { Rgb(0.11, 0.08, 0.055) } else { Rgb::grey(0.3) };
        let across = shared.chance(0.6);
        let insulation = Rgb::grey(shared.range(0.008, 0.04));
        let first = (self.camera.s / pitch).floor() as i32 - 1;
        for &side in sides {
            let u = side * (street.half + street.sidewalk - 0.4);
            for index in first..first + (FAR / pitch) as i32 {
                let s = index as f32 * pitch + 3.0;
                self.pole(u, s, height, 0.24, wood);
                self.bar(
                    [u - 1.0, s - 0.1, height - 0.5],
                    [u + 1.0, s - 0.1, height - 0.5],
                    [0.12, 0.12],
                    Class::Pole,
                    wood,
                );
                for wire in 0..count {
                    let (off, drop) = if wire < 4 {
                        (wire as f32 * 0.6 - 0.9, 0.42)
                    } else {
                        (0.15, 1.2 + 0.4 * (wire - 4) as f32)
                    };
                    let thick = if wire < 4 { 0.016 } else { 0.03 };
                    let h = height - drop;
                    self.wire(
                        [u + off, s, h],
                        [u + off, s + pitch, h],
                        0.02 * pitch + 0.1 * wire as f32,
                        thick,
                        insulation,
                    );
                }
                let mut rng = self.rng(31, index, side);
                if across && rng.chance(0.5) {
                    let (h, target) = (height - 0.9, rng.range(5.0, 8.0));
                    let end = rng.range(-4.0, 4.0);
                    self.wire([u, s, h], [-side * street.lot_line(), s + end, target], 0.5, 0.02, insulation);
                }
            }
        }
    }

    /// A hanging wire: a parabola, which a catenary is at such slack, in straight pieces.
    fn wire(&mut self, from: [f32; 3], to: [f32; 3], slack: f32, thick: f32, albedo: Rgb) {
        // Near spans bend more on the screen.
        let pieces = if from[1] - self.camera.s < 80.0 { 28 } else { 10 };
        let at = |i: u32| {
            let t = i as f32 / pieces as f32;
            let hang = slack * 4.0 * t * (1.0 - t);
            [
                from[0] + (to[0] - from[0]) * t,
                from[1] + (to[1] - from[1]) * t,
                from[2] + (to[2] - from[2]) * t - hang,
            ]
        };
        for i in 0..pieces {
            self.bar(at(i), at(i + 1), [thick, thick], Class::Wire, albedo);
        }
    }
}

/// Position in a step after `walked` metres, a triangle wave in -1..=1.
fn phase(walked: f32) -> f32 {
    let t = walked / 1.3;
    4.0 * (t - (t + 0.5).floor()).abs() - 1.0
}
