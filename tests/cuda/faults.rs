//! What an injected failure of the driver ends in. Each case is a process of its own: the driver reads its settings once.

use std::process::{Command, Output};

use crate::support::TinyBundle;
use crate::support::recording::write_good_bag;
use crate::{repository, wanted};

/// Whether the driver is the emulated one, which fails on demand.
fn emulated() -> bool {
    wanted() && std::env::var_os("CUEMU_KERNELS").is_some()
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
        command.args(["--backend", backend, "--force"]);
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
