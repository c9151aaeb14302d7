//! Flat things on poles: signs and traffic lights.

use super::super::rng::{Rng, cell};
use super::{Board, Class, Hit, Look, Rgb, Shape, Sprite};

/// Outline of a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outline {
    Disc,
    Triangle,
    Octagon,
    Diamond,
    Panel,
}

/// A sign, `half` metres from its centre to its edge.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Sign {
    board: Board,
    outline: Outline,
    half: [f32; 2],
    face: Rgb,
    rim: Rgb,
    ink: Rgb,
    seed: u32,
}

impl Sign {
    /// A traffic sign; the board's origin is its centre.
    pub(in crate::synth) fn traffic(rng: &mut Rng, board: Board) -> Sprite {
        let red = Rgb(0.48, 0.02, 0.025);
        let white = Rgb::grey(0.72);
        let blue = Rgb(0.015, 0.08, 0.38);
        let yellow = Rgb(0.72, 0.46, 0.02);
        let black = Rgb::grey(0.02);
        let (outline, face, rim, ink) = rng.pick(&[
            (Outline::Disc, white, red, black),
            (Outline::Disc, blue, white, white),
            (Outline::Disc, red, red, white),
            (Outline::Triangle, white, red, black),
            (Outline::Octagon, red, white, white),
            (Outline::Diamond, yellow, black, black),
            (Outline::Diamond, yellow, white, yellow),
            (Outline::Panel, blue, white, white),
            (Outline::Panel, white, black, black),
        ]);
        let size = rng.range(0.3, 0.45);
        let half =
            if outline == Outline::Panel { [size * 0.85, size * rng.range(0.85, 1.3)] } else { [size, size] };
        Self { board, outline, half, face, rim, ink, seed: rng.seed32() }.sprite()
    }

    /// A panel with writing: directions or a street's name.
    pub(in crate::synth) fn panel(rng: &mut Rng, board: Board, half: [f32; 2]) -> Sprite {
        let face =
            rng.pick(&[Rgb(0.01, 0.13, 0.05), Rgb(0.015, 0.07, 0.33), Rgb::grey(0.7), Rgb(0.62, 0.42, 0.03)]);
        let light = face.1 > 0.3;
        let ink = if light { Rgb::grey(0.03) } else { Rgb::grey(0.75) };
        Self { board, outline: Outline::Panel, half, face, rim: ink, ink, seed: rng.seed32() }.sprite()
    }

    fn sprite(self) -> Sprite {
        let ([w, h], board) = (self.half, self.board);
        board.sprite([-w, w], [-h, h], Shape::Sign(self))
    }

    pub(super) fn sample(&self, look: &Look, column: f32, row: f32) -> Option<Hit> {
        let (x, y) = self.board.at(column, row);
        let (x, y) = (x / self.half[0], y / self.half[1]);
        // 0 at the centre, 1 at the edge.
        let reach = match self.outline {
            Outline::Disc => (x * x + y * y).sqrt(),
            Outline::Triangle => (-y * 1.6 - 0.35).max(x.abs() * 1.15 + y * 0.58 + 0.42),
            Outline::Octagon => {
                x.abs().max(y.abs()).max((x.abs() + y.abs()) * std::f32::consts::FRAC_1_SQRT_2)
            }
            Outline::Diamond => x.abs() + y.abs(),
            Outline::Panel => x.abs().max(y.abs()),
        };
        if reach > 1.0 {
            return None;
        }
        let rim = if self.outline == Outline::Panel { 0.93 } else { 0.78 };
        let albedo = if reach > rim {
            self.rim
        } else if self.inked(x, y) {
            self.ink
        } else {
            self.face
        };
        let sheen = 1.0 + 0.12 * y;
        let light = albedo * look.light([0.0, 0.1, -0.99], self.board.sunlit) * sheen;
        Some(Hit { class: Class::Sign, light: look.haze(light, self.board.depth) })
    }

    /// Writing on panels, a symbol on the rest.
    fn inked(&self, x: f32, y: f32) -> bool {
        if self.outline == Outline::Panel && self.half[0] > 0.5 {
            let line = (y * self.half[1] / 0.16 + 100.0).fract();
            return x.abs() < 0.85
                && line < 0.55
                && cell(
                    self.seed,
                    (x * self.half[0] / 0.07).floor() as i32,
                    (y * self.half[1] / 0.04).floor() as i32,
                ) > 0.42;
        }
        match self.seed % 4 {
            0 => y.abs() < 0.14 && x.abs() < 0.55,
            1 => x.abs() < 0.12 && y.abs() < 0.5 || (y - 0.25).abs() < 0.1 && x.abs() < 0.35,
            2 => (x - y).abs() < 0.16 && x.abs() < 0.45,
            _ => {
                let digit = (x * 2.2).abs();
                y.abs() < 0.42
                    && digit > 0.18
                    && digit < 0.95
                    && cell(self.seed, (x * 6.0) as i32, (y * 5.0) as i32) > 0.35
            }
        }
    }
}

/// A traffic light's head: three lamps in a dark housing.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Signal {
    board: Board,
    /// 0 red, 1 amber, 2 green.
    lit: u8,
    housing: Rgb,
}

const SIGNAL_HALF: [f32; 2] = [0.17, 0.5];

impl Signal {
    /// A head; the board's origin is its centre.
    pub(in crate::synth) fn sprite(board: Board, lit: u8, housing: Rgb) -> Sprite {
        let [w, h] = SIGNAL_HALF;
        board.sprite([-w, w], [-h, h], Shape::Signal(Self { board, lit, housing }))
    }

    pub(super) fn sample(&self, look: &Look, column: f32, row: f32) -> Option<Hit> {
        let (x, y) = self.board.at(column, row);
        let [w, h] = SIGNAL_HALF;
        let half = w.max(0.5 * self.board.pixel());
        if x.abs() > half || y.abs() > h {
            return None;
        }
        let mut light = self.housing * look.light([0.0, 0.2, -0.98], self.board.sunlit);
        for (index, colour) in
            [Rgb(1.0, 0.06, 0.03), Rgb(1.0, 0.5, 0.04), Rgb(0.1, 0.95, 0.4)].into_iter().enumerate()
        {
            let dy = y - (1.0 - index as f32) * 0.31;
            if x * x + dy * dy < 0.0155 {
                let core = 1.0 - 12.0 * (x * x + dy * dy);
                let on = usize::from(self.lit) == index;
                light = if on { colour * (1.7 + 1.2 * core) } else { colour * 0.06 };
                if !on && dy > 0.07 {
                    light = light * 0.4;
                }
            }
        }
        Some(Hit { class: Class::TrafficLight, light: look.haze(light, self.board.depth * 0.5) })
    }
}
