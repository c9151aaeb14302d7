//! Everything that stands or moves on the street, as shapes that answer "what is at this pixel".

pub(super) mod car;
pub(super) mod person;
pub(super) mod plate;
pub(super) mod stroke;
pub(super) mod tree;

pub(super) use super::camera::Camera;
pub(super) use super::classes::Class;
pub(super) use super::colour::Rgb;
pub(super) use super::look::Look;

/// What a shape shows at a pixel: its class and the light it sends, haze included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    pub(super) class: Class,
    pub(super) light: Rgb,
}

/// A shape, the pixels it may cover, and the depth of its nearest point.
#[derive(Clone, Debug)]
pub(super) struct Sprite {
    /// First and past-the-last column.
    pub(super) columns: [i32; 2],
    /// First and past-the-last row.
    pub(super) rows: [i32; 2],
    pub(super) depth: f32,
    pub(super) shape: Shape,
}

/// The kinds of shapes.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Stroke(stroke::Stroke),
    Tree(tree::Tree),
    Sign(plate::Sign),
    Signal(plate::Signal),
    Car(Box<car::Car>),
    Person(person::Person),
}

impl Sprite {
    /// Columns the shape may cover in a row.
    pub(super) fn span(&self, row: f32) -> [i32; 2] {
        match &self.shape {
            Shape::Stroke(stroke) => {
                let [first, end] = stroke.span(row);
                [first.max(self.columns[0]), end.min(self.columns[1])]
            }
            _ => self.columns,
        }
    }

    /// What the shape shows at a pixel's centre, and at which depth.
    pub(super) fn sample(&self, camera: &Camera, look: &Look, column: f32, row: f32) -> Option<(f32, Hit)> {
        let flat = |hit| (self.depth, hit);
        match &self.shape {
            Shape::Stroke(shape) => Some(flat(shape.sample(look, column, row))),
            Shape::Tree(shape) => shape.sample(look, column, row),
            Shape::Sign(shape) => shape.sample(look, column, row).map(flat),
            Shape::Signal(shape) => shape.sample(look, column, row).map(flat),
            Shape::Car(shape) => shape.sample(camera, look, column, row),
            Shape::Person(shape) => shape.sample(look, column, row).map(flat),
        }
    }
}

/// A plane that faces the camera: pixels to metres right of and above a point on the ground.
#[derive(Clone, Copy, Debug)]
pub(super) struct Board {
    column: f32,
    row: f32,
    metres: f32,
    /// Depth of the plane.
    pub(super) depth: f32,
    /// 0 in the shadow of a building, 1 in the sun.
    pub(super) sunlit: f32,
}

impl Board {
    /// The plane at a point of the ground (`h` metres above it).
    pub(super) fn new(camera: &Camera, u: f32, depth: f32, h: f32, sunlit: f32) -> Self {
        Self {
            column: camera.column(u, depth),
            row: camera.row(h, depth),
            metres: depth / camera.focal,
            depth,
            sunlit,
        }
    }

    /// Metres right of and above the plane's origin.
    pub(super) fn at(&self, column: f32, row: f32) -> (f32, f32) {
        ((column - self.column) * self.metres, (self.row - row) * self.metres)
    }

    /// Metres a pixel covers.
    pub(super) fn pixel(&self) -> f32 {
        self.metres
    }

    /// The sprite of a shape within `left..right` and `low..high` metres of the origin.
    pub(super) fn sprite(&self, [left, right]: [f32; 2], [low, high]: [f32; 2], shape: Shape) -> Sprite {
        let scale = 1.0 / self.metres;
        Sprite {
            columns: [pixel(self.column + left * scale) - 1, pixel(self.column + right * scale) + 2],
            rows: [pixel(self.row - high * scale) - 1, pixel(self.row - low * scale) + 2],
            depth: self.depth,
            shape,
        }
    }
}

/// The pixel that holds a coordinate.
pub(super) fn pixel(x: f32) -> i32 {
    x.floor().clamp(-1e8, 1e8) as i32
}
