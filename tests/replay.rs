//! A recording through the whole library: the same labels however it is run, and nothing lost to bad input.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sparse_refine::bundle::Bundle;
use sparse_refine::config::{BackendChoice, Config};
use sparse_refine::eval::{ModelFacts, Summary};
use sparse_refine::plan::Plan;
use sparse_refine::replay::{ReplayOptions, replay};
use sparse_refine::start::{Started, start};
use sparse_refine::types::{BackendFacts, LabelImage, Mode, PixelFormat, Size, Stamp, UNLABELLED};
use support::recording::{
    CAMERA, LABELS_OUT, SIZE, TRUTH, bars, compressed, encode, good, image, read_labels, scene, stamp,
    write_bag, write_good_bag,
};
use support::{LABELS, TinyBundle};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        TinyBundle::write(&place.path("model"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replays a bag into the folder `out`, which is made anew.
    fn replay(&self, bag: &Path, out: &str, config: &Config) -> Summary {
        let bundle = Bundle::load(&self.path("model")).unwrap();
        let plan = Plan::new(config, &bundle).unwrap();
        let (Started::Cpu(backend), facts) = start(plan.clone(), BackendChoice::Cpu).unwrap() else {
            panic!("the CPU was asked for")
        };
        let options = options(bag, &self.path(out), config, facts);
        replay(&*backend, &plan, &options, |_, _| {}).unwrap().summary
    }

    /// Labels of the front camera as a run leaves them in its bag.
    fn labels(&self, bag: &Path, out: &str, config: &Config) -> Vec<LabelImage> {
        self.replay(bag, out, config);
        let found = read_labels(&self.path(out).join("bag"), LABELS_OUT);
        found.into_iter().map(|(_, _, labels)| labels).collect()
    }
}

fn options(bag: &Path, out: &Path, config: &Config, backend: BackendFacts) -> ReplayOptions {
    ReplayOptions {
        bag: bag.to_owned(),
        out: out.to_owned(),
        force: true,
        image_topics: Vec::new(),
        label_topics: Vec::new(),
        write_bag: true,
        panels: 2,
        slots: config.slots.unwrap_or(1),
        budget_ms: config.budget_ms,
        model: ModelFacts::default(),
        backend,
        against: None,
    }
}

fn one_thread() -> Config {
    Config { threads: Some(1), ..Config::default() }
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect()
}

/// Rows of `frames.csv` as names and values.
fn frames(out: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(out.join("frames.csv")).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        let values: Vec<&str> = line.split(',').collect();
        assert_eq!(values.len(), names.len(), "{line}");
        names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.to_owned())).collect()
    };
    lines.map(row).collect()
}

fn number(row: &BTreeMap<String, String>, name: &str) -> u64 {
    row[name].parse().unwrap()
}

fn agreement(a: &LabelImage, b: &LabelImage) -> f64 {
    assert_eq!(a.size, b.size);
    let same = a.data.iter().zip(&b.data).filter(|(a, b)| a == b).count();
    same as f64 / a.data.len() as f64
}

#[test]
fn labels_do_not_depend_on_slots_or_threads() {
    let place = Place::new();
    let bag = place.path("recording");
    let mut messages = Vec::new();
    for n in 0..12 {
        messages.push((CAMERA, n, good(n, SIZE)));
        messages.push(("/camera/left/image_raw", n, good(n + 50, Size::new(97, 61))));
    }
    write_bag(&bag, &messages);
    let run = |slots, threads| {
        let config = Config { slots: Some(slots), threads: Some(threads), ..Config::default() };
        let summary = place.replay(&bag, "out", &config);
        assert_eq!((summary.frames_in, summary.frames_out), (24, 24));
        assert!(summary.refined_fraction > 0.0, "the test would compare coarse labels only");
        let left = LABELS_OUT.replace("front", "left");
        let written = place.path("out/bag");
        [read_labels(&written, LABELS_OUT), read_labels(&written, &left)]
    };
    let reference = run(1, 1);
    for (slots, threads) in [(2, 1), (8, 1), (1, 2), (2, 2), (8, 2)] {
        // Not `assert_eq`: nobody wants to read the pixels.
        assert!(run(slots, threads) == reference, "{slots} slots, {threads} threads");
    }
}

#[test]
fn labels_carry_the_headers_of_their_images() {
    let place = Place::new();
    let bag = place.path("recording");
    write_good_bag(&bag, 5, false);
    place.replay(&bag, "out", &one_thread());
    let found = read_labels(&place.path("out/bag"), LABELS_OUT);
    let headers: Vec<(Stamp, String)> =
        found.iter().map(|(stamp, frame, _)| (*stamp, frame.clone())).collect();
    let expected: Vec<_> = (0..5).map(|n| (stamp(n), format!("camera_{n}"))).collect();
    assert_eq!(headers, expected);
    assert!(found.iter().all(|(_, _, labels)| labels.size == SIZE));
    assert!(found.iter().all(|(_, _, labels)| labels.data.iter().all(|label| LABELS.contains(label))));
}

#[test]
fn bad_messages_are_counted_by_reason_and_lose_no_good_frame() {
    let place = Place::new();
    let Size { width, height } = SIZE;
    let rgb = scene(SIZE, 0);
    let mut cut = good(0, SIZE);
    cut.truncate(30);
    let raw = |n, size, encoding, step, data: &[u8]| image(n, size, encoding, step, data);
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("damaged_message", cut),
        ("damaged_message", Vec::new()),
        ("damaged_message", vec![0, 1]),
        ("damaged_message", vec![9; 400]),
        ("unknown_encoding", raw(0, SIZE, "rgb16", width * 6, &rgb)),
        ("unknown_encoding", raw(0, SIZE, "", width * 3, &rgb)),
        ("short_data", raw(0, SIZE, "rgb8", width * 3, &rgb[..rgb.len() - 1])),
        ("short_data", raw(0, SIZE, "rgb8", width * 3, &[])),
        ("short_data", raw(0, Size::new(30_000, 30_000), "rgb8", 90_000, &rgb)),
        ("short_data", raw(0, Size::new(u32::MAX, u32::MAX), "mono8", u32::MAX, &rgb)),
        ("short_step", raw(0, SIZE, "rgb8", width * 3 - 1, &rgb)),
        ("short_step", raw(0, SIZE, "rgb8", 0, &rgb)),
        ("zero_size", raw(0, Size::new(0, height), "rgb8", 0, &[])),
        ("zero_size", raw(0, Size::new(width, 0), "rgb8", width * 3, &[])),
        ("odd_size", raw(0, Size::new(63, 48), "uyvy", 126, &rgb)),
        ("odd_size", raw(0, Size::new(64, 47), "nv12", 64, &rgb)),
        ("odd_size", raw(0, Size::new(64, 47), "bayer_rggb8", 64, &rgb)),
        ("too_large", raw(0, Size::new(40_000, 1), "mono8", 40_000, &[0; 40_000])),
    ];
    let bag = place.path("good");
    write_good_bag(&bag, bad.len() + 1, false);
    let expected = place.labels(&bag, "out", &one_thread());

    let mut messages = vec![(CAMERA, 0, good(0, SIZE))];
    let mut reasons = BTreeMap::new();
    for (n, (reason, message)) in bad.iter().enumerate() {
        *reasons.entry((*reason).to_owned()).or_insert(0) += 1;
        messages.push((CAMERA, n, message.clone()));
        messages.push((CAMERA, n + 1, good(n + 1, SIZE)));
    }
    let bag = place.path("mixed");
    write_bag(&bag, &messages);
    for slots in [1, 4] {
        let config = Config { slots: Some(slots), ..one_thread() };
        let summary = place.replay(&bag, "out", &config);
        assert_eq!(summary.frames_rejected, reasons);
        assert_eq!(summary.frames_in, messages.len() as u64);
        assert_eq!(summary.frames_out, bad.len() as u64 + 1);
        let counts = summary.per_camera[CAMERA];
        assert_eq!(counts.frames_rejected, bad.len() as u64);
        let rows = frames(&place.path("out"));
        assert_eq!(rows.len(), messages.len(), "a row for each frame");
        for (row, (reason, _)) in rows.iter().skip(1).step_by(2).zip(&bad) {
            assert_eq!(row["status"], format!("rejected:{reason}"));
        }
        let labels: Vec<LabelImage> = read_labels(&place.path("out/bag"), LABELS_OUT)
            .into_iter()
            .map(|(_, _, labels)| labels)
            .collect();
        assert!(labels == expected, "the good frames are labelled as without the bad ones");
    }
}

#[test]
fn damaged_compressed_images_are_counted_and_lose_no_good_frame() {
    let place = Place::new();
    let png = encoded(image::ImageFormat::Png, &scene(SIZE, 1), SIZE);
    let jpeg = encoded(image::ImageFormat::Jpeg, &scene(SIZE, 1), SIZE);
    let bad: [&[u8]; 5] = [b"", b"GIF89a", &png[..png.len() / 2], &jpeg[..jpeg.len() / 2], &[0xff; 64]];
    let topic = "/camera/front/image_raw/compressed";
    let mut messages = vec![(topic, 0, compressed(0, "png", &png))];
    messages.extend(bad.iter().enumerate().map(|(n, data)| (topic, n + 1, compressed(n + 1, "jpeg", data))));
    messages.push((topic, 9, compressed(9, "jpeg", &jpeg)));
    write_bag(&place.path("bag"), &messages);
    let summary = place.replay(&place.path("bag"), "out", &one_thread());
    assert_eq!(summary.frames_rejected, counts(&[("undecodable", bad.len() as u64)]));
    assert_eq!(summary.frames_out, 2);
}

#[test]
fn sizes_may_change_and_cameras_may_differ() {
    let place = Place::new();
    let sizes =
        [Size::new(64, 48), Size::new(31, 57), Size::new(64, 48), Size::new(200, 20), Size::new(1, 1)];
    let left = "/camera/left/image_raw";
    let mut messages = Vec::new();
    for (n, &size) in sizes.iter().enumerate() {
        messages.push((CAMERA, n, good(n, size)));
        messages.push((left, n, good(n + 20, Size::new(80, 60))));
    }
    write_bag(&place.path("bag"), &messages);
    let config = Config { slots: Some(2), ..one_thread() };
    let summary = place.replay(&place.path("bag"), "out", &config);
    assert_eq!((summary.frames_out, summary.frames_rejected.len()), (10, 0));
    let distinct = [sizes[0], Size::new(80, 60), sizes[1], sizes[3], sizes[4]];
    assert_eq!(summary.sizes, distinct);
    let found = read_labels(&place.path("out/bag"), LABELS_OUT);
    let found: Vec<(Size, LabelImage)> =
        found.into_iter().map(|(_, _, labels)| (labels.size, labels)).collect();
    assert_eq!(found.iter().map(|(size, _)| *size).collect::<Vec<_>>(), sizes);
    assert!(found.iter().all(|(size, labels)| labels.data.len() == size.pixels()));
    // A frame among others of other sizes is labelled as it would be alone.
    for (n, &size) in sizes.iter().enumerate() {
        let bag = place.path(&format!("alone_{n}"));
        write_bag(&bag, &[(CAMERA, n, good(n, size))]);
        assert!(place.labels(&bag, "alone", &one_thread())[0] == found[n].1, "{size}");
    }
}

#[test]
fn truth_of_another_size_is_counted_and_not_scored() {
    let place = Place::new();
    let labels = vec![1; SIZE.pixels()];
    let wrong = image(1, Size::new(32, 24), "mono8", 32, &labels[..32 * 24]);
    let right = image(0, SIZE, "mono8", SIZE.width, &labels);
    let messages =
        [(CAMERA, 0, good(0, SIZE)), (TRUTH, 0, right), (CAMERA, 1, good(1, SIZE)), (TRUTH, 1, wrong)];
    write_bag(&place.path("bag"), &messages);
    let summary = place.replay(&place.path("bag"), "out", &one_thread());
    assert_eq!((summary.frames_out, summary.scored_frames, summary.label_size_mismatch), (2, 1, 1));
    assert!(summary.miou.refined.is_some());
}

#[test]
fn frames_before_the_damage_of_a_cut_file_are_labelled() {
    let place = Place::new();
    let bag = place.path("bag");
    write_good_bag(&bag, 10, false);
    let expected = place.labels(&bag, "out", &one_thread());
    let file = bag.join("bag_0.mcap");
    let bytes = fs::read(&file).unwrap();
    let ends: Vec<usize> = (0..10)
        .map(|n| {
            let message = good(n, SIZE);
            bytes.windows(message.len()).position(|window| window == message).unwrap() + message.len()
        })
        .collect();
    for share in [0.3, 0.75] {
        let length = (bytes.len() as f64 * share) as usize;
        fs::write(&file, &bytes[..length]).unwrap();
        for path in [&bag, &file] {
            let summary = place.replay(path, "out", &one_thread());
            let whole = ends.iter().filter(|&&end| end <= length).count();
            assert!((1..10).contains(&whole), "the test would not cut anything");
            assert_eq!(summary.frames_out as usize, whole, "every message that is whole");
            assert!(
                summary.damage.iter().any(|damage| damage.contains("bag_0.mcap")),
                "{:?}",
                summary.damage
            );
            let found = read_back(&place.path("out/bag"));
            assert!(found[..] == expected[..found.len()]);
        }
    }
}

fn read_back(bag: &Path) -> Vec<LabelImage> {
    read_labels(bag, LABELS_OUT).into_iter().map(|(_, _, labels)| labels).collect()
}

fn encoded(format: image::ImageFormat, rgb: &[u8], size: Size) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::write_buffer_with_format(
        &mut file,
        rgb,
        size.width,
        size.height,
        image::ExtendedColorType::Rgb8,
        format,
    )
    .unwrap();
    file.into_inner()
}

#[test]
fn compressed_images_are_labelled_like_raw_ones() {
    let place = Place::new();
    let rgb = bars(SIZE);
    let topic = "/camera/front/image_raw/compressed";
    write_bag(&place.path("raw"), &[(CAMERA, 0, image(0, SIZE, "rgb8", SIZE.width * 3, &rgb))]);
    let raw = place.labels(&place.path("raw"), "out", &one_thread());
    for (name, format, share) in
        [("png", image::ImageFormat::Png, 1.0), ("jpeg", image::ImageFormat::Jpeg, 0.97)]
    {
        let bag = place.path(name);
        write_bag(&bag, &[(topic, 0, compressed(0, name, &encoded(format, &rgb, SIZE)))]);
        let found = place.labels(&bag, "out", &one_thread());
        assert!(agreement(&found[0], &raw[0]) >= share, "{name}: {}", agreement(&found[0], &raw[0]));
    }
}

#[test]
fn every_pixel_format_gives_the_labels_of_the_scene() {
    let place = Place::new();
    let rgb = bars(SIZE);
    let coarse = Config { mode: Mode::Coarse, ..one_thread() };
    let bar = |column: u32| LABELS[(column * 4 / SIZE.width) as usize];
    let expected =
        LabelImage { size: SIZE, data: (0..SIZE.pixels()).map(|i| bar(i as u32 % SIZE.width)).collect() };
    for format in PixelFormat::ALL.into_iter().filter(|format| *format != PixelFormat::Mono8) {
        let bytes = encode(&rgb, SIZE, format);
        let row = format.row_bytes(SIZE.width);
        let padded: Vec<u8> = bytes.chunks(row).flat_map(|row| [row, &[77; 13]].concat()).collect();
        for (step, data) in [(row, &bytes), (row + 13, &padded)] {
            let bag = place.path(&format!("{}_{step}", format.encoding()));
            write_bag(&bag, &[(CAMERA, 0, image(0, SIZE, format.encoding(), step as u32, data))]);
            let found = place.labels(&bag, "out", &coarse);
            let share = agreement(&found[0], &expected);
            // At the three edges demosaicing and shared chroma may decide otherwise, within one cell of logits.
            assert!(share >= 0.8, "{} with step {step}: {share}", format.encoding());
            let inside = [4, 28, 44, 60].map(|column| found[0].data[(24 * SIZE.width + column) as usize]);
            assert_eq!(inside, [LABELS[0], bar(28), bar(44), LABELS[3]], "{}", format.encoding());
        }
    }
}

#[test]
fn grey_images_are_labelled_like_grey_colours() {
    let place = Place::new();
    let grey: Vec<u8> = scene(SIZE, 0).iter().step_by(3).copied().collect();
    let rgb: Vec<u8> = grey.iter().flat_map(|&level| [level; 3]).collect();
    write_bag(&place.path("mono"), &[(CAMERA, 0, image(0, SIZE, "mono8", SIZE.width, &grey))]);
    write_bag(&place.path("rgb"), &[(CAMERA, 0, image(0, SIZE, "rgb8", SIZE.width * 3, &rgb))]);
    let labels = |name: &str| place.labels(&place.path(name), "out", &one_thread());
    assert!(labels("mono") == labels("rgb"));
}

#[test]
fn what_the_capacity_drops_adds_up() {
    let place = Place::new();
    write_good_bag(&place.path("bag"), 4, false);
    let config = Config { max_fraction: Some(0.01), ..one_thread() };
    let summary = place.replay(&place.path("bag"), "out", &config);
    let capacity = (SIZE.pixels() as f64 * f64::from(0.01f32)) as u64;
    for row in frames(&place.path("out")) {
        let [selected, refined, dropped] =
            ["pixels_selected", "pixels_refined", "pixels_dropped"].map(|name| number(&row, name));
        assert_eq!(selected, refined + dropped);
        assert!(
            dropped > 0 && refined <= capacity && refined > 0,
            "{refined} of {capacity}, {dropped} dropped"
        );
    }
    let sum = summary.refined_fraction + summary.dropped_fraction;
    assert!((summary.selected_fraction - sum).abs() < 1e-9);
}

#[test]
fn a_tiny_budget_refines_less_and_labels_every_frame() {
    let place = Place::new();
    write_good_bag(&place.path("bag"), 6, false);
    let config = Config { budget_ms: Some(1e-6), ..one_thread() };
    let summary = place.replay(&place.path("bag"), "out", &config);
    assert_eq!(summary.frames_out, 6);
    let rows = frames(&place.path("out"));
    assert!(
        rows[1..].iter().all(|row| number(row, "pixels_refined") == 0 && number(row, "pixels_dropped") > 0)
    );
}

#[test]
fn a_huge_alpha_refines_nothing_and_gives_the_coarse_labels() {
    let place = Place::new();
    write_good_bag(&place.path("bag"), 3, true);
    let config = Config { alpha: Some(1e30), ..one_thread() };
    let summary = place.replay(&place.path("bag"), "refined", &config);
    assert_eq!((summary.selected_fraction, summary.refined_fraction), (0.0, 0.0));
    assert_eq!(summary.miou.coarse, summary.miou.refined);
    let coarse = place.labels(&place.path("bag"), "coarse", &Config { mode: Mode::Coarse, ..one_thread() });
    assert!(read_back(&place.path("refined/bag")) == coarse);
}

#[test]
fn coarse_labels_beside_refined_ones_score_as_a_coarse_run() {
    let place = Place::new();
    write_good_bag(&place.path("bag"), 3, true);
    let refined = place.replay(&place.path("bag"), "out", &one_thread());
    let coarse = place.replay(&place.path("bag"), "out", &Config { mode: Mode::Coarse, ..one_thread() });
    assert_eq!(refined.miou.coarse, coarse.miou.coarse);
    assert_ne!(refined.miou.coarse, refined.miou.refined, "refinement changed something");
    assert_eq!((coarse.miou.refined, coarse.refined_fraction), (None, 0.0));
}

#[test]
fn cells_without_finite_logits_are_unlabelled_and_counted() {
    let place = Place::new();
    TinyBundle::write(&place.path("model")).with_roots_of_red();
    let Size { width, height } = SIZE;
    let red = |column: u32| if column < width / 2 { 0 } else { 255 };
    let rgb: Vec<u8> = (0..height).flat_map(|_| (0..width).flat_map(|c| [red(c), 9, 9])).collect();
    write_bag(&place.path("bag"), &[(CAMERA, 0, image(0, SIZE, "rgb8", width * 3, &rgb))]);
    let alpha = Some(1e30);
    for mode in [Mode::Coarse, Mode::Refined] {
        let config = Config { mode, alpha, ..one_thread() };
        let labels = place.labels(&place.path("bag"), "out", &config).remove(0);
        // Interpolation spreads what is not finite by less than one logit, four pixels here.
        let middle = width / 2;
        for (pixel, &label) in labels.data.iter().enumerate() {
            match pixel as u32 % width {
                column if column < middle => assert_eq!(label, UNLABELLED, "column {column}"),
                column if column >= middle + 4 => assert_eq!(label, LABELS[2], "column {column}"),
                _ => {}
            }
        }
        let cells = number(&frames(&place.path("out"))[0], "non_finite_cells");
        assert!((32 * 24 / 2..32 * 24 / 2 + 24 * 2).contains(&cells), "{cells}");
    }
    let refined = place.labels(&place.path("bag"), "out", &one_thread()).remove(0);
    assert!(
        refined.data[..4].iter().all(|&label| label == UNLABELLED),
        "nothing is refined where nothing is known"
    );
}
