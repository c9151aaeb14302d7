//! What needs a GPU and TensorRT. Ignored by default; `make gpu-test` runs it.

use std::path::Path;

use super::support::recording::read_labels;

fn program(arguments: &[&str]) -> serde_json::Value {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_sparse_refine")).args(arguments).output().unwrap();
    super::json(&output)
}

#[test]
#[ignore = "needs a GPU and TensorRT"]
fn labels_on_tensorrt_are_those_of_the_cpu_whatever_the_slots() {
    labels_are_those_of_the_cpu("engines/streets", "1920x1080");
}

#[test]
#[ignore = "needs a GPU and TensorRT"]
fn labels_of_both_columns_on_tensorrt_are_those_of_the_cpu() {
    labels_are_those_of_the_cpu("engines/camvid_sparsity", "480x360");
}

/// Labels of one recording by TensorRT with one and two frames in flight, and by the CPU.
fn labels_are_those_of_the_cpu(bundle: &str, size: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(bundle).display().to_string();
    program(&["engine", "build", "--json", "--model", &model]);
    let checks = program(&["engine", "verify", "--json", "--model", &model]);
    assert!(checks["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{checks}");
    program(&["synth", &path("bag"), "--size", size, "--frames", "4", "--json"]);
    let replay = |out: &str, more: &[&str]| {
        let (bag, out) = (path("bag"), path(out));
        let mut arguments = vec!["replay", &bag, "--model", &model, "--out", &out, "--write-bag", "--json"];
        arguments.extend(more);
        program(&arguments)
    };
    replay("cpu", &["--backend", "cpu"]);
    let one = replay("one", &["--backend", "tensorrt"]);
    assert!(one["backend"]["segmenter"].as_str().unwrap().contains("tensorrt"), "{one}");
    replay("two", &["--backend", "tensorrt", "--slots", "2"]);
    let topic = "/camera/front/label";
    let labels = |out: &str| {
        let bag = dir.path().join(out).join("bag");
        let mut labels = read_labels(&bag, topic);
        labels.sort_by_key(|(stamp, ..)| *stamp);
        labels
    };
    let (cpu, one, two) = (labels("cpu"), labels("one"), labels("two"));
    assert_eq!(cpu.len(), 4);
    for ((cpu, one), two) in cpu.iter().zip(&one).zip(&two) {
        assert_eq!(one.2.data, two.2.data, "two frames in flight disturb each other");
        let same = cpu.2.data.iter().zip(&one.2.data).filter(|(a, b)| a == b).count();
        let share = same as f64 / cpu.2.data.len() as f64;
        // TensorRT may use 10-bit mantissas (TF32) for 32-bit floats.
        assert!(share > 0.995, "only {share} of the labels are the CPU's");
    }
}
