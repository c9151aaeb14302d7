//! `sparse_refine synth`.

use std::fs;
use std::path::Path;

use serde_json::json;
use sparse_refine::bag::BagError;
use sparse_refine::bag::cdr::ImageMsg;
use sparse_refine::bag::definitions::{IMAGE, Qos};
use sparse_refine::bag::write::{BagWriter, Compression};
use sparse_refine::synth::{Scene, SceneSpec, Series, render, write_folder};
use sparse_refine::types::{Size, Stamp};

use crate::args::{SynthArgs, SynthFormat};
use crate::exit::{FILES, Failure, USAGE};

/// Names of the cameras, by their direction; see `SceneSpec::camera`.
const CAMERAS: [&str; 4] = ["front", "left", "right", "front_tele"];
/// Stamp of the first frame: a fixed day, so that the same command makes the same bag.
const START_NS: i64 = 1_700_000_000_000_000_000;

pub(crate) fn run(args: &SynthArgs, json: bool) -> Result<(), Failure> {
    // Slower, the stamps of a long recording would run out of what a ROS stamp can hold.
    if !(0.001..=1000.0).contains(&args.fps) {
        return Err(Failure::new(USAGE, format!("--fps is {}, 0.001 to 1000 are possible", args.fps)));
    }
    make_room(&args.out, args.force)?;
    match args.format {
        SynthFormat::Bag => write_bag(args).map_err(|error| Failure::new(FILES, error))?,
        SynthFormat::Images => write_folder(
            &args.out,
            &Series {
                size: args.size,
                first_seed: args.seed,
                scenes: args.scenes,
                cameras: args.cameras,
                frames: args.frames,
            },
        )
        .map_err(|error| Failure::new(FILES, error))?,
    }
    let images = u64::from(args.frames) * u64::from(args.cameras) * u64::from(args.scenes);
    if json {
        crate::print(
            &json!({ "out": args.out, "images": images, "size": args.size.to_string() }).to_string(),
        );
    } else {
        crate::print(&format!("{images} images of {} with labels: {}", args.size, args.out.display()));
    }
    Ok(())
}

/// Refuses a folder with something in it. Forced, images go among what is there; a recording never replaces another,
/// since nothing tells a sample from a drive that cannot be repeated: the bag's writer refuses.
fn make_room(out: &Path, force: bool) -> Result<(), Failure> {
    let Ok(mut entries) = fs::read_dir(out) else { return Ok(()) };
    if entries.next().is_none() {
        // The bag's writer makes its own folder.
        let _ = fs::remove_dir(out);
    } else if !force {
        let message =
            format!("the output folder is not empty; choose another or add --force: {}", out.display());
        return Err(Failure::new(USAGE, message));
    }
    Ok(())
}

/// A recording that shows the scenes one after the other.
fn write_bag(args: &SynthArgs) -> Result<(), BagError> {
    let mut bag = BagWriter::create(&args.out, Compression::None)?;
    let mut topics = Vec::new();
    for camera in 0..args.cameras as usize {
        let name = match CAMERAS.get(camera) {
            Some(name) => (*name).to_owned(),
            None => format!("camera{camera}"),
        };
        let image = bag.add_topic(&format!("/camera/{name}/image_raw"), &IMAGE, Qos::BestEffort)?;
        let label = bag.add_topic(&format!("/camera/{name}/label"), &IMAGE, Qos::Reliable)?;
        topics.push((image, label, format!("camera_{name}")));
    }
    let mut cdr = Vec::new();
    for index in 0..u64::from(args.scenes) * u64::from(args.frames) {
        let seed = args.seed.wrapping_add(index / u64::from(args.frames));
        let frame = (index % u64::from(args.frames)) as u32;
        let stamp_ns = START_NS + (index as f64 / args.fps * 1e9).round() as i64;
        for (camera, (image, label, frame_id)) in topics.iter().enumerate() {
            let spec = SceneSpec { size: args.size, seed, camera: camera as u32, frame };
            let Scene { rgb, labels } = render(&spec);
            message(args.size, stamp_ns, frame_id, "rgb8", &rgb).write(&mut cdr);
            bag.write(*image, stamp_ns, &cdr)?;
            message(args.size, stamp_ns, frame_id, "mono8", &labels.data).write(&mut cdr);
            bag.write(*label, stamp_ns, &cdr)?;
        }
    }
    bag.finish()
}

fn message<'a>(
    size: Size,
    stamp_ns: i64,
    frame_id: &'a str,
    encoding: &'a str,
    data: &'a [u8],
) -> ImageMsg<'a> {
    ImageMsg {
        stamp: Stamp::from_nanos(stamp_ns),
        frame_id,
        size,
        encoding,
        is_bigendian: false,
        step: (data.len() / size.height as usize) as u32,
        data,
    }
}
