//! Scenes as files: PNG images, PNG labels and `classes.json`.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{CLASSES, Scene, SceneSpec, render};
use crate::types::{Size, UNLABELLED};

/// Which images to write: every camera and frame of `scenes` seeds from `first_seed` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Size of every image.
    pub size: Size,
    /// The first seed.
    pub first_seed: u64,
    /// Number of seeds.
    pub scenes: u32,
    /// Cameras of each scene.
    pub cameras: u32,
    /// Frames of each camera.
    pub frames: u32,
}

/// Why scenes could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum SynthError {
    #[error("cannot write, {why}; check that the folder can be written and the disk has room: {path}")]
    Write { why: std::io::Error, path: PathBuf },
    #[error("cannot encode a {size} image as PNG, {why}: {path}")]
    Encode { size: Size, why: png::EncodingError, path: PathBuf },
}

/// Writes `images/<seed>_<camera>_<frame>.png` (rgb8), `labels/<same>.png` (8-bit grey) and `classes.json`.
pub fn write_folder(out: &Path, series: &Series) -> Result<(), SynthError> {
    for folder in ["images", "labels"] {
        let path = out.join(folder);
        fs::create_dir_all(&path).map_err(|why| SynthError::Write { why, path })?;
    }
    let path = out.join("classes.json");
    fs::write(&path, classes_json()).map_err(|why| SynthError::Write { why, path })?;
    let count = u64::from(series.scenes) * u64::from(series.cameras) * u64::from(series.frames);
    (0..count).into_par_iter().try_for_each(|index| {
        let frame = (index % u64::from(series.frames)) as u32;
        let index = index / u64::from(series.frames);
        let camera = (index % u64::from(series.cameras)) as u32;
        let seed = series.first_seed.wrapping_add(index / u64::from(series.cameras));
        let name = format!("{seed}_{camera}_{frame}.png");
        let Scene { rgb, labels } = render(&SceneSpec { size: series.size, seed, camera, frame });
        write_png(&out.join("images").join(&name), series.size, png::ColorType::Rgb, &rgb)?;
        write_png(&out.join("labels").join(&name), series.size, png::ColorType::Grayscale, &labels.data)
    })
}

fn write_png(path: &Path, size: Size, colour: png::ColorType, data: &[u8]) -> Result<(), SynthError> {
    let file = fs::File::create(path).map_err(|why| SynthError::Write { why, path: path.into() })?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), size.width, size.height);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let encode = |why| SynthError::Encode { size, why, path: path.into() };
    let mut writer = encoder.write_header().map_err(encode)?;
    writer.write_image_data(data).map_err(encode)?;
    writer.finish().map_err(encode)
}

fn classes_json() -> String {
    let classes: Vec<String> = CLASSES
        .iter()
        .enumerate()
        .map(|(id, class)| {
            format!("{{\"id\":{id},\"name\":\"{}\",\"colour\":{:?}}}", class.name, class.colour)
        })
        .collect();
    format!(
        "{{\"num_classes\":{},\"ignore_id\":{UNLABELLED},\"classes\":[\n{}\n]}}\n",
        CLASSES.len(),
        classes.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> (Size, png::ColorType, Vec<u8>) {
        let file = std::io::BufReader::new(fs::File::open(path).expect("written"));
        let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
        let mut data = vec![0; reader.output_buffer_size().expect("a small image")];
        let info = reader.next_frame(&mut data).expect("one frame");
        data.truncate(info.buffer_size());
        (Size::new(info.width, info.height), info.color_type, data)
    }

    #[test]
    fn files_hold_the_rendered_scenes() {
        let out = std::env::temp_dir().join(format!("synth_folder_{}", std::process::id()));
        let size = Size::new(64, 48);
        write_folder(&out, &Series { size, first_seed: 4, scenes: 2, cameras: 2, frames: 2 })
            .expect("writable");
        for (seed, camera, frame) in [(4, 0, 0), (5, 1, 1)] {
            let scene = render(&SceneSpec { size, seed, camera, frame });
            let name = format!("{seed}_{camera}_{frame}.png");
            assert_eq!(read(&out.join("images").join(&name)), (size, png::ColorType::Rgb, scene.rgb));
            assert_eq!(
                read(&out.join("labels").join(&name)),
                (size, png::ColorType::Grayscale, scene.labels.data)
            );
        }
        assert_eq!(fs::read_dir(out.join("images")).expect("a folder").count(), 8);
        let json = fs::read_to_string(out.join("classes.json")).expect("written");
        assert!(json.starts_with("{\"num_classes\":13,\"ignore_id\":255,"), "{json}");
        assert!(json.contains("{\"id\":8,\"name\":\"wire\",\"colour\":[0, 230, 230]}"), "{json}");
        fs::remove_dir_all(&out).expect("ours");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = std::env::temp_dir().join(format!("synth_file_{}", std::process::id()));
        fs::write(&file, "in the way").expect("writable");
        let series = Series { size: Size::new(8, 8), first_seed: 0, scenes: 1, cameras: 1, frames: 1 };
        let error = write_folder(&file, &series).expect_err("a file is no folder").to_string();
        assert!(error.contains("synth_file_") && error.starts_with("cannot write"), "{error}");
        fs::remove_file(&file).expect("ours");
    }
}
