//! Light, weather and lens of a scene.

use super::colour::Rgb;
use super::rng::Rng;

/// What the seed decided about light and camera.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Light of the sun on a surface that faces it.
    pub(super) sun: Rgb,
    /// Light from everywhere else.
    pub(super) ambient: Rgb,
    /// Unit vector to the sun: right, up, ahead.
    pub(super) to_sun: [f32; 3],
    /// Colour of the sky overhead.
    pub(super) zenith: Rgb,
    /// Colour of the sky at the horizon, and of haze.
    pub(super) horizon: Rgb,
    /// Colour of clouds.
    pub(super) cloud: Rgb,
    /// Share of the sky that is cloud.
    pub(super) cover: f32,
    /// Depth at which haze takes half.
    pub(super) haze_depth: f32,
    /// Factor on all light before the display curve.
    pub(super) exposure: f32,
    /// Standard deviation of sensor noise, in display steps.
    pub(super) grain: f32,
    /// Weight of each horizontal and vertical neighbour in the blur.
    pub(super) blur: [f32; 2],
    /// Loss of light in the corners.
    pub(super) vignette: f32,
    /// Whether lamps are lit.
    pub(super) dusk: bool,
    /// Autumn share of leaves.
    pub(super) autumn: f32,
    /// Seed of the sky's noise.
    pub(super) seed: u32,
}

impl Look {
    /// The look of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, &[2]);
        let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
        let (x, z) = (side * rng.range(0.2, 1.1), rng.range(-0.9, 0.7));
        let weather = rng.unit();
        let exposure = rng.range(0.8, 1.3);
        let mut look = Self {
            sun: Rgb(2.5, 2.3, 1.95),
            ambient: Rgb(0.42, 0.50, 0.64),
            to_sun: unit([x, rng.range(0.7, 1.6), z]),
            zenith: Rgb::of(rng.range(44.0, 90.0) as u8, rng.range(106.0, 140.0) as u8, 214) * 0.95,
            horizon: Rgb::of(180, 206, 230) * 1.25,
            cloud: Rgb(1.75, 1.75, 1.8),
            cover: rng.range(0.1, 0.6),
            haze_depth: rng.range(500.0, 1500.0),
            exposure: exposure * 1.3,
            grain: rng.range(1.2, 3.5),
            blur: [rng.range(0.05, 0.18), rng.range(0.05, 0.14)],
            vignette: rng.range(0.05, 0.35),
            dusk: false,
            autumn: if rng.chance(0.25) { rng.range(0.3, 0.9) } else { 0.0 },
            seed: rng.seed32(),
        };
        if weather < 0.3 {
            look.overcast(&mut rng);
        } else if weather < 0.45 {
            look.low_sun(&mut rng, x, z);
        } else if weather < 0.55 {
            look.evening(&mut rng, x, z);
        }
        look
    }

    fn overcast(&mut self, rng: &mut Rng) {
        self.sun = Rgb(0.12, 0.12, 0.12);
        self.ambient = Rgb(1.15, 1.2, 1.28);
        self.zenith = Rgb::of(172, 182, 194) * 1.35;
        self.horizon = Rgb::of(214, 220, 226) * 1.45;
        self.cloud = Rgb::of(160, 167, 176) * 1.5;
        self.cover = rng.range(0.6, 0.9);
        self.haze_depth = rng.range(220.0, 700.0);
    }

    fn low_sun(&mut self, rng: &mut Rng, x: f32, z: f32) {
        self.sun = Rgb(2.9, 2.2, 1.35);
        self.ambient = Rgb(0.40, 0.44, 0.58);
        self.to_sun = unit([x, rng.range(0.4, 0.6), z]);
        self.zenith = Rgb::of(98, 134, 190) * 1.1;
        self.horizon = Rgb::of(240, 212, 172) * 1.5;
        self.cloud = Rgb(2.0, 1.7, 1.4);
    }

    fn evening(&mut self, rng: &mut Rng, x: f32, z: f32) {
        self.sun = Rgb(0.10, 0.08, 0.10);
        self.ambient = Rgb(0.54, 0.50, 0.60);
        self.to_sun = unit([x, 0.4, z]);
        self.zenith = Rgb::of(62, 78, 128);
        self.horizon = Rgb::of(212, 160, 140) * 1.2;
        self.cloud = Rgb::of(160, 128, 140) * 1.1;
        self.grain += rng.range(1.0, 2.5);
        self.dusk = true;
    }

    /// Light on a surface with this unit normal (right, up, ahead); `sunlit` in 0..=1.
    pub(super) fn light(&self, normal: [f32; 3], sunlit: f32) -> Rgb {
        let [x, y, z] = self.to_sun;
        let facing = (normal[0] * x + normal[1] * y + normal[2] * z).max(0.0);
        self.ambient * (0.72 + 0.28 * normal[1]) + self.sun * (facing * sunlit)
    }

    /// Light seen through `depth` metres of haze.
    pub(super) fn haze(&self, light: Rgb, depth: f32) -> Rgb {
        light.towards(self.horizon * 0.8, depth / (depth + self.haze_depth))
    }
}

/// The vector scaled to length 1.
pub(super) fn unit([x, y, z]: [f32; 3]) -> [f32; 3] {
    let scale = 1.0 / (x * x + y * y + z * z).sqrt();
    [x * scale, y * scale, z * scale]
}
