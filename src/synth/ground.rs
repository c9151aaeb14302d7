//! The ground: carriageway and its paint, kerbs, sidewalks, grass.

use super::camera::Camera;
use super::classes::Class;
use super::colour::Rgb;
use super::look::Look;
use super::rng::{Rng, cell, fract, fractal, noise, smoothstep};
use super::street::{KERB_HEIGHT, KERB_WIDTH, Lots, Street};

/// Colours of the ground of a seed.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    asphalt: Rgb,
    paving: Rgb,
    stone: Rgb,
    grass: Rgb,
    slab: f32,
    brick_paving: bool,
    cracks: f32,
    paint: f32,
    seed: u32,
}

/// One row of ground: its depth, and what does not change along it.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroundRow {
    /// Depth of the carriageway in this row.
    pub(super) depth: f32,
    s: f32,
    raised_depth: f32,
    raised_s: f32,
    /// Whether carriageway crosses here, at the two levels.
    open: bool,
    raised_open: bool,
    /// Metres a pixel covers across and along.
    across: f32,
    along: f32,
}

impl GroundRow {
    /// The ground of a row below the horizon.
    pub(super) fn new(camera: &Camera, street: &Street, row: f32) -> Option<Self> {
        let slope = camera.ray_y(row);
        if slope <= 0.0 {
            return None;
        }
        let depth = camera.h / slope;
        let raised_depth = (camera.h - KERB_HEIGHT) / slope;
        let (s, raised_s) = (camera.s + depth, camera.s + raised_depth);
        Some(Self {
            depth,
            s,
            raised_depth,
            raised_s,
            open: street.crossing(s),
            raised_open: street.crossing(raised_s),
            across: depth / camera.focal,
            along: depth * depth / (camera.focal * camera.h),
        })
    }
}

/// A point of the ground, before light.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroundPoint {
    pub(super) class: Class,
    pub(super) albedo: Rgb,
    pub(super) u: f32,
    pub(super) s: f32,
    /// Unit normal.
    pub(super) normal: [f32; 3],
}

impl Ground {
    /// The ground of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, &[7]);
        let tone = rng.range(0.05, 0.15);
        let warm = rng.range(-0.06, 0.08);
        Self {
            asphalt: Rgb(tone * (1.0 + warm), tone, tone * (1.0 - warm)),
            paving: rng.pick(&[
                Rgb::of(150, 146, 138),
                Rgb::of(168, 160, 148),
                Rgb::of(128, 128, 130),
                Rgb::of(150, 122, 108),
            ]),
            stone: Rgb::grey(rng.range(0.28, 0.48)),
            grass: Rgb(rng.range(0.07, 0.14), rng.range(0.14, 0.2), rng.range(0.025, 0.05)),
            slab: rng.range(0.4, 0.95),
            brick_paving: rng.chance(0.3),
            cracks: rng.range(0.0, 0.022),
            paint: rng.range(0.5, 0.78),
            seed: rng.seed32(),
        }
    }

    /// What a column sees of a row's ground.
    pub(super) fn point(
        &self,
        camera: &Camera,
        street: &Street,
        lots: &Lots,
        row: &GroundRow,
        ray: f32,
    ) -> GroundPoint {
        let up = [0.0, 1.0, 0.0];
        let raised_u = camera.axis_u(row.raised_depth) + ray * row.raised_depth;
        if raised_u.abs() > street.half && !row.raised_open {
            let (u, s) = (raised_u, row.raised_s);
            let (class, albedo) = self.raised(street, lots, row, u, s);
            return GroundPoint { class, albedo, u, s, normal: up };
        }
        let u = camera.axis_u(row.depth) + ray * row.depth;
        let s = row.s;
        if u.abs() > street.half && !row.open {
            let side = if u > 0.0 { 1.0 } else { -1.0 };
            let normal = if row.raised_open { [0.0, 0.0, -1.0] } else { [-side, 0.0, 0.0] };
            let joint = ((s * 1.1).floor() as i32).rem_euclid(2) as f32;
            let albedo = self.stone * (0.8 + 0.1 * joint);
            return GroundPoint { class: Class::Kerb, albedo, u, s, normal };
        }
        let (class, albedo) = self.carriageway(street, row, u, s);
        GroundPoint { class, albedo, u, s, normal: up }
    }

    fn raised(&self, street: &Street, lots: &Lots, row: &GroundRow, u: f32, s: f32) -> (Class, Rgb) {
        let out = u.abs() - street.half;
        // Kerb stones follow the carriageway round the corner.
        let into = street.past_crossing(s);
        let edge = out.min(into - street.cross).min(street.period - into);
        let fine = fade(row, 0.02);
        let grain = 1.0 + vary(fine * 0.5, || noise(self.seed, u * 40.0, s * 40.0));
        if edge < KERB_WIDTH {
            let joint = if fine > 0.0 && fract(s) < 0.03 { 0.7 } else { 1.0 };
            return (Class::Kerb, self.stone * (grain * joint * 1.15));
        }
        let side = if u > 0.0 { 1.0 } else { -1.0 };
        let on_verge =
            out > street.sidewalk && out <= street.sidewalk + street.verge && into > street.cross + 2.6;
        let in_garden = out > street.sidewalk + street.verge
            && street.period - into > 2.6
            && into > street.cross + 2.6
            && lots.at(side, s).is_none();
        if on_verge || in_garden {
            return (Class::Vegetation, self.grass_at(row, u, s));
        }
        let blotch = 0.8 + 0.4 * fractal(self.seed ^ 5, u * 0.7, s * 0.7, 3);
        let (joint, tint) = self.slab(row, u, s);
        (Class::Sidewalk, self.paving * (grain * blotch * joint * tint))
    }

    /// Darkness of the joints between slabs, and each slab's own shade.
    fn slab(&self, row: &GroundRow, u: f32, s: f32) -> (f32, f32) {
        let (w, l) = if self.brick_paving { (0.12, 0.24) } else { (self.slab, self.slab) };
        let lane = (u / w).floor();
        let shifted = s / l + if self.brick_paving { 0.5 * lane } else { 0.0 };
        let (fu, fs) = (fract(u / w) * w, fract(shifted) * l);
        let gap = 0.012;
        let fine = fade(row, 0.05).max(0.0);
        let dark = if fu < gap + 0.5 * row.across || fs < gap { 1.0 - 0.45 * fine } else { 1.0 };
        let coarse = fade(row, w * 0.6);
        let tint = 1.0 + vary(coarse * 0.24, || cell(self.seed ^ 9, lane as i32, shifted.floor() as i32));
        (dark, tint)
    }

    fn grass_at(&self, row: &GroundRow, u: f32, s: f32) -> Rgb {
        let broad = fractal(self.seed ^ 11, u * 0.5, s * 0.5, 3);
        let blades = vary(1.1 * fade(row, 0.05), || noise(self.seed ^ 12, u * 30.0, s * 11.0));
        let clumps = vary(0.6 * fade(row, 0.3), || noise(self.seed ^ 13, u * 6.0, s * 4.0));
        let dry = smoothstep(0.5, 0.8, broad);
        let green = self.grass.towards(Rgb(0.22, 0.19, 0.08), dry * 0.6);
        green * (1.0 + blades + clumps)
    }

    fn carriageway(&self, street: &Street, row: &GroundRow, u: f32, s: f32) -> (Class, Rgb) {
        let fine = fade(row, 0.03);
        let wear = fractal(self.seed ^ 21, u * 1.7, s * 0.6, 3);
        let speckle =
            if fine > 0.0 { cell(self.seed ^ 22, (u * 70.0) as i32, (s * 70.0) as i32) - 0.5 } else { 0.0 };
        let grain = 1.0
            + 0.5 * fine * speckle
            + vary(0.35 * fade(row, 0.12), || noise(self.seed ^ 23, u * 12.0, s * 12.0));
        if let Some(paint) = self.marking(street, u, s, row) {
            let worn = 0.62 + 0.38 * smoothstep(0.25, 0.5, wear + 0.25 * fine * speckle);
            return (Class::LaneMarking, paint * (grain * worn));
        }
        let mut tone = grain * (0.75 + 0.5 * wear);
        // Wheels polish two tracks in each lane.
        let lane = fract(u.abs() / street.lane_width) - 0.5;
        let track = (lane.abs() - 0.26).abs();
        if u.abs() < street.lanes as f32 * street.lane_width {
            tone *= 0.86 + 0.14 * smoothstep(0.03, 0.14, track);
        }
        tone *= self.repairs(row, u, s);
        (Class::Road, self.asphalt * tone)
    }

    /// Patches, seams, cracks and manholes.
    fn repairs(&self, row: &GroundRow, u: f32, s: f32) -> f32 {
        let mut tone = 1.0;
        let (pu, ps) = ((u / 3.1).floor() as i32, (s / 7.0).floor() as i32);
        let roll = cell(self.seed ^ 31, pu, ps);
        let (fu, fs) = (fract(u / 3.1), fract(s / 7.0));
        if roll < 0.14 && fu < 0.3 + 4.0 * roll && fs > 0.2 && fs < 0.4 + 3.0 * roll {
            tone *= 0.72;
        } else if roll > 0.93 {
            let (du, ds) = ((fu - 0.5) * 3.1, (fs - 0.5) * 7.0);
            let r2 = du * du + ds * ds;
            if r2 < 0.12 {
                tone *= if r2 > 0.095 { 0.45 } else { 0.62 + 0.25 * fract(ds * 9.0).round() };
            }
        }
        let width = self.cracks;
        let shown = fade(row, 0.05);
        if shown > 0.0 && width > 0.0 {
            // Cracks run for a while, thin out and end.
            let open = noise(self.seed ^ 34, u * 0.3, s * 0.2) - 0.5;
            if open > 0.0 {
                let warp = noise(self.seed ^ 33, u * 3.0, s * 3.0) * 0.5;
                let ridge = (noise(self.seed ^ 32, u * 0.45 + warp, s * 0.22 + warp) - 0.5).abs();
                if ridge < width * open {
                    tone *= 1.0 - 0.55 * shown;
                }
            }
        }
        tone
    }

    /// The paint at a point of the carriageway.
    fn marking(&self, street: &Street, u: f32, s: f32, row: &GroundRow) -> Option<Rgb> {
        let white = Rgb(self.paint, self.paint, self.paint * 0.96);
        let yellow = Rgb(self.paint * 0.95, self.paint * 0.62, self.paint * 0.08);
        let into = street.past_crossing(s);
        let side = u.abs();
        let lanes = street.lanes as f32 * street.lane_width;
        // A line keeps its width until it is thinner than a pixel's core.
        let line = |at: f32, width: f32| (side - at).abs() < (0.5 * width).max(0.3 * row.across);
        if into < street.cross {
            return None;
        }
        let (before, after) = (street.period - into, into - street.cross);
        let block = street.block(s);
        let zebra = |distance: f32, block: i32| {
            (0.6..3.6).contains(&distance)
                && side < street.half - 0.25
                && street.zebra(block)
                && fract(u / 1.0) < 0.5
        };
        if zebra(before, block + 1) || zebra(after, block) {
            return Some(white);
        }
        // Traffic keeps right: the right half stops before the crossing ahead, the left half before the one behind.
        let stop = if u > 0.0 { before } else { after };
        if (4.4..4.85).contains(&stop) && side > 0.1 && side < lanes {
            return Some(white);
        }
        if before < 3.9 || after < 3.9 {
            return None;
        }
        let solid = before < 18.0 || after < 18.0;
        if street.yellow && (side - 0.14).abs() < 0.06 {
            return Some(yellow);
        }
        let dash = fract(s / 6.0) < 0.5;
        if !street.yellow && (solid || dash) && line(0.0, 0.14) {
            return Some(white);
        }
        for lane in 1..street.lanes {
            if (solid || dash) && line(lane as f32 * street.lane_width, 0.12) {
                return Some(white);
            }
        }
        if line(lanes + 0.08, 0.12) {
            return Some(white);
        }
        if street.parking && side > lanes && fract(s / 6.2) < 0.1 / 6.2 {
            return Some(white);
        }
        self.arrow(street, u, stop).then_some(white)
    }

    /// An arrow ahead in each lane, `stop` metres before the crossing.
    fn arrow(&self, street: &Street, u: f32, stop: f32) -> bool {
        if street.lanes < 2
            || !(9.0..13.0).contains(&stop)
            || u.abs() > street.lanes as f32 * street.lane_width
        {
            return false;
        }
        let off = (fract(u / street.lane_width) - 0.5).abs() * street.lane_width;
        let along = stop - 9.0;
        if along < 1.4 { off < 0.45 * along / 1.4 } else { off < 0.09 }
    }
}

/// How much of a texture of this size, in metres, a pixel of the row can show: 1 near, 0 where it would alias.
fn fade(row: &GroundRow, size: f32) -> f32 {
    let pixel = 0.5 * (row.across + row.along);
    (1.6 - pixel / size).clamp(0.0, 1.0)
}

/// `amount` of a texture, centred on 0; a texture too fine to show is not computed.
fn vary(amount: f32, texture: impl FnOnce() -> f32) -> f32 {
    if amount > 0.0 { amount * (texture() - 0.5) } else { 0.0 }
}

/// Sunlight and sky on a ground point.
pub(super) fn lit(look: &Look, point: &GroundPoint, sunlit: f32, depth: f32) -> Rgb {
    look.haze(point.albedo * look.light(point.normal, sunlit), depth)
}
