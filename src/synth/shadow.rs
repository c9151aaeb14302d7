//! Shadows that things cast on the ground, one row of the image at a time.

use super::camera::Camera;
use super::look::Look;
use super::rng::noise;

/// Something upright on the ground.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caster {
    Post {
        height: f32,
        width: f32,
    },
    Crown {
        height: f32,
        radius: f32,
    },
    /// Half widths across and along the street.
    Block {
        half: [f32; 2],
        height: f32,
    },
}

/// A caster's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shadow {
    pub(super) u: f32,
    pub(super) s: f32,
    pub(super) caster: Caster,
}

/// Sunlight and sky that reach each column of a row of ground.
#[derive(Debug, Default)]
pub(super) struct Shade {
    pub(super) sun: Vec<f32>,
    pub(super) sky: Vec<f32>,
}

impl Shade {
    /// Forgets the last row.
    pub(super) fn clear(&mut self, width: usize) {
        self.sun.clear();
        self.sun.resize(width, 1.0);
        self.sky.clear();
        self.sky.resize(width, 1.0);
    }

    /// Adds what every caster takes from the ground at this depth.
    pub(super) fn cast(&mut self, camera: &Camera, look: &Look, shadows: &[Shadow], depth: f32) {
        let s = camera.s + depth;
        let [x, y, z] = look.to_sun;
        let lean = [-x / y, -z / y];
        for shadow in shadows {
            let ds = s - shadow.s;
            match shadow.caster {
                Caster::Post { height, width } => {
                    let half = 0.5 * width;
                    if let Some([low, high]) = heights(ds, half, lean[1], height) {
                        let (a, b) = (shadow.u + lean[0] * low, shadow.u + lean[0] * high);
                        self.sunless(camera, depth, a.min(b) - half, a.max(b) + half);
                    }
                }
                Caster::Crown { height, radius } => {
                    let off = (ds - lean[1] * height) / (radius * 1.1);
                    if off.abs() < 1.0 {
                        let ragged = 0.75 + 0.5 * noise(91, s * 1.7, shadow.u);
                        let half = radius * (1.0 - off * off).sqrt() * ragged;
                        let u = shadow.u + lean[0] * height;
                        self.dapple(camera, depth, s, u - half, u + half);
                    }
                }
                Caster::Block { half, height } => {
                    if let Some([low, high]) = heights(ds, half[1], lean[1], height) {
                        let (a, b) = (shadow.u + lean[0] * low, shadow.u + lean[0] * high);
                        self.sunless(camera, depth, a.min(b) - half[0], a.max(b) + half[0]);
                    }
                    if ds.abs() < half[1] + 0.1 {
                        let (from, to) = columns(camera, depth, shadow.u - half[0], shadow.u + half[0]);
                        for sky in span(&mut self.sky, from, to) {
                            *sky = 0.3;
                        }
                    }
                }
            }
        }
    }

    fn sunless(&mut self, camera: &Camera, depth: f32, low: f32, high: f32) {
        let (from, to) = columns(camera, depth, low, high);
        span(&mut self.sun, from, to).fill(0.0);
    }

    /// The shadow of leaves lets spots of sun through.
    fn dapple(&mut self, camera: &Camera, depth: f32, s: f32, low: f32, high: f32) {
        let (from, to) = columns(camera, depth, low, high);
        let first = from.max(0.0) as usize;
        let step = depth / camera.focal;
        let start = camera.axis_u(depth) + camera.ray_x(first as f32 + 0.5) * depth;
        for (index, sun) in span(&mut self.sun, from, to).iter_mut().enumerate() {
            let u = start + index as f32 * step;
            let spot = noise(92, u * 3.1, s * 3.1) + 0.35 * noise(93, u * 9.0, s * 9.0);
            *sun = sun.min(if spot > 0.86 { 0.85 } else { 0.06 });
        }
    }
}

/// The heights of a caster, of half length `half`, whose shadow falls `ds` metres along from its foot.
fn heights(ds: f32, half: f32, lean: f32, height: f32) -> Option<[f32; 2]> {
    let (low, high) = if lean.abs() < 1e-3 {
        if ds.abs() > half {
            return None;
        }
        (0.0, height)
    } else {
        let (a, b) = ((ds - half) / lean, (ds + half) / lean);
        (a.min(b).max(0.0), a.max(b).min(height))
    };
    (low <= high).then_some([low, high])
}

fn columns(camera: &Camera, depth: f32, low: f32, high: f32) -> (f32, f32) {
    (camera.column(low, depth), camera.column(high, depth))
}

fn span(row: &mut [f32], from: f32, to: f32) -> &mut [f32] {
    let end = (to.max(0.0) as usize).min(row.len());
    let first = (from.max(0.0) as usize).min(end);
    &mut row[first..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_shade_the_ground_they_lean_over() {
        assert_eq!(heights(0.0, 0.5, 0.0, 2.0), Some([0.0, 2.0]));
        assert_eq!(heights(0.6, 0.5, 0.0, 2.0), None);
        assert_eq!(heights(1.0, 0.0, 1.0, 2.0), Some([1.0, 1.0]));
        assert_eq!(heights(3.0, 0.5, 1.0, 2.0), None, "past the tip");
        assert_eq!(heights(-3.0, 0.5, 1.0, 2.0), None, "on the sunny side");
    }
}
