//! The method `spatial_sparsity` and `replay --compare` as a user meets them: everything from the bundle alone.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use support::TinyBundle;
use support::columns::write_columns;
use support::recording::write_good_bag;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_columns(&dir.path().join("sctf"), "sctf");
        write_columns(&dir.path().join("ctf"), "ctf");
        TinyBundle::write(&dir.path().join("sparse_refine"));
        write_good_bag(&dir.path().join("recording"), 4, true);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program; words that begin with `@` are paths in this place.
    fn run(&self, arguments: &str) -> Output {
        let words = arguments.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        });
        Command::new(env!("CARGO_BIN_EXE_sparse_refine")).args(words).env_remove("RUST_LOG").output().unwrap()
    }

    fn json(&self, arguments: &str) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refusal(&self, code: i32, arguments: &str) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }
}

#[test]
fn replay_bench_and_doctor_take_the_method_from_the_bundle() {
    let place = Place::new();
    let replayed = place.json("replay @recording --model @sctf --out @out --json --threads 2");
    assert_eq!((replayed["frames_out"].as_u64(), replayed["mode"].as_str()), (Some(4), Some("refined")));
    let share = replayed["refined_fraction"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
    assert!(replayed["miou"]["coarse"].is_number() && replayed["miou"]["refined"].is_number());
    assert!(replayed["backend"]["refiner"].as_str().unwrap().contains("sctf on tiles"));
    let report = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(report.contains("weight map"), "the panel says what selected");
    let capped = place.json("replay @recording --model @sctf --out @capped --json --max-fraction 0.1");
    assert!(capped["refined_fraction"].as_f64().unwrap() <= 0.1);
    assert!(capped["dropped_fraction"].as_f64().unwrap() > 0.0);
    let none = place.json("replay @recording --model @sctf --out @none --json --alpha 1");
    assert_eq!(
        (none["refined_fraction"].as_f64(), none["selected_fraction"].as_f64()),
        (Some(0.0), Some(0.0))
    );
    assert_eq!(none["miou"]["coarse"], none["miou"]["refined"]);
    let all = place.json("replay @recording --model @ctf --out @all --json");
    assert_eq!(all["refined_fraction"].as_f64(), Some(1.0));
    let bench = place.json("bench --model @sctf --size 64x48 --frames 2 --json");
    let modes: Vec<_> =
        bench["modes"].as_array().unwrap().iter().map(|m| m["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["coarse", "refined"]);
    let doctor = place.run("doctor --model @sctf");
    assert!(doctor.status.success() && String::from_utf8_lossy(&doctor.stdout).contains("coarse, refined"));
}

#[test]
fn what_the_method_cannot_do_is_refused_in_one_line() {
    let place = Place::new();
    let text = place.refusal(4, "replay @recording --model @sctf --out @out --backend tensorrt");
    assert!(text.contains("TensorRT") || text.contains("NVIDIA driver"), "{text}");
    assert!(text.contains("--backend cpu, cuda or auto"), "{text}");
    let text = place.refusal(2, "replay @recording --model @ctf --out @out --alpha 0.5");
    assert!(text.contains("ctf") && text.contains("leave it out"), "{text}");
    let text = place.refusal(2, "replay @recording --model @sctf --out @out --alpha 1.5");
    assert!(text.contains("0 to 1"), "{text}");
    fs::write(place.path("sctf/fine.onnx"), "not a network").unwrap();
    let text = place.refusal(3, "doctor --model @sctf");
    assert!(text.contains("sha256") && text.contains("fine.onnx"), "{text}");
}

#[test]
fn compare_puts_two_bundles_side_by_side() {
    let place = Place::new();
    let value = place.json("replay @recording --compare @sparse_refine @sctf --out @out --json --panels 2");
    assert_eq!((value["frames_compared"].as_u64(), value["frames_unmatched"].as_u64()), (Some(4), Some(0)));
    let share = value["differing_fraction"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
    assert_eq!(
        (value["a"]["model"]["name"].as_str(), value["b"]["model"]["name"].as_str()),
        (Some("tiny"), Some("columns"))
    );
    let (a, b) =
        (value["a"]["miou"]["refined"].as_f64().unwrap(), value["b"]["miou"]["refined"].as_f64().unwrap());
    let difference = value["numbers"]["mIoU"]["b_minus_a"].as_f64().unwrap();
    assert!((difference - (b - a)).abs() < 1e-9);
    let page = fs::read_to_string(place.path("out/compare.html")).unwrap();
    for shown in ["A: tiny (refined) labels", "B: columns (refined) labels", "Frames that differ most"] {
        assert!(page.contains(shown), "{shown}");
    }
    assert_eq!(page.matches("of the pixels differ").count(), 2);
    let written: Value = serde_json::from_slice(&fs::read(place.path("out/compare.json")).unwrap()).unwrap();
    assert_eq!(written, value);
    for run in ["a", "b"] {
        assert!(place.path("out").join(run).join("summary.json").is_file(), "{run}");
    }
    // A bundle agrees with itself.
    let same = place.json("replay @recording --compare @sctf @sctf --out @same --json");
    assert_eq!(same["differing_fraction"].as_f64(), Some(0.0));
    let text = place.refusal(2, "replay @recording --compare @sctf @ctf --out @out");
    assert!(text.contains("--force"), "{text}");
    let text = place.refusal(2, "replay @recording --compare @sctf @ctf --model @sctf --out @out2");
    assert!(text.contains("--compare"), "{text}");
    assert!(place.run("replay @recording --compare @sctf @ctf --out @out --force").status.success());
}
