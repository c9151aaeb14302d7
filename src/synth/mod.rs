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
mod furniture;
mod greenery;
mod ground;
mod look;
mod raster;
mod rng;
mod shadow;
mod sky;
mod sprites;
mod street;
mod traffic;
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
    /// Time step of the drive: the camera moves about a metre a frame, cars and people move too. The drive starts over
    /// after 16384 frames, so that positions along the street keep millimetres in 32 bits.
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

const DRIVE_FRAMES: u32 = 16384;

/// Draws one image, on as many threads as the current `rayon` pool has.
pub fn render(spec: &SceneSpec) -> Scene {
    let spec = &SceneSpec { frame: spec.frame % DRIVE_FRAMES, ..*spec };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(width: u32, height: u32, seed: u64, camera: u32, frame: u32) -> Scene {
        render(&SceneSpec { size: Size::new(width, height), seed, camera, frame })
    }

    /// FNV-1a.
    fn digest(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        })
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of a few threads")
    }

    /// Lengths of the runs of a class along rows (`step` 1) or columns.
    fn runs(labels: &LabelImage, class: u8, down: bool) -> Vec<usize> {
        let (width, height) = (labels.size.width as usize, labels.size.height as usize);
        let (lines, length) = if down { (width, height) } else { (height, width) };
        let at = |line: usize, i: usize| labels.data[if down { i * width + line } else { line * width + i }];
        let mut runs = Vec::new();
        for line in 0..lines {
            let mut run = 0;
            for i in 0..=length {
                if i < length && at(line, i) == class {
                    run += 1;
                } else if run > 0 {
                    runs.push(run);
                    run = 0;
                }
            }
        }
        runs
    }

    #[test]
    fn pixels_are_those_of_the_stored_digest() {
        // Trained models depend on the scenes' look: a change here means training again.
        let stored = [
            (0, 0, 0x21fe_afc4_a8a7_f45e, 0x5d26_a439_22fb_68af),
            (1, 3, 0x81dd_7b5f_02f8_0314, 0xf32b_12a4_69f2_cab2),
            (3, 40, 0x551e_6b5a_d9b3_864e, 0x843e_b807_847f_0d39),
        ];
        let drawn = stored.map(|(camera, frame, ..)| {
            let scene = scene(192, 108, 7, camera, frame);
            (camera, frame, digest(&scene.rgb), digest(&scene.labels.data))
        });
        assert!(drawn == stored, "drew {drawn:#x?}");
    }

    #[test]
    fn threads_do_not_change_pixels() {
        let drawn = [1, 2, 3].map(|threads| pool(threads).install(|| scene(200, 120, 11, 0, 4)));
        assert!(drawn[0] == drawn[1] && drawn[0] == drawn[2]);
    }

    #[test]
    fn any_size_is_filled_with_classes() {
        let mut wrong = Vec::new();
        for (width, height) in [(1, 1), (3, 2), (64, 48), (65, 49), (31, 127), (400, 20)] {
            for camera in 0..4 {
                let scene = scene(width, height, 3, camera, u32::MAX);
                let pixels = (width * height) as usize;
                let classes = scene.labels.data.iter().all(|label| usize::from(*label) < CLASSES.len());
                if !classes || scene.labels.data.len() != pixels || scene.rgb.len() != 3 * pixels {
                    wrong.push((width, height, camera));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        let empty = scene(0, 10, 3, 0, 0);
        assert!(empty.rgb.is_empty() && empty.labels.data.is_empty());
    }

    #[test]
    fn every_class_appears() {
        let mut counts = [0_usize; CLASSES.len()];
        for seed in 0..12 {
            for label in scene(640, 360, seed, 0, 0).labels.data {
                counts[usize::from(label)] += 1;
            }
        }
        let rare: Vec<_> = CLASSES.iter().zip(counts).filter(|(_, count)| *count < 200).collect();
        assert!(rare.is_empty(), "{rare:?}");
    }

    #[test]
    fn wires_and_far_poles_are_thin_at_full_resolution() {
        let scenes: Vec<Scene> = (0..4).map(|seed| scene(1920, 1080, seed, 0, 0)).collect();
        let thin = |class: u8, down: bool, limit: usize| {
            let all: Vec<usize> = scenes.iter().flat_map(|scene| runs(&scene.labels, class, down)).collect();
            (all.iter().filter(|run| **run <= limit).count(), all.len())
        };
        let (wires, all_wires) = thin(8, true, 4);
        assert!(all_wires > 2000 && wires * 10 > all_wires * 7, "{wires} of {all_wires} wire crossings");
        let (poles, all_poles) = thin(7, false, 4);
        assert!(poles > 1000, "{poles} of {all_poles} pole crossings");
    }

    #[test]
    fn frames_of_a_drive_move_but_stay_on_the_street() {
        for seed in [1, 2, 5] {
            let (first, next) = (scene(320, 180, seed, 0, 0), scene(320, 180, seed, 0, 1));
            let changed = first.rgb.iter().zip(&next.rgb).filter(|(a, b)| a.abs_diff(**b) > 12).count();
            let same = first.labels.data.iter().zip(&next.labels.data).filter(|(a, b)| a == b).count();
            let pixels = first.labels.data.len();
            assert!(changed * 50 > pixels * 3, "seed {seed}: {changed} bytes changed");
            assert!(same * 4 > pixels * 3 && same < pixels, "seed {seed}: {same} of {pixels} labels stay");
        }
    }

    #[test]
    fn seeds_and_cameras_differ() {
        let base = scene(160, 90, 1, 0, 0);
        assert_ne!(base.labels, scene(160, 90, 2, 0, 0).labels);
        for camera in 1..4 {
            assert_ne!(base.labels, scene(160, 90, 1, camera, 0).labels, "camera {camera}");
        }
    }
}
