//! What an injected failure of the driver ends in. Each case is a process of its own: the driver reads its settings once.

use std::process::{Command, Output};

use crate::repository;
use crate::support::TinyBundle;
use crate::support::recording::{LABELS_OUT, read_labels, write_good_bag};

/// Whether the driver is the emulated one, which fails on demand.
pub(crate) fn emulated() -> bool {
    std::env::var_os("CUEMU_KERNELS").is_some()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        TinyBundle::write(&place.0.path().join("model"));
        write_good_bag(&place.0.path().join("bag"), 3, true);
        place
    }

    fn replay(&self, backend: &str, settings: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparse_refine"));
        command.current_dir(repository()).arg("replay").arg(self.0.path().join("bag"));
        command.arg("--model").arg(self.0.path().join("model")).arg("--out").arg(self.0.path().join("out"));
        command.args(["--backend", backend, "--force", "--write-bag"]);
        command.envs(settings.iter().copied()).output().unwrap()
    }
}

/// The exit status and the one line on standard error that is ours.
fn end(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = text.lines().filter(|line| !line.starts_with("cuemu: ")).collect();
    (output.status.code(), ours.join("\n"))
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn every_failure_ends_in_its_status_and_says_where() {
    if !emulated() {
        return;
    }
    let place = Place::new();
    let (status, text) = end(&place.replay("cuda", &[]));
    assert_eq!(status, Some(0), "{text}");
    // What fails, the status it must end in, and words the error must have.
    for (fail, wanted_status, words) in [
        ("cuInit:1:100", 4, "finds no device"),
        ("cuDeviceGetCount:1:3", 4, "finds no device"),
        ("cuDevicePrimaryCtxRetain:1:2", 4, "finds no device"),
        ("cuModuleLoadData:0:209", 4, "loading the compiled kernels"),
        ("cuModuleGetFunction:3:500", 4, "looking up a kernel"),
        ("cuMemAlloc_v2:2:2", 4, "device memory"),
        ("cuStreamCreate:2:2", 5, "stage plan"),
        ("cuMemHostAlloc:1:2", 5, "page-locked"),
        ("cuMemcpyHtoDAsync_v2:9:719", 4, "copying to the device"),
        ("cuMemcpyHtoDAsync_v2:67:719", 5, "lost in stage"),
        ("cuLaunchKernel:1:719", 5, "stage upload"),
        ("cuLaunchKernel:30:719", 5, "lost in stage"),
        ("area_resize:1:700", 5, "lost in stage"),
        ("conv_f16:3:719", 5, "lost in stage"),
        ("gate_fuse:2:716", 5, "lost in stage"),
        ("cuEventQuery:3:700", 5, "stage download"),
        ("cuMemcpyDtoHAsync_v2:2:719", 5, "lost in stage"),
    ] {
        let (status, text) = end(&place.replay("cuda", &[("CUEMU_FAIL", fail)]));
        assert_eq!(status, Some(wanted_status), "{fail}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains(words), "{fail} should say `{words}`: {text}");
    }
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn a_graph_that_cannot_be_recorded_is_done_without_and_one_that_fails_ends_the_run() {
    if !emulated() {
        return;
    }
    let place = Place::new();
    let labels = || read_labels(&place.0.path().join("out/bag"), LABELS_OUT);
    let (status, text) = end(&place.replay("cuda", &[]));
    assert_eq!(status, Some(0), "{text}");
    let one_by_one = labels();
    for (fail, wanted_status, words) in [
        ("none:1:1", 0, ""),
        ("cuStreamBeginCapture_v2:1:801", 0, "no CUDA graph"),
        // Here the injected failure also leaves the recording open, which nothing survives.
        ("cuStreamEndCapture:1:901", 5, "stage select"),
        ("cuGraphInstantiateWithFlags:1:2", 0, "no CUDA graph"),
        ("cuGraphLaunch:2:719", 5, "stage select"),
    ] {
        let settings = [("CUEMU_FAIL", fail), ("SPARSE_REFINE_CUDA_GRAPHS", "1")];
        let (status, text) = end(&place.replay("cuda", &settings));
        assert_eq!(status, Some(wanted_status), "{fail}: {text}");
        assert!(text.contains(words), "{fail} should say `{words}`: {text}");
        if status == Some(0) {
            assert!(labels() == one_by_one, "{fail}: labels");
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn too_little_memory_says_how_much_is_needed_and_for_what() {
    if !emulated() {
        return;
    }
    let place = Place::new();
    let (status, text) = end(&place.replay("cuda", &[("CUEMU_MEMORY", "700000")]));
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("one slot of 64x48 needs") && text.contains("max_fraction"), "{text}");
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn auto_takes_cuda_where_it_works_and_the_cpu_with_a_reason_where_not() {
    if !emulated() {
        return;
    }
    let place = Place::new();
    let summary = |output: &Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = std::fs::read_to_string(place.0.path().join("out/summary.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["backend"].clone()
    };
    let works = summary(&place.replay("auto", &[]));
    assert!(works["device"].as_str().unwrap().contains("cuemu"), "{works}");
    let fails = summary(&place.replay("auto", &[("CUEMU_FAIL", "cuInit:1:100")]));
    assert!(fails["device"].as_str().unwrap().starts_with("cpu"), "{fails}");
    assert!(fails["reason"].as_str().unwrap().contains("finds no device"), "{fails}");
}
