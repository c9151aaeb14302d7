//! The program as a user meets it: exit statuses, one line per error, and what it writes.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sparse_refine::synth::{SceneSpec, render};
use sparse_refine::types::{Size, Stage};
use support::TinyBundle;
use support::recording::{CAMERA, SIZE, TRUTH, good, image, write_bag, write_good_bag};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sparse_refine")).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The only line on standard error, without the name of the program; the status is `code` and nothing was printed.
fn refusal(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    let line = text.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "{arguments:?}: several lines: {text}");
    assert!(!text.contains("panicked"), "{text}");
    line.strip_prefix("sparse_refine: ").unwrap_or_else(|| panic!("{arguments:?}: {text}")).to_owned()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// A bundle, a bag of four frames with labels, and room for output.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        TinyBundle::write(&dir.path().join("model"));
        write_good_bag(&dir.path().join("recording"), 4, true);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn bundle(&self) -> TinyBundle {
        TinyBundle::write(&self.path("model"))
    }

    /// Arguments of a replay of the recording into `out`, and more.
    fn replay(&self, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["replay".to_owned(), self.text("recording")];
        for (name, folder) in [("--model", "model"), ("--out", "out")] {
            arguments.extend([name.to_owned(), self.text(folder)]);
        }
        arguments.extend(more.iter().map(|&more| more.to_owned()));
        arguments
    }

    fn replay_refusal(&self, code: i32, more: &[&str]) -> String {
        let arguments = self.replay(more);
        refusal(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn replay_output(&self, more: &[&str]) -> Output {
        let arguments = self.replay(more);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

#[test]
fn help_and_version_are_not_errors() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert_says(
        &stdout(&help),
        &["replay", "bench", "synth", "doctor", "node", "Exit status: 0 done; 2 usage"],
    );
    assert!(help.stderr.is_empty());
    for command in ["replay", "bench", "synth", "doctor"] {
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0), "{command}");
    }
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(stdout(&version).trim(), format!("sparse_refine {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_one_line_with_what_is_wrong_and_where_help_is() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--colour"], &["--colour"]),
        (&["doctor", "--fast"], &["--fast", "`sparse_refine doctor --help`"]),
        (&["play"], &["play", "`sparse_refine --help`"]),
        (&["replay"], &["--model <DIR>", "--out <DIR>", "<BAG>"]),
        (&["synth", "x", "--size", "3840"], &["WIDTHxHEIGHT", "3840"]),
        (&["synth", "x", "--size", "0x10"], &["0x10"]),
        (&["synth", "x", "--size", "64x70000"], &["64x70000", "at most"]),
        (&["bench", "--model", "x", "--size", "99999x99999"], &["99999x99999", "at most"]),
        (&["synth", "x", "--frames", "0"], &["0", "--frames"]),
        (&["synth", "x", "--fps", "0"], &["--fps is 0"]),
        (&["synth", "x", "--fps", "1e-12"], &["--fps is 0.000000000001"]),
        (&["synth", "x", "--fps", "NaN"], &["--fps is NaN"]),
        (&["replay", "a", "--model", "b", "--out", "c", "--mode", "fine"], &["fine", "refined", "coarse"]),
        (&["replay", "a", "--model", "b", "--out", "c", "--alpha", "much"], &["much", "--alpha"]),
    ];
    for (arguments, parts) in cases {
        assert_says(&refusal(2, arguments), parts);
    }
}

#[test]
fn settings_out_of_range_are_usage_errors() {
    let place = Place::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--alpha=-1"], &["alpha is -1", "0 or more"]),
        (&["--alpha", "-1"], &["alpha is -1", "0 or more"]),
        (&["--alpha", "nan"], &["alpha is NaN"]),
        (&["--max-fraction", "0"], &["max_fraction is 0"]),
        (&["--max-fraction", "1.5"], &["max_fraction is 1.5"]),
        (&["--budget-ms", "0"], &["budget_ms is 0"]),
        (&["--threads", "0"], &["threads is 0"]),
        (&["--slots", "17"], &["slots is 17"]),
        (&["--mode", "dense"], &["dense", &place.text("model")]),
        (
            &["--image-topic", CAMERA, "--label-topic", TRUTH, "--label-topic", TRUTH],
            &["2 --label-topic for 1"],
        ),
        (&["--label-topic", TRUTH], &["1 --label-topic for 0"]),
        (&["--image-topic", CAMERA, "--image-topic", CAMERA], &[CAMERA, "twice"]),
    ];
    for (arguments, parts) in cases {
        assert_says(&place.replay_refusal(2, arguments), parts);
    }
    assert!(!place.path("out").exists(), "a refused run leaves nothing");
}

#[test]
fn a_backend_that_is_not_there_has_its_own_status() {
    let place = Place::new();
    let doctor = stdout(&run(&["doctor"]));
    for backend in ["cuda", "tensorrt"] {
        if doctor.lines().any(|line| line.starts_with(&format!("{backend} ")) && line.contains(" yes ")) {
            println!("{backend} works on this machine: nothing to refuse");
            continue;
        }
        let text = place.replay_refusal(4, &["--backend", backend]);
        assert_says(&text, &[backend, "not available", "--backend cpu"]);
        assert_says(&place.replay_refusal(4, &["--backend", backend, "--json"]), &[backend]);
    }
}

#[test]
#[cfg(not(feature = "tensorrt"))]
fn engines_need_a_build_with_tensorrt_and_the_message_says_which() {
    let place = Place::new();
    let model = place.text("model");
    for arguments in [&["engine", "build", "--model", &model][..], &["engine", "list"], &["engine", "verify"]]
    {
        assert_says(&refusal(4, arguments), &["not in this build", "rebuild with `--features tensorrt`"]);
    }
    let line = place.replay_refusal(4, &["--backend", "tensorrt"]);
    assert_says(&line, &["not in this build", "rebuild with `--features tensorrt`"]);
}

#[test]
fn bags_that_cannot_be_read_are_named() {
    let place = Place::new();
    let replay = |bag: &str| {
        let text = place.text(bag);
        let (model, out) = (place.text("model"), place.text("out"));
        let line = refusal(3, &["replay", &text, "--model", &model, "--out", &out]);
        assert_says(&line, &[&text]);
        line
    };
    assert_says(&replay("nowhere"), &["cannot read the bag", "check the path"]);
    fs::write(place.path("notes.txt"), "not a bag\n").unwrap();
    assert_says(&replay("notes.txt"), &["not a rosbag2", "give a bag folder"]);
    fs::write(place.path("notes.mcap"), "not a bag either\n").unwrap();
    replay("notes.mcap");
    fs::write(place.path("notes.db3"), "nor this\n").unwrap();
    replay("notes.db3");
    fs::create_dir(place.path("empty")).unwrap();
    replay("empty");
    fs::create_dir(place.path("half")).unwrap();
    fs::write(place.path("half/metadata.yaml"), "rosbag2_bagfile_information:\n  version: [\n").unwrap();
    assert_says(&replay("half"), &["bad metadata"]);
    assert!(!place.path("out").exists(), "a refused run leaves nothing");
}

#[test]
fn topics_that_are_not_there_are_answered_with_those_that_are() {
    let place = Place::new();
    let line = place.replay_refusal(3, &["--image-topic", "/camera/rear"]);
    assert_says(&line, &["no topic `/camera/rear`", CAMERA, TRUTH, &place.text("recording")]);
    let line = place.replay_refusal(3, &["--image-topic", CAMERA, "--label-topic", "/truth"]);
    assert_says(&line, &["no topic `/truth`", TRUTH]);
    fs::remove_dir_all(place.path("recording")).unwrap();
    write_bag(&place.path("recording"), &[(TRUTH, 0, good(0, SIZE))]);
    assert_says(&place.replay_refusal(3, &[]), &["no image topic", TRUTH]);
}

#[test]
fn bundles_that_cannot_be_used_are_named_with_the_reason() {
    let place = Place::new();
    let refused = |parts: &[&str]| {
        assert_says(&place.replay_refusal(3, &[]), parts);
        let doctor = run(&["doctor", "--model", &place.text("model")]);
        assert_eq!(doctor.status.code(), Some(3), "doctor agrees");
        assert_says(&String::from_utf8_lossy(&doctor.stderr), parts);
    };
    place.bundle().save(|text| text.replace("name = \"tiny\"", "name = \"tiny\"\ncolor = 1"));
    refused(&["the manifest is wrong", "color", "model.toml"]);
    place.bundle().save(|text| text.replace("planes = [4, 8]", "planes = [4, 9]"));
    refused(&["tensor `levels.0.down.weight`", "[9, 4, 8]", "[9, 4, 9]", "refiner.safetensors"]);
    place.bundle().save(|text| text.replace("size = [32, 24]", "size = [32, 26]"));
    refused(&["1x3x24x32", "1x3x26x32", "segmenter.onnx"]);
    place.bundle();
    fs::write(place.path("model/segmenter.onnx"), "another file").unwrap();
    refused(&["sha256", "copy the bundle again", "segmenter.onnx"]);
    fs::remove_file(place.path("model/refiner.safetensors")).unwrap();
    place.bundle();
    fs::remove_file(place.path("model/refiner.safetensors")).unwrap();
    refused(&["cannot be read", "refiner.safetensors"]);
    place.bundle().with_tensor("head.bn.bias", |_| None);
    refused(&["tensor `head.bn.bias`", "is missing", "refiner.safetensors"]);
    place.bundle().with_tensor("stem.weight", |mut values| {
        values[5] = f32::NAN;
        Some(values)
    });
    refused(&["tensor `stem.weight` holds NaN at element 5", "refiner.safetensors"]);
    place.bundle().with_truncated_onnx();
    refused(&["not an ONNX model, or a damaged one", "segmenter.onnx"]);
    fs::remove_dir_all(place.path("model")).unwrap();
    refused(&["model.toml cannot be read", &place.text("model")]);
}

#[test]
fn output_goes_into_an_empty_folder_or_is_forced() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/mine.txt"), "keep").unwrap();
    assert_says(&place.replay_refusal(2, &[]), &["not empty", "--force", &place.text("out")]);
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1);
    place.replay_output(&["--force", "--write-bag"]);
    for file in ["mine.txt", "summary.json", "frames.csv", "report.html", "bag/metadata.yaml"] {
        assert!(place.path("out").join(file).is_file(), "{file}");
    }
    place.replay_output(&["--force"]);
    assert!(!place.path("out/bag").exists(), "the bag of the run before would not belong to this summary");
}

#[test]
fn a_forced_replay_does_not_remove_its_own_recording() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    fs::rename(place.path("recording"), place.path("out/bag")).unwrap();
    let (model, out) = (place.text("model"), place.text("out"));
    for bag in ["out/bag", "out/bag/recording_0.mcap"] {
        let bag = place.text(bag);
        let line = refusal(2, &["replay", &bag, "--model", &model, "--out", &out, "--force"]);
        assert_says(&line, &["recording", "choose another", &out]);
    }
    assert!(place.path("out/bag/recording_0.mcap").is_file());
}

#[test]
fn output_that_cannot_be_written_is_named() {
    let place = Place::new();
    let file = place.path("file");
    fs::write(&file, "").unwrap();
    fs::remove_dir_all(place.path("out")).ok();
    let below = file.join("out").display().to_string();
    let (bag, model) = (place.text("recording"), place.text("model"));
    let replay = ["replay", &bag, "--model", &model, "--out"];
    assert_says(&refusal(3, &[&replay[..], &[&below]].concat()), &["cannot write", &below]);
    assert_says(&refusal(3, &["synth", &below, "--size", "64x48", "--frames", "1"]), &[&below]);
    let trace = refusal(3, &["doctor", "--trace", &below]);
    assert_says(&trace, &["cannot write the trace", &below]);
    assert_says(
        &refusal(2, &["synth", &bag, "--size", "64x48", "--frames", "1"]),
        &["not empty", "--force", &bag],
    );
}

#[test]
fn doctor_answers_in_text_and_json() {
    let place = Place::new();
    let text = run(&["doctor"]);
    assert_eq!(text.status.code(), Some(0));
    assert_says(&stdout(&text), &["cpu", "onnx rten", "cuda", "tensorrt"]);
    let json = run(&["doctor", "--json", "--model", &place.text("model")]);
    assert_eq!(json.status.code(), Some(0));
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    let works = |what: &str| {
        let findings = value["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == what).unwrap()["works"].clone()
    };
    assert_eq!((works("cpu"), works("model")), (true.into(), true.into()));
    assert!(works("cuda").is_boolean() && works("tensorrt").is_boolean());
    place.bundle().with_truncated_onnx();
    let broken = run(&["doctor", "--json", "--model", &place.text("model")]);
    assert_eq!(broken.status.code(), Some(3));
    let value: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert_eq!(value["findings"].as_array().unwrap().last().unwrap()["works"], false);
}

/// Every member that the schema requires is there, and no other.
fn assert_members(value: &Value, schema: &Value, name: &str) {
    let members = value.as_object().unwrap_or_else(|| panic!("{name} is no object"));
    let known = schema["properties"].as_object().unwrap();
    for member in members.keys() {
        assert!(known.contains_key(member), "{name}.{member} is not in the schema");
    }
    for required in schema["required"].as_array().unwrap() {
        assert!(members.contains_key(required.as_str().unwrap()), "{name} has no {required}");
    }
}

#[test]
fn a_recording_shows_its_scenes_one_after_the_other() {
    let place = Place::new();
    let bag = place.text("scenes");
    let made = run(&["synth", &bag, "--size", "64x48", "--frames", "2", "--scenes", "2", "--seed", "4"]);
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    let mut files = fs::read_dir(&bag).unwrap().map(|entry| entry.unwrap().path());
    let data = fs::read(files.find(|path| path.extension() == Some("mcap".as_ref())).unwrap()).unwrap();
    let places: Vec<usize> = [(4, 0), (4, 1), (5, 0), (5, 1)]
        .into_iter()
        .map(|(seed, frame)| {
            let spec = SceneSpec { size: Size::new(64, 48), seed, camera: 0, frame };
            let rgb = render(&spec).rgb;
            data.windows(rgb.len()).position(|bytes| bytes == rgb).expect("the picture is in the recording")
        })
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_synthetic_recording_is_replayed_into_the_documented_summary() {
    let place = Place::new();
    let bag = place.text("street");
    let synth =
        run(&["synth", &bag, "--size", "64x48", "--frames", "3", "--cameras", "2", "--seed", "4", "--json"]);
    assert!(synth.status.success(), "{}", String::from_utf8_lossy(&synth.stderr));
    let made: Value = serde_json::from_slice(&synth.stdout).unwrap();
    assert_eq!((&made["images"], &made["size"]), (&6.into(), &"64x48".into()));

    let (model, out) = (place.text("model"), place.text("out"));
    let replay = run(&["replay", &bag, "--model", &model, "--out", &out, "--json", "--threads", "1"]);
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let summary: Value = serde_json::from_slice(&replay.stdout).unwrap();
    let schema: Value = serde_json::from_str(include_str!("../docs/summary.schema.json")).unwrap();
    assert_members(&summary, &schema, "summary");
    for member in ["model", "backend"] {
        assert_members(&summary[member], &schema["properties"][member], member);
    }
    assert_eq!((&summary["frames_in"], &summary["frames_out"]), (&6.into(), &6.into()));
    assert_eq!((&summary["scored_frames"], &summary["threads"]), (&6.into(), &1.into()));
    assert_eq!(summary["per_camera"]["/camera/left/image_raw"]["frames_out"], 3);
    // The bundle has fewer classes than the scenes: the only thing to mention, and no bar without a terminal.
    let mentioned = summary["damage"].as_array().unwrap();
    let warnings = String::from_utf8(replay.stderr).unwrap();
    assert_eq!(warnings.lines().count(), mentioned.len(), "{warnings}");
    for (line, what) in warnings.lines().zip(mentioned) {
        assert_eq!(line, format!("sparse_refine: warning: {}", what.as_str().unwrap()));
    }
    assert!(summary["miou"]["coarse"].is_number() && summary["miou"]["refined"].is_number());
    for stage in Stage::ALL {
        assert!(summary["stage_ms"][stage.name()]["p50"].is_number(), "{}", stage.name());
    }
    let written: Value =
        serde_json::from_str(&fs::read_to_string(place.path("out/summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "it needs no network");
}

#[test]
fn text_output_names_the_report() {
    let place = Place::new();
    let text = stdout(&place.replay_output(&[]));
    assert_says(&text, &["mIoU", &place.text("out/report.html")]);
}

#[test]
fn the_trace_has_every_stage_of_every_frame() {
    let place = Place::new();
    let trace = place.text("trace.json");
    place.replay_output(&["--trace", &trace]);
    let events: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let begun = |name: &str| {
        let events = events.as_array().unwrap().iter();
        events.filter(|event| event["name"] == name && event["ph"] == "B").count()
    };
    for name in Stage::ALL.map(Stage::name).iter().chain(&["frame", "decode"]) {
        // Decoding for the report's pictures is decoding too.
        assert!(begun(name) >= 4, "{name}: {}", begun(name));
    }
}

#[test]
fn bench_times_the_modes_that_the_bundle_has() {
    let place = Place::new();
    let model = place.text("model");
    let bench = run(&["bench", "--model", &model, "--size", "64x48", "--frames", "2", "--json"]);
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let value: Value = serde_json::from_slice(&bench.stdout).unwrap();
    let modes: Vec<&str> =
        value["modes"].as_array().unwrap().iter().map(|mode| mode["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["coarse", "refined"]);
    for mode in value["modes"].as_array().unwrap() {
        assert!(mode["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
        assert!(mode["stage_p50_ms"]["segment"].is_number());
    }
    let text = run(&["bench", "--model", &model, "--size", "64x48", "--frames", "1", "--compare", "coarse"]);
    assert_says(&stdout(&text), &["coarse", "segment", "frame p50"]);
    let line = refusal(2, &["bench", "--model", &model, "--compare", "dense"]);
    assert_says(&line, &["dense"]);
}

#[test]
fn the_smallest_images_do_no_harm() {
    let place = Place::new();
    for size in ["1x1", "2x3", "17x1"] {
        let bag = place.text(&format!("bag_{size}"));
        let synth = run(&["synth", &bag, "--size", size, "--frames", "1"]);
        assert!(synth.status.success(), "{size}: {}", String::from_utf8_lossy(&synth.stderr));
        let (model, out) = (place.text("model"), place.text(&format!("out_{size}")));
        let replay = run(&["replay", &bag, "--model", &model, "--out", &out]);
        assert!(replay.status.success(), "{size}: {}", String::from_utf8_lossy(&replay.stderr));
    }
}

#[test]
fn damage_is_warned_of_and_the_run_succeeds() {
    let place = Place::new();
    let file = place.path("recording/recording_0.mcap");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let output = place.replay_output(&[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_says(&text, &["sparse_refine: warning: ", "damaged", "recording_0.mcap"]);
    fs::remove_dir_all(place.path("recording")).unwrap();
    let rejected = image(1, SIZE, "rgb16", SIZE.width * 6, &[0; 12]);
    write_bag(&place.path("recording"), &[(CAMERA, 0, good(0, SIZE)), (CAMERA, 1, rejected)]);
    let output = place.replay_output(&["--force", "--json"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["frames_rejected"]["unknown_encoding"], 1);
    assert_eq!(summary["frames_out"], 1);
}

#[test]
fn a_reader_that_stops_listening_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sparse_refine"))
        .arg("doctor")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Path::new(env!("CARGO_BIN_EXE_sparse_refine")).is_file());
}

#[test]
fn a_recording_never_replaces_another() {
    let place = Place::new();
    let file = place.path("recording/recording_0.mcap");
    let before = fs::read(&file).unwrap();
    let bag = place.text("recording");
    assert_says(&refusal(2, &["synth", &bag, "--size", "64x48", "--frames", "1"]), &["not empty", &bag]);
    let forced = refusal(3, &["synth", &bag, "--size", "64x48", "--frames", "1", "--force"]);
    assert_says(&forced, &["exists already", "remove it", &bag]);
    assert_eq!(fs::read(&file).unwrap(), before);
}
