//! Lamps, signs, bollards and overhead wires along the street.

use super::classes::Class;
use super::colour::Rgb;
use super::rng::Rng;
use super::sprites::plate::Sign;
use super::street::FAR;
use super::world::Builder;

impl Builder<'_> {
    /// Lamps, signs and bollards along one side of a block.
    pub(super) fn furniture(&mut self, block: i32, side: f32) {
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

    /// Poles with wires along one or both sides, and wires across the street.
    pub(super) fn wires(&mut self) {
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
