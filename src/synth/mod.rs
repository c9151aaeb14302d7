//! Procedural street scenes with exact labels, for samples, tests and training.
//!
//! A [`SceneSpec`] names one image: size, seed, camera and frame of a drive. The same spec gives the same bytes on
//! every machine and with any number of threads: randomness is integer hashing (splitmix64 and `lowbias32`), and
//! arithmetic is limited to what IEEE 754 defines exactly. The field of view does not depend on the size, so a larger
//! image shows the same street in finer detail: wires, far poles, far people.
//!
//! Labels are the class of whatever covers the pixel's centre; the image is then blurred by about a pixel.

mod camera;
mod classes;
mod colour;
mod effects;
mod facade;
mod folder;
mod ground;
mod look;
mod raster;
mod rng;
mod shadow;
mod sky;
mod sprites;
mod street;
mod walls;
mod world;

use rayon::prelude::*;

pub use classes::{CLASSES, ClassInfo};
pub use folder::{Series, SynthError, write_folder};

use crate::types::{LabelImage, Size};

/// Which image to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SceneSpec {
    /// Columns and rows, at least 1 each.
    pub size: Size,
    /// Street, weather and light.
    pub seed: u64,
    /// Viewpoint: 0 ahead, 1 left, 2 right, 3 ahead with a long lens; more repeat these.
    pub camera: u32,
    /// Time step of the drive: the camera moves about a metre a frame, cars and people move too.
    pub frame: u32,
}

/// An image and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// `size.pixels() * 3` bytes, red green blue, rows without padding.
    pub rgb: Vec<u8>,
    /// Indices into [`CLASSES`], one per pixel; every pixel has a class.
    pub labels: LabelImage,
}

/// Draws one image, on as many threads as the current `rayon` pool has.
pub fn render(spec: &SceneSpec) -> Scene {
    let (width, height) = (spec.size.width as usize, spec.size.height as usize);
    let mut labels = LabelImage::unlabelled(spec.size);
    if labels.data.is_empty() {
        return Scene { rgb: Vec::new(), labels };
    }
    let street = street::Street::new(spec.seed);
    let look = look::Look::new(spec.seed);
    let camera = camera::Camera::new(spec, &street);
    let lots = street::Lots::around(&street, camera.s);
    let walls = walls::Walls::new(&camera, &lots, spec.size.width);
    let world = world::World::new(&camera, &look, &street, &lots, spec.frame);
    let ground = ground::Ground::new(spec.seed);
    let stage = raster::Stage { camera, look, street, lots, ground, walls, world, size: [width, height] };

    let mut sharp = vec![0; spec.size.pixels() * 3];
    sharp.par_chunks_mut(width * 3).zip(labels.data.par_chunks_mut(width)).enumerate().for_each_init(
        raster::RowBuffers::default,
        |buffers, (y, (rgb, labels))| {
            stage.row(y, buffers, rgb, labels);
        },
    );
    let noise = rng::Rng::keyed(spec.seed, &[0, i64::from(spec.camera), i64::from(spec.frame)]).seed32();
    let rgb = effects::lens_and_sensor(&sharp, width, &stage.look, noise);
    Scene { rgb, labels }
}
