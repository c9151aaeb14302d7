//! A made-up run through scoring and every file that comes of it. The files stay in the target folder's `tmp/`, to be
//! looked at after a change of the report.

use std::fs;
use std::path::Path;

use sparse_refine::eval::{
    EntropyGrid, FrameRow, FramesCsv, Measure, ModelFacts, Outcome, Panel, Report, RunFacts, Scorer, Summary,
    table,
};
use sparse_refine::plan::Geometry;
use sparse_refine::types::{
    BackendFacts, CameraId, ClassInfo, FrameReport, LabelImage, Mode, Size, Stage, StageTimes, Stamp,
    UNLABELLED,
};

const SIZE: Size = Size::new(1920, 1080);
const CELL: u32 = 16;
const CLASSES: [(&str, [u8; 3]); 7] = [
    ("road", [128, 64, 128]),
    ("pavement", [244, 35, 232]),
    ("building", [70, 70, 70]),
    ("pole", [153, 153, 153]),
    ("vegetation", [107, 142, 35]),
    ("sky", [70, 130, 180]),
    ("car", [0, 0, 142]),
];

/// A street: everything by its distance from the vanishing point.
fn scene(x: u32, y: u32, frame: u32) -> u8 {
    let (dx, dy) = (x as i32 - 960, y as i32 - 480);
    let car_x = 300 + 40 * frame as i32;
    let (cx, cy) = ((dx - car_x) as f32 / 130.0, (dy - 230) as f32 / 80.0);
    if y > 1040 {
        UNLABELLED
    } else if cx * cx + cy * cy < 1.0 {
        6
    } else if dy < 330 && (dx + 500).abs() < 9 || dy < 120 && (dx - 210).abs() < 4 {
        3
    } else if dy > 0 {
        if dx.abs() < 60 + dy * 7 / 5 { 0 } else { 1 }
    } else if dy > -dx.abs() / 2 + 40 {
        2
    } else if (dx + dy * 2 + 500).rem_euclid(700) < 160 && dy > -200 {
        4
    } else {
        5
    }
}

fn labels(frame: u32) -> LabelImage {
    let pixels = (0..SIZE.height).flat_map(|y| (0..SIZE.width).map(move |x| scene(x, y, frame)));
    LabelImage { size: SIZE, data: pixels.collect() }
}

/// The truth as a low-resolution network would give it: one label a cell, the class at the cell's corner.
fn coarse(frame: u32) -> LabelImage {
    let corner = |v: u32| v / CELL * CELL;
    let pixels =
        (0..SIZE.height).flat_map(|y| (0..SIZE.width).map(move |x| scene(corner(x), corner(y), frame)));
    LabelImage { size: SIZE, data: pixels.map(|label| if label == UNLABELLED { 0 } else { label }).collect() }
}

/// The coarse labels with most, not all, of their errors put right, and a few new ones.
fn refined(coarse: &LabelImage, truth: &LabelImage) -> LabelImage {
    let mut out = coarse.clone();
    for (i, (label, &truth)) in out.data.iter_mut().zip(&truth.data).enumerate() {
        let (x, y) = (i as u32 % SIZE.width, i as u32 / SIZE.width);
        if (x / 5 + y / 5) % 7 != 0 && truth != UNLABELLED {
            *label = truth;
        } else if x % 640 < 6 && y % 90 < 30 {
            *label = 4;
        }
    }
    out
}

fn photograph(truth: &LabelImage) -> Vec<u8> {
    let mut noise = 1u32;
    let pixels = truth.data.iter().enumerate().flat_map(|(i, &label)| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let colour = CLASSES.get(usize::from(label)).map_or([20, 20, 24], |class| class.1);
        let light = 0.75 + 0.5 * (i / SIZE.width as usize) as f32 / SIZE.height as f32;
        let grain = (noise >> 28) as f32;
        colour.map(|c| ((f32::from(c) * 0.7 + 40.0) * light + grain) as u8)
    });
    pixels.collect()
}

fn entropy(truth: &LabelImage) -> EntropyGrid {
    let geometry = Geometry::pad(SIZE, Size::new(SIZE.width / CELL, 68));
    let max = (CLASSES.len() as f32).ln();
    let cells = (0..geometry.grid.height).flat_map(|y| (0..geometry.grid.width).map(move |x| (x, y)));
    let values = cells.map(|(x, y)| {
        let at = |x: u32, y: u32| {
            let (x, y) = ((x * CELL).min(SIZE.width - 1), (y * CELL).min(SIZE.height - 1));
            truth.data[(y * SIZE.width + x) as usize]
        };
        let unsure = at(x, y) != at(x + 1, y) || at(x, y) != at(x, y + 1);
        if unsure { 0.8 * max } else { 0.03 * (1 + (x * y) % 7) as f32 }
    });
    EntropyGrid { measure: Measure::Entropy, geometry, values: values.collect(), max }
}

fn report(frame: u32) -> FrameReport {
    let mut stages = StageTimes::default();
    let wave = f64::from(frame * 37 % 11);
    for (stage, ms) in
        [(Stage::Preprocess, 8.0), (Stage::Segment, 120.0), (Stage::Select, 6.0), (Stage::Fuse, 14.0)]
    {
        stages.add(stage, ms + wave * 0.1 * ms / 4.0);
    }
    stages.add(Stage::Refine, 90.0 + 6.0 * wave);
    FrameReport {
        camera: CameraId(0),
        stamp: Stamp::from_nanos(1_700_000_000_000_000_000 + i64::from(frame) * 33_333_333),
        size: SIZE,
        pixels_selected: 250_000,
        pixels_refined: 240_000,
        pixels_dropped: 10_000,
        sites: [240_000, 80_000, 24_000, 7_000, 0, 0, 0, 0],
        stages,
        ..FrameReport::default()
    }
}

#[test]
fn a_run_gives_consistent_files() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eval_report");
    fs::create_dir_all(&folder).unwrap();
    let class = |(label, &(name, colour)): (usize, &(&str, _))| ClassInfo {
        name: name.into(),
        colour,
        label: label as u8,
    };
    let classes: Vec<_> = CLASSES.iter().enumerate().map(class).collect();
    let topics = vec!["/camera/front/image_raw".to_owned(), "/camera/<rear>/image_raw".to_owned()];
    let mut scorer = Scorer::new(Mode::Refined, &classes, &topics);
    let mut csv = FramesCsv::new(fs::File::create(folder.join("frames.csv")).unwrap()).unwrap();
    let mut panels = Vec::new();
    for frame in 0..4 {
        let (truth, coarse, report) = (labels(frame), coarse(frame), report(frame));
        let refined = refined(&coarse, &truth);
        let latency_ms = report.stages.total_ms() + 3.0;
        let miou = scorer.add_frame(&report, Some(&truth), Some(&coarse), &refined, latency_ms);
        let outcome = Outcome::Labelled { report: &report, latency_ms, miou };
        let (camera, topic) = ("front", topics[0].as_str());
        csv.write(&FrameRow { index: u64::from(frame), camera, topic, stamp: report.stamp, outcome })
            .unwrap();
        if frame % 3 == 0 {
            let (rgb, entropy) = (photograph(&truth), Some(entropy(&truth)));
            let title = format!("{topic}, frame {frame}");
            panels.push(Panel {
                title,
                size: SIZE,
                rgb,
                coarse: Some(coarse),
                refined,
                truth: Some(truth),
                entropy,
            });
        }
    }
    for frame in 4..120 {
        let report = report(frame);
        let labels = LabelImage::unlabelled(SIZE);
        scorer.add_frame(&report, None, None, &labels, report.stages.total_ms() + 3.0);
    }
    scorer.add_rejected(CameraId(1), "undecodable");
    let summary = scorer.finish(RunFacts {
        bag: "recordings/street.mcap".into(),
        model: ModelFacts { name: "streets".into(), path: "engines/streets".into(), sha256: None },
        backend: BackendFacts {
            segmenter: "rten".into(),
            refiner: "cpu (avx512)".into(),
            device: "cpu".into(),
            reason: "no CUDA driver was found".into(),
        },
        threads: 2,
        wall_s: 40.0,
        damage: vec!["recordings/street.mcap: the last chunk is cut short, its messages are lost".into()],
    });
    let report =
        Report { summary: &summary, classes: &classes, latencies_ms: scorer.latencies_ms(), panels: &panels };
    let html = report.to_html();
    fs::write(folder.join("summary.json"), summary.to_json()).unwrap();
    fs::write(folder.join("report.html"), &html).unwrap();
    csv.flush().unwrap();

    let read: Summary = serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap();
    assert_eq!((read.frames_in, read.frames_out, read.scored_frames), (121, 120, 4));
    let (coarse, refined) = (read.miou.coarse.unwrap(), read.miou.refined.unwrap());
    assert!(coarse < refined && refined < 1.0, "{coarse} {refined}");
    let boundary = read.boundary_miou;
    assert!(boundary.coarse.unwrap() < coarse && boundary.coarse < boundary.refined);
    let lines = fs::read_to_string(folder.join("frames.csv")).unwrap();
    assert_eq!(lines.lines().count(), 5);
    let shown = format!("{:.1} %", 100.0 * refined);
    assert!(html.contains(&shown) && table(&summary, None).contains(&shown));
    assert_eq!(html.matches("<article>").count(), 2);
    assert_eq!(html.matches("class=\"outline\"").count(), 2, "refinement changed both frames");
    assert!(html.len() < 6_000_000, "{} bytes", html.len());
}
