//! Small recordings: scenes in every pixel format, bags of them, and the labels out of a bag.

use std::path::Path;

use sparse_refine::bag::Bag;
use sparse_refine::bag::cdr::{CompressedMsg, ImageMsg};
use sparse_refine::bag::decode::label_image;
use sparse_refine::bag::definitions::{COMPRESSED_IMAGE, IMAGE, Qos};
use sparse_refine::bag::topics::ImageKind;
use sparse_refine::bag::write::{BagWriter, Compression};
use sparse_refine::types::{LabelImage, PixelFormat, Size, Stamp};

/// The size at which a cell of the tiny bundle is 2x2 pixels.
pub(crate) const SIZE: Size = Size::new(64, 48);
pub(crate) const CAMERA: &str = "/camera/front/image_raw";
pub(crate) const TRUTH: &str = "/camera/front/label";
pub(crate) const LABELS_OUT: &str = "/sparse_refine/output/front/label";

/// Soft blobs of colour that move with `shift`, RGB: sure in the middle, unsure at the edges.
pub(crate) fn scene(size: Size, shift: u32) -> Vec<u8> {
    let pixel = |row: u32, column: u32| {
        let wave = |period: u32, phase: u32| {
            let angle = (column + row / 2 + shift * 3 + phase) as f32 / period as f32;
            (127.5 + 127.4 * angle.sin()) as u8
        };
        [wave(9, 0), wave(13, 20), wave(7, row)]
    };
    let rows = (0..size.height).flat_map(|row| (0..size.width).map(move |column| (row, column)));
    rows.flat_map(|(row, column)| pixel(row, column)).collect()
}

/// Four flat bars in full red, green, blue and black.
pub(crate) fn bars(size: Size) -> Vec<u8> {
    let bar = |column: u32| match column * 4 / size.width {
        0 => [255, 0, 0],
        1 => [0, 255, 0],
        2 => [0, 0, 255],
        _ => [0, 0, 0],
    };
    (0..size.height).flat_map(|_| (0..size.width).flat_map(bar)).collect()
}

/// The bytes of an RGB image in another format, rows without padding. Chroma of a pair or a block is its first pixel's.
pub(crate) fn encode(rgb: &[u8], size: Size, format: PixelFormat) -> Vec<u8> {
    let (width, height) = (size.width as usize, size.height as usize);
    let at = |row: usize, column: usize| {
        let start = (row * width + column) * 3;
        [rgb[start], rgb[start + 1], rgb[start + 2]]
    };
    let pixels = || (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let bayer = |[even, odd]: [[usize; 2]; 2]| {
        let site = |(row, column): (usize, usize)| {
            at(row, column)[if row % 2 == 0 { even } else { odd }[column % 2]]
        };
        pixels().map(site).collect()
    };
    let luma_and_chroma = |row: usize, column: usize| yuv(at(row, column));
    match format {
        PixelFormat::Rgb8 => rgb.to_vec(),
        PixelFormat::Bgr8 => rgb.chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect(),
        PixelFormat::Rgba8 => rgb.chunks(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
        PixelFormat::Bgra8 => rgb.chunks(3).flat_map(|p| [p[2], p[1], p[0], 255]).collect(),
        PixelFormat::Mono8 => pixels().map(|(row, column)| luma_and_chroma(row, column)[0]).collect(),
        PixelFormat::Uyvy | PixelFormat::Yuyv => pixels()
            .flat_map(|(row, column)| {
                let luma = luma_and_chroma(row, column)[0];
                let chroma = luma_and_chroma(row, column & !1)[1 + column % 2];
                if format == PixelFormat::Uyvy { [chroma, luma] } else { [luma, chroma] }
            })
            .collect(),
        PixelFormat::Nv12 => {
            let luma = pixels().map(|(row, column)| luma_and_chroma(row, column)[0]);
            let blocks = (0..height / 2).flat_map(|row| (0..width / 2).map(move |column| (row, column)));
            let chroma = blocks.flat_map(|(row, column)| {
                let [_, u, v] = luma_and_chroma(row * 2, column * 2);
                [u, v]
            });
            luma.chain(chroma).collect()
        }
        PixelFormat::BayerRggb8 => bayer([[0, 1], [1, 2]]),
        PixelFormat::BayerBggr8 => bayer([[2, 1], [1, 0]]),
        PixelFormat::BayerGbrg8 => bayer([[1, 2], [0, 1]]),
        PixelFormat::BayerGrbg8 => bayer([[1, 0], [2, 1]]),
    }
}

/// BT.601, limited range: what cameras send.
fn yuv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = [r, g, b].map(f32::from);
    let y = 16.0 + (65.481 * r + 128.553 * g + 24.966 * b) / 255.0;
    let u = 128.0 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255.0;
    let v = 128.0 + (112.0 * r - 93.786 * g - 18.214 * b) / 255.0;
    [y, u, v].map(|value| value.round() as u8)
}

/// Header stamp and log time of the n-th message.
pub(crate) fn stamp(n: usize) -> Stamp {
    Stamp { sec: 1_700_000_000 + n as i32, nanosec: 123_456_789 }
}

/// A serialized image with the stamp of the n-th message and a frame named after it.
pub(crate) fn image(n: usize, size: Size, encoding: &str, step: u32, data: &[u8]) -> Vec<u8> {
    let frame_id = format!("camera_{n}");
    let message =
        ImageMsg { stamp: stamp(n), frame_id: &frame_id, size, encoding, is_bigendian: false, step, data };
    let mut cdr = Vec::new();
    message.write(&mut cdr);
    cdr
}

/// The n-th scene as a serialized `rgb8` image.
pub(crate) fn good(n: usize, size: Size) -> Vec<u8> {
    image(n, size, "rgb8", size.width * 3, &scene(size, n as u32))
}

/// A serialized compressed image.
pub(crate) fn compressed(n: usize, format: &str, data: &[u8]) -> Vec<u8> {
    let mut cdr = Vec::new();
    CompressedMsg { stamp: stamp(n), frame_id: "camera", format, data }.write(&mut cdr);
    cdr
}

/// Writes a bag of messages `(topic, log time step, cdr)`; topics that end in `compressed` are so.
pub(crate) fn write_bag(folder: &Path, messages: &[(&str, usize, Vec<u8>)]) {
    let mut writer = BagWriter::create(folder, Compression::None).unwrap();
    let mut topics = Vec::new();
    for (topic, ..) in messages {
        if topics.iter().all(|(known, _)| known != topic) {
            let kind = if topic.ends_with("compressed") { &COMPRESSED_IMAGE } else { &IMAGE };
            topics.push((*topic, writer.add_topic(topic, kind, Qos::BestEffort).unwrap()));
        }
    }
    for (topic, n, cdr) in messages {
        let (_, id) = topics.iter().find(|(known, _)| known == topic).unwrap();
        writer.write(*id, stamp(*n).as_nanos(), cdr).unwrap();
    }
    writer.finish().unwrap();
}

/// A bag of `count` good frames of one camera, with their numbers as truth where `truth` is set.
pub(crate) fn write_good_bag(folder: &Path, count: usize, truth: bool) {
    let mut messages = Vec::new();
    for n in 0..count {
        messages.push((CAMERA, n, good(n, SIZE)));
        if truth {
            let labels: Vec<u8> = (0..SIZE.pixels()).map(|i| [0, 1, 2, 7][(i + n) / 16 % 4]).collect();
            messages.push((TRUTH, n, image(n, SIZE, "mono8", SIZE.width, &labels)));
        }
    }
    write_bag(folder, &messages);
}

/// Stamp, frame and labels of every message of a label topic.
pub(crate) fn read_labels(bag: &Path, topic: &str) -> Vec<(Stamp, String, LabelImage)> {
    let mut messages = Bag::open(bag).unwrap().messages(&[topic]).unwrap();
    let mut found = Vec::new();
    while let Some(message) = messages.read().unwrap() {
        let cdr = message.cdr.unwrap();
        let (stamp, frame_id) = sparse_refine::bag::cdr::header(cdr).unwrap();
        found.push((stamp, frame_id.to_owned(), label_image(ImageKind::Raw, cdr).unwrap()));
    }
    found
}
