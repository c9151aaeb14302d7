//! Which walls each column of the image sees: vertical spans, nearest first.

use super::camera::Camera;
use super::classes::Class;
use super::colour::Rgb;
use super::facade::{self, WallPoint};
use super::look::Look;
use super::street::{Building, FAR, Lots, Street};

/// The part of a wall that one column sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallSpan {
    pub(super) depth: f32,
    /// First row of the wall and the row of its foot.
    pub(super) top: f32,
    pub(super) foot: f32,
    building: u16,
    /// Whether this is the end wall that faces the camera.
    front: bool,
    along: f32,
    pixel_a: f32,
}

/// The walls every column sees.
#[derive(Debug)]
pub(super) struct Walls {
    columns: Vec<Vec<WallSpan>>,
}

impl Walls {
    /// Meets every column's rays with every building.
    pub(super) fn new(camera: &Camera, lots: &Lots, width: u32) -> Self {
        let columns = (0..width).map(|x| spans(camera, lots, x as f32 + 0.5)).collect();
        Self { columns }
    }

    /// The nearest wall at a pixel.
    pub(super) fn at(&self, column: usize, row: f32) -> Option<&WallSpan> {
        self.columns[column].iter().find(|span| row >= span.top && row < span.foot)
    }
}

fn spans(camera: &Camera, lots: &Lots, column: f32) -> Vec<WallSpan> {
    let mut found: Vec<WallSpan> = Vec::new();
    for (index, building) in lots.buildings.iter().enumerate() {
        let mut add = |depth: f32, front: bool, along: f32, pixel_a: f32| {
            let height = facade::roofline(building, along, front);
            found.push(WallSpan {
                depth,
                top: camera.row(height, depth),
                foot: camera.row(0.0, depth),
                building: index as u16,
                front,
                along,
                pixel_a,
            });
        };
        if let Some(depth) = camera.wall_depth(column, building.side * building.u) {
            let s = camera.s + depth;
            if depth < FAR && s >= building.s0 && s < building.s1 {
                // How fast the meeting point runs along the wall from column to column.
                let rate = (camera.ray_x(column) + camera.axis_slope(depth)).abs().max(1e-4);
                add(depth, false, s - building.s0, depth / (camera.focal * rate));
            }
        }
        let depth = building.s0 - camera.s;
        if depth > 0.3 && depth < FAR {
            let out = (camera.axis_u(depth) + camera.ray_x(column) * depth) * building.side - building.u;
            if (0.0..building.depth).contains(&out) {
                add(depth, true, out, depth / camera.focal);
            }
        }
    }
    found.sort_by(|a, b| a.depth.total_cmp(&b.depth));
    // What nearer walls hide is never looked at.
    let mut highest = f32::INFINITY;
    found.retain(|span| {
        let seen = span.top < highest;
        highest = highest.min(span.top);
        seen
    });
    found
}

impl WallSpan {
    /// The light of the wall at a row.
    pub(super) fn light(
        &self,
        camera: &Camera,
        look: &Look,
        street: &Street,
        lots: &Lots,
        row: f32,
    ) -> (Class, Rgb) {
        let building: &Building = &lots.buildings[usize::from(self.building)];
        let h = camera.h - camera.ray_y(row) * self.depth;
        let point = WallPoint { a: self.along, h, pixel_a: self.pixel_a, pixel_h: self.depth / camera.focal };
        let colour = facade::wall(look, building, point);
        let normal = if self.front { [0.0, 0.0, -1.0] } else { [-building.side, 0.0, 0.0] };
        let (u, s) = if self.front {
            (building.side * (building.u + self.along), building.s0 - 0.5)
        } else {
            (building.side * (building.u - 0.05), building.s0 + self.along)
        };
        let sunlit = lots.sunlit(look.to_sun, street.lot_line(), u, s, h);
        let corner = 0.62 + 0.38 * (h / 2.5).clamp(0.0, 1.0);
        let light = colour.albedo * look.light(normal, sunlit) * corner + colour.glow;
        (Class::Building, look.haze(light, self.depth))
    }
}
