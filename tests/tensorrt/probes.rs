//! What is missing, in the order in which it is found out: each has its own words, and nothing crashes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::columns::write_columns;
use super::support::recording::write_good_bag;
use super::{Place, assert_says, has_driver, json, refusal};

/// Steps of a probe whose driver answers as the environment says.
fn with_driver<'a>(place: &Place, command: &'a mut Command, answers: &[(&str, &str)]) -> &'a mut Command {
    command.env("LD_LIBRARY_PATH", place.rig.driver()).envs(answers.iter().copied())
}

fn replay(place: &Place, backend: &str, more: &[&str]) -> Command {
    let recording = place.dir.path().join("recording");
    if !recording.exists() {
        write_good_bag(&recording, 2, true);
    }
    let text = |path: PathBuf| path.display().to_string();
    let (recording, model, out) = (text(recording), text(place.model()), text(place.dir.path().join("out")));
    let mut arguments = vec!["replay", &recording, "--model", &model, "--out", &out, "--backend", backend];
    arguments.extend(more);
    place.command(&arguments)
}

#[test]
fn without_a_driver_tensorrt_is_refused_and_auto_says_why_it_runs_on_the_cpu() {
    if has_driver() {
        println!("skipped: this machine has an NVIDIA driver");
        return;
    }
    let place = Place::new();
    place.build(&[]);
    let line = refusal(&replay(&place, "tensorrt", &[]).output().unwrap());
    assert_says(&line, &["backend tensorrt is not available", "no NVIDIA driver", "libcuda.so.1"]);
    assert!(!place.dir.path().join("out").exists(), "nothing fell back");

    let output = replay(&place, "auto", &["--json"]).output().unwrap();
    assert_says(&String::from_utf8_lossy(&output.stderr), &["WARN", "runs on the CPU", "no NVIDIA driver"]);
    let summary = json(&output);
    assert_eq!(summary["frames_out"], 2);
    assert_says(summary["backend"]["reason"].as_str().unwrap(), &["auto", "no NVIDIA driver"]);

    let doctor = json(&place.run(&["doctor", "--json"]));
    let findings = doctor["findings"].as_array().unwrap();
    let tensorrt = findings.iter().find(|finding| finding["what"] == "tensorrt").unwrap();
    assert_eq!(tensorrt["works"], false);
    assert_says(tensorrt["says"].as_str().unwrap(), &["FAILED at driver"]);
}

/// The same for the method `spatial_sparsity`, where each column needs its engine.
#[test]
fn columns_are_refused_and_auto_falls_back_like_every_network() {
    if has_driver() {
        println!("skipped: this machine has an NVIDIA driver");
        return;
    }
    let place = Place::new();
    write_columns(&place.model(), "sctf");
    let line = refusal(&replay(&place, "tensorrt", &[]).output().unwrap());
    assert_says(&line, &["backend tensorrt is not available", "no NVIDIA driver", "or use --backend cpu"]);
    let summary = json(&replay(&place, "auto", &["--json"]).output().unwrap());
    assert_eq!(summary["frames_out"], 2);
    assert_says(summary["backend"]["refiner"].as_str().unwrap(), &["onnx", "sctf on tiles"]);
    let line = refusal(&place.engine("verify", &[]).output().unwrap());
    assert_says(&line, &["no NVIDIA driver"]);
}

#[test]
fn a_driver_without_a_device_is_another_error() {
    let place = Place::new();
    for (answers, parts) in [
        ([("FAKE_CUDA_INIT", "100")], ["no CUDA device", "cuInit gives status 100"]),
        ([("FAKE_CUDA_DEVICES", "0")], ["no CUDA device", "device 0 of 0"]),
    ] {
        let mut command = replay(&place, "tensorrt", &[]);
        assert_says(&refusal(&with_driver(&place, &mut command, &answers).output().unwrap()), &parts);
    }
}

#[test]
fn a_library_that_is_not_there_or_something_else_is_named() {
    let place = Place::new();
    let empty = place.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let model = place.model().display().to_string();
    let build = ["engine", "build", "--model", &model];
    let program = Path::new(env!("CARGO_BIN_EXE_sparse_refine"));
    let line = refusal(&place.command_of(program, &empty, &build).output().unwrap());
    assert_says(&line, &["no TensorRT library", "SPARSE_REFINE_TENSORRT", "libtensorrt_rtx.so.1"]);
    let fake = place.rig.driver().join("libcuda.so.1");
    let line = refusal(&place.command_of(program, &fake, &build).output().unwrap());
    assert_says(&line, &["not a TensorRT library", "libcuda.so.1"]);
}

#[test]
fn a_library_of_another_version_is_refused_before_any_call() {
    let place = Place::new();
    let this = PathBuf::from(env!("CARGO_BIN_EXE_sparse_refine"));
    let (full10, full11) = (place.rig.program(10), place.rig.program(11));
    let (lean10, lean11, rtx) =
        (place.rig.lean(10), place.rig.lean(11), place.rig.rtx().join("libtensorrt_rtx.so.1"));
    let cases = [
        (&this, &lean10, "this build is for TensorRT-RTX 1.7", "TensorRT 10.16"),
        (&this, &lean11, "this build is for TensorRT-RTX 1.7", "TensorRT 11.4"),
        (&full10, &lean11, "this build is for TensorRT 10.16", "TensorRT 11.4"),
        (&full10, &rtx, "this build is for TensorRT 10.16", "TensorRT-RTX 1.7"),
        (&full11, &lean10, "this build is for TensorRT 11.4", "TensorRT 10.16"),
        (&full11, &rtx, "this build is for TensorRT 11.4", "TensorRT-RTX 1.7"),
    ];
    for (program, library, built_for, found) in cases {
        let model = place.model().display().to_string();
        let mut command = place.command_of(program, library, &["engine", "build", "--model", &model]);
        let line = refusal(&with_driver(&place, &mut command, &[]).output().unwrap());
        assert_says(&line, &[built_for, found, "rebuild against its headers"]);
    }
}

/// Without CUDA, TensorRT 10 and 11 return an address in page zero that is not null; a call through it would crash.
#[test]
fn a_runtime_that_does_not_start_is_an_error_and_no_crash() {
    if has_driver() {
        println!("skipped: this machine has an NVIDIA driver, TensorRT would start");
        return;
    }
    let place = Place::new();
    for major in [10, 11] {
        let (program, library) = (place.rig.program(major), place.rig.lean(major));
        let model = place.model().display().to_string();
        let verify = ["engine", "verify", "--json", "--model", &model];
        let mut command = place.command_of(&program, &library, &verify);
        let output = with_driver(&place, &mut command, &[]).output().unwrap();
        let line = refusal(&output);
        assert_says(&line, &["TensorRT does not start"]);
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps: Vec<_> = checks["checks"].as_array().unwrap().iter().collect();
        let passed: Vec<_> = steps.iter().map(|step| (&step["what"], step["passed"] == true)).collect();
        let names = ["driver", "device", "library", "version", "runtime"].map(serde_json::Value::from);
        let wanted: Vec<_> = names.iter().map(|name| (name, name != "runtime")).collect();
        assert_eq!(passed, wanted, "{checks}");
        println!("{major}: {line}");
    }
}

#[test]
fn an_engine_for_another_device_or_network_is_never_taken() {
    let place = Place::new();
    let verify = |answers: &[(&str, &str)]| {
        let mut command = place.engine("verify", &[]);
        with_driver(&place, &mut command, answers).output().unwrap()
    };
    let line = refusal(&verify(&[]));
    assert_says(&line, &["no engine for this network", "sparse_refine engine build --model"]);
    place.build(&["--compute-capabilities", "86"]);
    let line = refusal(&verify(&[("FAKE_CUDA_SM", "89")]));
    assert_says(&line, &["there is one, but compute capability: the engine has 86, here it is 89"]);
    if !has_driver() {
        // It fits this device; that the device is not real only TensorRT finds out.
        let line = refusal(&verify(&[("FAKE_CUDA_SM", "86")]));
        assert_says(&line, &["TensorRT refuses the engine"]);
    }
    let mut list = place.engine("list", &["--json"]);
    let list = json(&with_driver(&place, &mut list, &[("FAKE_CUDA_SM", "120")]).output().unwrap());
    assert_eq!((&list["engines"][0]["sound"], &list["engines"][0]["fits"]), (&true.into(), &false.into()));
}
