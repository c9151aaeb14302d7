//! Cars, vans and buses: convex solids met by each pixel's ray.

use super::super::look::unit;
use super::super::rng::{Rng, noise};
use super::{Camera, Class, Hit, Look, Rgb, Shape, Sprite, pixel};

/// Which way a vehicle points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::synth) enum Heading {
    /// Away from the camera.
    Ahead,
    /// Towards it.
    Towards,
    /// To the right or left, in a crossing street.
    Right,
    Left,
}

/// Half-space `normal . (along, across, h) <= limit`.
type Plane = ([f32; 3], f32);

/// A vehicle. Its own axes: along from tail to nose, across to its left or right alike, up.
#[derive(Clone, Debug)]
pub(in crate::synth) struct Car {
    u: f32,
    depth: f32,
    heading: Heading,
    length: f32,
    width: f32,
    belt: f32,
    roof: f32,
    body: Vec<Plane>,
    cabin: Vec<Plane>,
    paint: Rgb,
    wheels: [f32; 2],
    boxy: bool,
    sunlit: f32,
    brake: bool,
    seed: u32,
}

/// Where a ray goes in a vehicle's axes.
#[derive(Clone, Copy, Debug)]
struct Ray {
    origin: [f32; 3],
    step: [f32; 3],
}

impl Car {
    /// A vehicle centred `depth` metres ahead at `u`, and its length and width.
    pub(in crate::synth) fn sprite(
        rng: &mut Rng,
        camera: &Camera,
        u: f32,
        depth: f32,
        heading: Heading,
        sunlit: f32,
    ) -> Option<Sprite> {
        let car = Self::new(rng, u, depth, heading, sunlit);
        let along_view = matches!(heading, Heading::Ahead | Heading::Towards);
        let (half_s, half_u) = if along_view { (car.length, car.width) } else { (car.width, car.length) };
        let (half_s, half_u) = (0.5 * half_s, 0.5 * half_u);
        let near = depth - half_s;
        if near < 0.6 {
            return None;
        }
        let mut columns = [f32::INFINITY, f32::NEG_INFINITY];
        for d in [near, depth + half_s] {
            for side in [-1.0, 1.0] {
                let slope = camera.axis_slope(depth) * (d - depth);
                let x = camera.centre + camera.focal * (u + side * half_u - camera.axis_u(depth) - slope) / d;
                columns = [columns[0].min(x), columns[1].max(x)];
            }
        }
        let top = camera.row(car.roof, near).min(camera.row(car.roof, depth + half_s));
        let bottom = camera.row(0.0, near);
        Some(Sprite {
            columns: [pixel(columns[0]) - 1, pixel(columns[1]) + 2],
            rows: [pixel(top) - 1, pixel(bottom) + 2],
            depth: near,
            shape: Shape::Car(Box::new(car)),
        })
    }

    fn new(rng: &mut Rng, u: f32, depth: f32, heading: Heading, sunlit: f32) -> Self {
        let kind = rng.unit();
        let boxy = kind > 0.87;
        let bus = kind > 0.975;
        let (length, width, belt, roof) = if bus {
            (10.5, 2.5, 1.25, 3.0)
        } else if boxy {
            (rng.range(4.8, 5.9), 2.0, 1.15, rng.range(1.95, 2.5))
        } else if kind > 0.6 {
            (rng.range(4.4, 4.9), 1.9, 1.02, rng.range(1.62, 1.78))
        } else {
            (rng.range(3.8, 4.8), rng.range(1.7, 1.84), 0.9, rng.range(1.40, 1.52))
        };
        let (l, w) = (0.5 * length, 0.5 * width);
        let hood = if boxy { 0.45 } else { rng.range(0.26, 0.32) * length };
        let boot = if boxy || kind > 0.5 { 0.08 } else { rng.range(0.1, 0.2) * length };
        let slanted = |x: f32, y: f32, z: f32, px: f32, pz: f32| {
            let n = unit([x, y, z]);
            (n, n[0] * px + n[2] * pz)
        };
        let shoulder = unit([0.0, 1.0, 0.9]);
        let shoulder_limit = shoulder[1] * w + shoulder[2] * (belt - 0.13);
        let body = vec![
            (shoulder, shoulder_limit),
            ([0.0, -shoulder[1], shoulder[2]], shoulder_limit),
            ([0.0, 0.0, 1.0], belt),
            ([0.0, 0.0, -1.0], -0.24),
            ([0.0, 1.0, 0.0], w),
            ([0.0, -1.0, 0.0], w),
            slanted(1.0, 0.0, 0.12, l, 0.45),
            slanted(-1.0, 0.0, 0.10, -l, 0.55),
            slanted(0.42, 0.0, 1.0, l, belt - 0.30),
            slanted(-0.3, 0.0, 1.0, -l, belt - 0.10),
            slanted(-1.0, 0.0, -0.8, -l + 0.02, 0.36),
        ];
        let (rake, back) = if boxy { (0.35, 0.04) } else { (1.35, if boot > 0.3 { 1.1 } else { 0.4 }) };
        let tumble = if boxy { 0.05 } else { 0.28 };
        let side = unit([0.0, 1.0, tumble]);
        let side_limit = side[1] * (w - 0.03) + side[2] * belt;
        let cabin = vec![
            ([0.0, 0.0, 1.0], roof),
            ([0.0, 0.0, -1.0], -(belt - 0.12)),
            (side, side_limit),
            ([0.0, -side[1], side[2]], side_limit),
            slanted(1.0, 0.0, rake, l - hood, belt),
            slanted(-1.0, 0.0, back, -l + boot, belt),
        ];
        let paint = rng.pick(&[
            Rgb::grey(0.72),
            Rgb::grey(0.66),
            Rgb::grey(0.33),
            Rgb::grey(0.16),
            Rgb::grey(0.045),
            Rgb::grey(0.015),
            Rgb(0.02, 0.06, 0.25),
            Rgb(0.38, 0.02, 0.02),
            Rgb(0.05, 0.14, 0.06),
            Rgb(0.28, 0.22, 0.14),
            Rgb(0.1, 0.2, 0.3),
            Rgb(0.55, 0.33, 0.02),
        ]);
        Self {
            u,
            depth,
            heading,
            length,
            width,
            belt,
            roof,
            body,
            cabin,
            paint: paint * rng.range(0.85, 1.15),
            wheels: [-l + 0.19 * length, l - 0.18 * length],
            boxy,
            sunlit,
            brake: rng.chance(0.3),
            seed: rng.seed32(),
        }
    }

    /// The pixel's ray in the vehicle's axes; its parameter is depth.
    fn ray(&self, camera: &Camera, column: f32, row: f32) -> Ray {
        let (x, y) = (camera.ray_x(column), camera.ray_y(row));
        // The road's bend is taken straight over a vehicle's length.
        let slope = camera.axis_slope(self.depth);
        let across0 = camera.axis_u(self.depth) - slope * self.depth - self.u;
        let (ahead, ahead_step) = (-self.depth, 1.0);
        let (across, across_step) = (across0, x + slope);
        let (along, along_step, across, across_step) = match self.heading {
            Heading::Ahead => (ahead, ahead_step, across, across_step),
            Heading::Towards => (-ahead, -ahead_step, across, across_step),
            Heading::Right => (across, across_step, ahead, ahead_step),
            Heading::Left => (-across, -across_step, ahead, ahead_step),
        };
        Ray { origin: [along, across, camera.h], step: [along_step, across_step, -y] }
    }

    /// A vector of the vehicle's axes as right, up, ahead.
    fn world(&self, [along, across, up]: [f32; 3]) -> [f32; 3] {
        match self.heading {
            Heading::Ahead => [across, up, along],
            Heading::Towards => [across, up, -along],
            Heading::Right => [along, up, across],
            Heading::Left => [-along, up, across],
        }
    }

    /// The depth at which the pixel's ray meets the vehicle, and what it sees there.
    pub(super) fn sample(&self, camera: &Camera, look: &Look, column: f32, row: f32) -> Option<(f32, Hit)> {
        let ray = self.ray(camera, column, row);
        let body = enter(&self.body, ray);
        let cabin = enter(&self.cabin, ray);
        let (t, normal, in_cabin) = match (body, cabin) {
            (Some((b, n)), Some((c, _))) if b <= c => (b, n, false),
            (_, Some((c, n))) => (c, n, true),
            (Some((b, n)), None) => (b, n, false),
            (None, None) => return self.wheel(look, ray),
        };
        let p = [0, 1, 2].map(|i| ray.origin[i] + ray.step[i] * t);
        let (albedo, gloss, glow) =
            if in_cabin { self.cabin_colour(p, normal) } else { self.body_colour(p, normal) };
        let world = self.world(normal);
        let smudge = 0.9 + 0.2 * noise(self.seed, p[0] * 1.5 + p[1], p[2] * 2.0);
        // The lower a panel faces, the more road it mirrors.
        let sky = look.horizon.towards(look.zenith, 0.5) * (0.5 + 0.5 * world[1]).max(0.15);
        let ground_shade = 0.55 + 0.45 * (p[2] / 0.9).min(1.0);
        let light = albedo * look.light(world, self.sunlit) * (smudge * ground_shade) + sky * gloss + glow;
        Some((t, Hit { class: Class::Car, light: look.haze(light, self.depth) }))
    }

    /// Tyres and what hangs between them, below the body.
    fn wheel(&self, look: &Look, ray: Ray) -> Option<(f32, Hit)> {
        let w = 0.5 * self.width - 0.02;
        let under: [Plane; 6] = [
            ([0.0, 0.0, 1.0], 0.30),
            ([0.0, 0.0, -1.0], 0.0),
            ([0.0, 1.0, 0.0], w),
            ([0.0, -1.0, 0.0], w),
            ([1.0, 0.0, 0.0], self.wheels[1] + 0.31),
            ([-1.0, 0.0, 0.0], -self.wheels[0] + 0.31),
        ];
        let (t, normal) = enter(&under, ray)?;
        let p = [0, 1, 2].map(|i| ray.origin[i] + ray.step[i] * t);
        let tyre = if normal[1] != 0.0 {
            self.wheels.iter().any(|wheel| round(p[0] - wheel, p[2] - 0.31) < 0.096)
        } else {
            p[1].abs() > w - 0.2
        };
        let light = Rgb::grey(0.018) * look.light([0.0, 0.0, -1.0], 0.3);
        tyre.then(|| (t, Hit { class: Class::Car, light: look.haze(light, self.depth) }))
    }

    fn body_colour(&self, [along, across, h]: [f32; 3], normal: [f32; 3]) -> (Rgb, f32, Rgb) {
        let none = Rgb::default();
        let (l, w) = (0.5 * self.length, 0.5 * self.width);
        let dark = Rgb::grey(0.02);
        if normal[1].abs() > 0.5 {
            for wheel in self.wheels {
                let r2 = round(along - wheel, h - 0.31);
                if r2 < 0.125 {
                    let rim = r2 < 0.042 && r2 > 0.004;
                    return if rim { (Rgb::grey(0.3), 0.02, none) } else { (Rgb::grey(0.015), 0.0, none) };
                }
            }
            let seam =
                [-0.22, 0.04, 0.26].iter().any(|s| (along - s * self.length).abs() < 0.012) && h > 0.32;
            let handle = (h - self.belt + 0.14).abs() < 0.02
                && [-0.16, 0.1].iter().any(|s| (along - s * self.length).abs() < 0.09);
            if seam || handle || h < 0.31 {
                return (dark, 0.01, none);
            }
            return (self.paint, 0.035, none);
        }
        if normal[0] < -0.5 {
            // Tail: lamps, plate, bumper.
            if across.abs() > w - 0.27 && (h - self.belt + 0.26).abs() < 0.1 {
                let core = (h - self.belt + 0.26).abs() < 0.04;
                let glow = if self.brake && core { Rgb(1.3, 0.1, 0.06) } else { none };
                return (Rgb(0.30, 0.01, 0.012), 0.03, glow);
            }
            if across.abs() < 0.26 && (h - 0.56).abs() < 0.06 {
                return (Rgb(0.7, 0.66, 0.5), 0.0, none);
            }
            if h < 0.42 || (h - self.belt + 0.42).abs() < 0.012 {
                return (dark, 0.015, none);
            }
        } else if normal[0] > 0.5 {
            // Nose: headlamps, grille, plate.
            if across.abs() > w - 0.36 && (h - self.belt + 0.38).abs() < 0.07 {
                return (Rgb::grey(0.6), 0.1, Rgb::grey(0.25));
            }
            if across.abs() < 0.26 && (h - 0.42).abs() < 0.06 {
                return (Rgb::grey(0.68), 0.0, none);
            }
            if across.abs() < w - 0.42 && h > 0.34 && h < self.belt - 0.28 {
                let bar = (h * 14.0).fract() < 0.4;
                return (if bar { Rgb::grey(0.08) } else { dark }, 0.01, none);
            }
        }
        let edge = l - along.abs() < 0.02;
        (self.paint * if edge { 0.7 } else { 1.0 }, if normal[2] > 0.4 { 0.09 } else { 0.035 }, none)
    }

    fn cabin_colour(&self, [along, across, h]: [f32; 3], normal: [f32; 3]) -> (Rgb, f32, Rgb) {
        let none = Rgb::default();
        let glass = (Rgb::grey(0.012), 0.08 + 0.05 * (h - self.belt), none);
        let paint = (self.paint, if normal[2] > 0.9 { 0.1 } else { 0.03 }, none);
        let (low, high) = (self.belt + 0.04, self.roof - 0.1);
        if normal[2] > 0.98 || h < low || h > high {
            return paint;
        }
        if normal[1].abs() > 0.5 {
            let van = self.boxy && self.length < 8.0 && along < 0.15 * self.length;
            let pillar = [-0.2, 0.03].iter().any(|s| (along - s * self.length).abs() < 0.05);
            return if van || pillar || h > high - 0.02 { paint } else { glass };
        }
        let inset = 0.5 * self.width - 0.14 - if self.boxy { 0.04 } else { 0.25 } * (h - self.belt);
        if across.abs() > inset { paint } else { glass }
    }
}

fn round(x: f32, y: f32) -> f32 {
    x * x + y * y
}

/// Where a ray enters a convex solid, and through which face.
fn enter(planes: &[Plane], ray: Ray) -> Option<(f32, [f32; 3])> {
    let (mut first, mut last) = (0.05_f32, f32::INFINITY);
    let mut face = [0.0, 0.0, 1.0];
    for &(n, limit) in planes {
        let room = limit - (n[0] * ray.origin[0] + n[1] * ray.origin[1] + n[2] * ray.origin[2]);
        let rate = n[0] * ray.step[0] + n[1] * ray.step[1] + n[2] * ray.step[2];
        if rate < 0.0 {
            let t = room / rate;
            if t > first {
                first = t;
                face = n;
            }
        } else if rate > 0.0 {
            last = last.min(room / rate);
        } else if room < 0.0 {
            return None;
        }
        if first > last {
            return None;
        }
    }
    Some((first, face))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUBE: [Plane; 6] = [
        ([1.0, 0.0, 0.0], 1.0),
        ([-1.0, 0.0, 0.0], 1.0),
        ([0.0, 1.0, 0.0], 1.0),
        ([0.0, -1.0, 0.0], 1.0),
        ([0.0, 0.0, 1.0], 1.0),
        ([0.0, 0.0, -1.0], 1.0),
    ];

    #[test]
    fn rays_enter_the_face_they_meet_first() {
        let ray = |origin, step| Ray { origin, step };
        assert_eq!(enter(&CUBE, ray([-5.0, 0.0, 0.0], [1.0, 0.0, 0.0])), Some((4.0, [-1.0, 0.0, 0.0])));
        assert_eq!(enter(&CUBE, ray([0.0, 4.0, 0.5], [0.1, -1.0, 0.0])), Some((3.0, [0.0, 1.0, 0.0])));
        assert_eq!(enter(&CUBE, ray([-5.0, 2.0, 0.0], [1.0, 0.0, 0.0])), None, "beside it");
        assert_eq!(enter(&CUBE, ray([-5.0, 0.0, 0.0], [-1.0, 0.0, 0.0])), None, "away from it");
    }
}
