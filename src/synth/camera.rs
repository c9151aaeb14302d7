//! The pinhole camera, and the bend between the road's coordinates and the camera's.
//!
//! A point of the world is (u, s, h): metres right of the road's centre line, metres along it, metres above the
//! ground. At depth `d = s - camera.s` the camera sees it at `X = u - camera.u + yaw d + k d^2 / 2` metres to its
//! right, with `k` the road's curvature. Rows of ground therefore have one depth each, and columns of vertical walls
//! one depth each.

use super::SceneSpec;
use super::rng::Rng;
use super::street::Street;

/// Where one frame is taken from.
#[derive(Clone, Debug)]
pub(super) struct Camera {
    /// Pixels per unit of `X / d`.
    pub(super) focal: f32,
    /// Column of the optical axis.
    pub(super) centre: f32,
    /// Row of the horizon.
    pub(super) horizon: f32,
    /// Metres right of the road's centre line.
    pub(super) u: f32,
    /// Metres along the road.
    pub(super) s: f32,
    /// Metres above the road.
    pub(super) h: f32,
    /// Sideways drift of the road per metre of depth.
    pub(super) yaw: f32,
    /// Curvature of the road, 1/m.
    pub(super) curve: f32,
}

impl Camera {
    /// The camera of a spec: index 0 looks ahead, 1 and 2 to the left and right, 3 ahead with twice the focal length.
    pub(super) fn new(spec: &SceneSpec, street: &Street) -> Self {
        let mut rng = Rng::keyed(spec.seed, &[1]);
        let (width, height) = (spec.size.width as f32, spec.size.height as f32);
        let (h, aim) = (rng.range(1.25, 2.3), rng.range(-0.06, 0.06));
        let (focal, pitch) = (rng.range(0.72, 1.05), rng.range(0.40, 0.54));
        let lane = rng.below(street.lanes) as f32;
        let start = rng.range(0.0, street.period);
        let (yaw, zoom) = match spec.camera % 4 {
            0 => (aim, 1.0),
            1 => (aim + 0.45, 1.0),
            2 => (aim - 0.45, 1.0),
            _ => (aim * 0.5, 2.0),
        };
        // The frame's aspect may be anything; the field of view follows the longer side's share.
        let focal = focal * zoom * width.max(height * 4.0 / 3.0);
        Self {
            focal,
            centre: width * 0.5,
            horizon: height * pitch,
            u: street.lane_width * (lane + 0.5) + f32::from(spec.camera % 4 == 2)
                - f32::from(spec.camera % 4 == 1),
            s: 100.0 + start + street.speed * spec.frame as f32,
            h,
            yaw,
            curve: street.curve,
        }
    }

    /// Slope `X / d` of a column's rays.
    pub(super) fn ray_x(&self, column: f32) -> f32 {
        (column - self.centre) / self.focal
    }

    /// Downward slope of a row's rays.
    pub(super) fn ray_y(&self, row: f32) -> f32 {
        (row - self.horizon) / self.focal
    }

    /// The road's `u` straight ahead at depth `d`.
    pub(super) fn axis_u(&self, d: f32) -> f32 {
        self.u - self.yaw * d - 0.5 * self.curve * d * d
    }

    /// `d axis_u / dd`.
    pub(super) fn axis_slope(&self, d: f32) -> f32 {
        -self.yaw - self.curve * d
    }

    /// Column of a point.
    pub(super) fn column(&self, u: f32, d: f32) -> f32 {
        self.centre + self.focal * (u - self.axis_u(d)) / d
    }

    /// Row of a point.
    pub(super) fn row(&self, h: f32, d: f32) -> f32 {
        self.horizon + self.focal * (self.h - h) / d
    }

    /// Depth at which a column's rays reach the plane `u`, where they do.
    pub(super) fn wall_depth(&self, column: f32, u: f32) -> Option<f32> {
        // curve/2 d^2 - b d - c = 0 with b the ray's slope against the road and c what is missing.
        let b = self.ray_x(column) - self.yaw;
        let c = self.u - u;
        let a = 0.5 * self.curve;
        let disc = b * b + 4.0 * a * c;
        if disc < 0.0 {
            return None;
        }
        // The numerically stable pair of roots.
        let q = 0.5 * (b + if b < 0.0 { -disc.sqrt() } else { disc.sqrt() });
        let roots =
            [if a == 0.0 { f32::INFINITY } else { q / a }, if q == 0.0 { f32::INFINITY } else { -c / q }];
        let near = roots.into_iter().filter(|d| *d > 0.0).fold(f32::INFINITY, f32::min);
        near.is_finite().then_some(near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Size;

    fn camera(curve: f32) -> Camera {
        let spec = SceneSpec { size: Size::new(640, 480), seed: 5, camera: 0, frame: 0 };
        Camera { curve, ..Camera::new(&spec, &Street::new(5)) }
    }

    #[test]
    fn walls_are_where_points_project() {
        for curve in [0.0, 1e-3, -1e-3] {
            let camera = camera(curve);
            for (u, d) in [(12.0, 8.0), (-12.0, 20.0), (15.0, 60.0)] {
                let column = camera.column(u, d);
                let found = camera.wall_depth(column, u).expect("the column sees the plane");
                let u_found = camera.axis_u(found) + camera.ray_x(column) * found;
                assert!((u_found - u).abs() < 0.02, "curve {curve}: depth {found}, u {u_found} for {u}");
                assert!(found <= d + 0.05, "the nearest crossing, {found} for {d}");
            }
        }
    }

    #[test]
    fn the_horizon_is_where_the_ground_ends() {
        let camera = camera(0.0);
        assert!((camera.row(0.0, 1e6) - camera.horizon).abs() < 0.1);
        assert!(camera.row(0.0, 10.0) > camera.horizon && camera.row(5.0, 10.0) < camera.horizon);
    }
}
