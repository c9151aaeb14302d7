//! One row of the image at a time: what is nearest at each pixel, and its light.

use super::camera::Camera;
use super::classes::Class;
use super::colour::Rgb;
use super::ground::{self, Ground, GroundRow};
use super::look::Look;
use super::rng::smoothstep;
use super::shadow::Shade;
use super::sky;
use super::street::{FAR, Lots, Street};
use super::walls::Walls;
use super::world::World;

/// Ground this much deeper than it is does not hide the feet of what stands on it.
const SINK: f32 = 1.03;

/// All that is fixed for one image.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) camera: Camera,
    pub(super) look: Look,
    pub(super) street: Street,
    pub(super) lots: Lots,
    pub(super) ground: Ground,
    pub(super) walls: Walls,
    pub(super) world: World,
    /// Columns and rows.
    pub(super) size: [usize; 2],
}

/// Buffers of a row, reused from row to row.
#[derive(Debug, Default)]
pub(super) struct RowBuffers {
    depth: Vec<f32>,
    taken: Vec<bool>,
    shade: Shade,
}

impl Stage {
    /// Draws a row into display bytes and labels.
    pub(super) fn row(&self, y: usize, buffers: &mut RowBuffers, rgb: &mut [u8], labels: &mut [u8]) {
        let width = self.size[0];
        let row = y as f32 + 0.5;
        let ground = GroundRow::new(&self.camera, &self.street, row).filter(|ground| ground.depth < FAR);
        self.measure(row, ground.as_ref(), buffers);
        self.sprites(y, buffers, rgb, labels);
        if let Some(ground) = &ground {
            buffers.shade.clear(width);
            buffers.shade.cast(&self.camera, &self.look, &self.world.shadows, ground.depth);
        }
        for x in 0..width {
            if !buffers.taken[x] {
                let (class, light) = self.background(x, row, ground.as_ref(), &buffers.shade);
                self.put(x, y, class, light, rgb, labels);
            }
        }
    }

    /// Depth of ground or wall at each pixel.
    fn measure(&self, row: f32, ground: Option<&GroundRow>, buffers: &mut RowBuffers) {
        // Nothing that stands on the ground may sink into it.
        let floor = ground.map_or(f32::INFINITY, |ground| ground.depth * SINK);
        buffers.depth.clear();
        buffers.depth.extend(
            (0..self.size[0]).map(|x| self.walls.at(x, row).map_or(floor, |span| span.depth.min(floor))),
        );
        buffers.taken.clear();
        buffers.taken.resize(self.size[0], false);
    }

    /// Sprites come near to far, so that most of what is hidden is never sampled.
    fn sprites(&self, y: usize, buffers: &mut RowBuffers, rgb: &mut [u8], labels: &mut [u8]) {
        let row = y as f32 + 0.5;
        for sprite in &self.world.sprites {
            if (y as i32) < sprite.rows[0] || y as i32 >= sprite.rows[1] {
                continue;
            }
            let [from, to] = sprite.span(row);
            let (from, to) = (from.max(0) as usize, to.clamp(0, self.size[0] as i32) as usize);
            for x in from..to {
                if sprite.depth >= buffers.depth[x] {
                    continue;
                }
                if let Some((depth, hit)) = sprite.sample(&self.camera, &self.look, x as f32 + 0.5, row)
                    && depth < buffers.depth[x]
                {
                    buffers.depth[x] = depth;
                    buffers.taken[x] = true;
                    self.put(x, y, hit.class, hit.light, rgb, labels);
                }
            }
        }
    }

    fn background(&self, x: usize, row: f32, ground: Option<&GroundRow>, shade: &Shade) -> (Class, Rgb) {
        let (camera, look) = (&self.camera, &self.look);
        let ray = camera.ray_x(x as f32 + 0.5);
        if let Some(span) = self.walls.at(x, row)
            && ground.is_none_or(|ground| span.depth < ground.depth)
        {
            return span.light(camera, look, &self.street, &self.lots, row);
        }
        let Some(ground) = ground else {
            // Clouds and skyline keep their place in the world as the camera turns.
            let (right, up) = (ray - camera.yaw, -camera.ray_y(row));
            return sky::skyline(look, right, up).unwrap_or_else(|| (Class::Sky, sky::sky(look, right, up)));
        };
        let point = self.ground.point(camera, &self.street, &self.lots, ground, ray);
        let sunlit =
            self.lots.sunlit(look.to_sun, self.street.lot_line(), point.u, point.s, 0.0).min(shade.sun[x]);
        // Walls keep the sky from the ground at their feet.
        let corner = smoothstep(-0.5, 2.2, self.street.lot_line() - point.u.abs() + 0.5) * 0.3 + 0.7;
        (point.class, ground::lit(look, &point, sunlit, ground.depth) * (shade.sky[x] * corner))
    }

    fn put(&self, x: usize, y: usize, class: Class, light: Rgb, rgb: &mut [u8], labels: &mut [u8]) {
        let [width, height] = self.size.map(|n| n as f32);
        let (dx, dy) = ((x as f32 + 0.5) / width - 0.5, (y as f32 + 0.5) / height - 0.5);
        let fall = 1.0 - self.look.vignette * 1.6 * (dx * dx + dy * dy);
        rgb[3 * x..3 * x + 3].copy_from_slice(&(light * (self.look.exposure * fall)).display());
        labels[x] = class as u8;
    }
}
