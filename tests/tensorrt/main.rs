//! TensorRT without a GPU: engines are built by the TensorRT-RTX of PyPI, and everything that can be missing is missing
//! in turn. `scripts/test_tensorrt.sh` prepares what these tests need and says what it could not get.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

#[path = "../support/mod.rs"]
mod support;

mod builds;
mod gpu;
mod probes;
mod stored;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::TinyBundle;

/// What the script prepared.
struct Rig {
    folder: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let folder = std::env::var_os("SPARSE_REFINE_TENSORRT_RIG");
        let folder = folder
            .expect("run these tests with `make test-tensorrt`, which prepares SPARSE_REFINE_TENSORRT_RIG");
        Self { folder: folder.into() }
    }

    fn rtx(&self) -> PathBuf {
        self.folder.join("rtx/tensorrt_rtx_libs")
    }

    /// The lean runtime of a major version of TensorRT.
    fn lean(&self, major: u32) -> PathBuf {
        self.folder.join(format!("lean{major}/tensorrt_lean_libs/libnvinfer_lean.so.{major}"))
    }

    /// The program, compiled against the headers of a major version of TensorRT.
    fn program(&self, major: u32) -> PathBuf {
        self.folder.join(format!("bin/sparse_refine_{major}"))
    }

    /// A folder that holds a `libcuda.so.1` which answers as the environment says.
    fn driver(&self) -> PathBuf {
        self.folder.join("driver")
    }
}

/// Whether this machine has the driver whose absence some tests are about.
fn has_driver() -> bool {
    Path::new("/dev/nvidiactl").exists() || Path::new("/dev/nvhost-gpu").exists()
}

/// A tiny bundle and an empty store.
struct Place {
    rig: Rig,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        TinyBundle::write(&dir.path().join("model"));
        Self { rig: Rig::new(), dir }
    }

    fn with_onnx(onnx: Vec<u8>) -> Self {
        let place = Self::new();
        TinyBundle::write(&place.model()).with_onnx(onnx);
        place
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn engines(&self) -> PathBuf {
        self.dir.path().join("engines")
    }

    /// This program with TensorRT-RTX and this store.
    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_sparse_refine")), &self.rig.rtx(), arguments)
    }

    /// A program with a library and this store.
    fn command_of(&self, program: &Path, library: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_remove("RUST_LOG")
            .env("SPARSE_REFINE_TENSORRT", library)
            .env("SPARSE_REFINE_ENGINES", self.engines());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `engine COMMAND --model MODEL` and more.
    fn engine(&self, command: &str, more: &[&str]) -> Command {
        let model = self.model().display().to_string();
        let mut arguments = vec!["engine", command, "--model", &model];
        arguments.extend(more);
        self.command(&arguments)
    }

    /// Builds the tiny engine and returns its file.
    fn build(&self, more: &[&str]) -> PathBuf {
        let mut arguments = vec!["--json"];
        arguments.extend(more);
        let value = json(&self.engine("build", &arguments).output().unwrap());
        PathBuf::from(value["path"].as_str().unwrap())
    }
}

/// What a program that ended well printed.
fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The last line on standard error; the status is 4: no crash, no panic.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(4), "{}: {text}", output.status);
    assert!(!text.contains("panicked"), "{text}");
    let line = text.lines().last().unwrap();
    line.strip_prefix("sparse_refine: ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}
