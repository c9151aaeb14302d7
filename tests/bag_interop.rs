//! Bags that the Python package `rosbags` writes are read, and it reads those we write.
//!
//! Runs where `SPARSE_REFINE_PYTHON` names a Python with `tests/python/requirements.txt` installed.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

use std::path::Path;
use std::process::Command;

use sparse_refine::bag::cdr::{ImageMsg, write_string};
use sparse_refine::bag::decode::{camera_image, label_image};
use sparse_refine::bag::definitions::{IMAGE, Qos, STRING};
use sparse_refine::bag::topics::{ImageKind, camera_topics};
use sparse_refine::bag::write::{BagWriter, Compression};
use sparse_refine::bag::{Bag, topics::ImageTopic};
use sparse_refine::types::{CameraId, LabelImage, PixelFormat, Size, Stamp};

// As in check_bag.py.
const FRAMES: i64 = 6;
const SIZE: Size = Size::new(40, 24);
const START_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 100_000_001;
const LOG_DELAY_NS: i64 = 5_000_000;
const IMAGE_TOPIC: &str = "/camera/front/image_raw";
const LABEL_TOPIC: &str = "/camera/front/label";
const PNG_TOPIC: &str = "/camera/rear/image_raw/compressed";

fn pixels(topic: usize, frame: i64, channels: usize) -> Vec<u8> {
    let count = SIZE.pixels() * channels;
    (0..count).map(|k| ((31 * frame as usize + 7 * topic + k) % 251) as u8).collect()
}

fn stamp(frame: i64) -> Stamp {
    Stamp::from_nanos(START_NS + frame * STEP_NS)
}

/// Runs the script and returns what it printed; `None` where there is no Python for it.
fn python(command: &str, path: &Path) -> Option<String> {
    let Some(interpreter) = std::env::var_os("SPARSE_REFINE_PYTHON") else {
        println!("skipped: SPARSE_REFINE_PYTHON is not set to a Python with tests/python/requirements.txt");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_bag.py");
    let output = Command::new(interpreter).arg(script).arg(command).arg(path).output().unwrap();
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "check_bag.py {command} failed:\n{printed}{errors}");
    Some(printed.into_owned())
}

#[test]
fn rosbags_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    for compression in [Compression::None, Compression::Zstd] {
        let bag = folder.path().join(format!("{compression:?}"));
        let mut writer = BagWriter::create(&bag, compression).unwrap();
        let image_topic = writer.add_topic(IMAGE_TOPIC, &IMAGE, Qos::BestEffort).unwrap();
        let label_topic = writer.add_topic(LABEL_TOPIC, &IMAGE, Qos::Reliable).unwrap();
        let note_topic = writer.add_topic("/note", &STRING, Qos::Latched).unwrap();
        let mut cdr = Vec::new();
        for frame in 0..FRAMES {
            let log_time = START_NS + frame * STEP_NS + LOG_DELAY_NS;
            let images = [(image_topic, "bgr8", 0, 3), (label_topic, "mono8", 1, 1)];
            for (topic, encoding, number, channels) in images {
                let (frame_id, is_bigendian, step) = ("camera_front", false, SIZE.width * channels);
                let data = &pixels(number, frame, channels as usize);
                let stamp = stamp(frame);
                ImageMsg { stamp, frame_id, size: SIZE, encoding, is_bigendian, step, data }.write(&mut cdr);
                writer.write(topic, log_time, &cdr).unwrap();
            }
            write_string(&format!("frame {frame}"), &mut cdr);
            writer.write(note_topic, log_time, &cdr).unwrap();
        }
        writer.finish().unwrap();
        let Some(printed) = python("check", &bag) else { return };
        assert_eq!(printed.trim(), "18 messages agree");
    }
}

#[test]
fn we_read_what_rosbags_writes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(printed) = python("write", folder.path()) else { return };
    let names: Vec<&str> = printed.lines().collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let path = folder.path().join(name);
        read(&path, name);
        // Without the description: the recorder was killed.
        std::fs::remove_file(path.join("metadata.yaml")).unwrap();
        read(&path, name);
    }
}

fn read(path: &Path, name: &str) {
    let bag = Bag::open(path).unwrap();
    let cameras = camera_topics(bag.topics());
    let topic = |name: &str, kind| ImageTopic { name: name.to_owned(), kind };
    assert_eq!(cameras.len(), 2, "{name}");
    assert_eq!(cameras[0].image, topic(IMAGE_TOPIC, ImageKind::Raw));
    assert_eq!(cameras[0].label, Some(topic(LABEL_TOPIC, ImageKind::Raw)));
    assert_eq!(cameras[1].image, topic(PNG_TOPIC, ImageKind::Compressed));
    let mut messages = bag.messages(&[IMAGE_TOPIC, LABEL_TOPIC, PNG_TOPIC]).unwrap();
    let mut scratch = Vec::new();
    for n in 0..FRAMES * 3 {
        let message = messages.read().unwrap().unwrap();
        let frame = n / 3;
        assert_eq!(message.log_time_ns, START_NS + frame * STEP_NS + LOG_DELAY_NS, "{name}");
        let cdr = message.cdr.unwrap();
        let (kind, format, channels) = match message.topic {
            0 => (ImageKind::Raw, PixelFormat::Bgr8, 3),
            1 => {
                let labels = label_image(ImageKind::Raw, cdr).unwrap();
                assert_eq!(labels, LabelImage { size: SIZE, data: pixels(1, frame, 1) }, "{name}");
                (ImageKind::Raw, PixelFormat::Mono8, 1)
            }
            _ => (ImageKind::Compressed, PixelFormat::Rgb8, 3),
        };
        let image = camera_image(CameraId(0), kind, cdr, &mut scratch).unwrap();
        assert_eq!((image.frame.stamp, image.frame_id), (stamp(frame), "camera_front"), "{name}");
        assert_eq!((image.frame.size, image.frame.format), (SIZE, format), "{name}");
        assert!(image.frame.data == pixels(message.topic, frame, channels), "{name} topic {}", message.topic);
    }
    assert!(messages.read().unwrap().is_none(), "{name}");
}
