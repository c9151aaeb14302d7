//! Holds the code to ARCHITECTURE.md: which module may use which, and where outside libraries may appear.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use of this crate. A module may always use itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("config", &["types"]),
    ("bundle", &["types"]),
    ("plan", &["types", "config", "bundle"]),
    ("pipeline", &["types"]),
    ("onnx", &["types", "config", "bundle", "plan"]),
    ("tiles", &["types", "config", "bundle", "plan", "pipeline", "onnx"]),
    ("cpu", &["types", "config", "bundle", "plan", "pipeline", "onnx", "tiles"]),
    ("cuda", &["types", "config", "bundle", "plan", "pipeline", "onnx", "tiles"]),
    ("tensorrt", &["types", "plan", "pipeline", "onnx", "tiles", "cuda"]),
    ("start", &["types", "config", "bundle", "plan", "pipeline", "onnx", "cpu", "cuda", "tensorrt"]),
    ("bag", &["types", "pipeline"]),
    ("eval", &["types", "config", "bundle", "plan"]),
    ("synth", &["types"]),
    ("ros", &["types", "config", "bundle", "plan", "pipeline", "cpu", "start", "bag"]),
    ("replay", &["types", "config", "bundle", "plan", "pipeline", "cpu", "start", "bag", "eval"]),
];

/// Crates that belong to one place.
const ONLY_UNDER: &[(&str, &[&str])] = &[
    ("rten::", &["src/onnx"]),
    ("ort::", &["src/onnx"]),
    ("rusqlite::", &["src/bag"]),
    ("mcap::", &["src/bag"]),
    ("clap::", &["src/bin"]),
    ("r2r::", &["src/ros"]),
    ("cudarc::", &["src/cuda"]),
    ("libloading::", &["src/tensorrt/native"]),
];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The code of a file: no comments, and nothing from its unit tests on.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    code.match_indices(prefix)
        .map(|(at, _)| {
            let rest = &code[at + prefix.len()..];
            &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let src = root().join("src");
    let mut wrong = Vec::new();
    for path in rust_files(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "bin" || module == "lib" {
            continue;
        }
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("add `{module}` to MAY_USE and ARCHITECTURE.md"));
        let code = code(&path);
        assert!(!code.contains("use crate::{"), "one `use crate::module` a line: {}", relative.display());
        for used in names_after(&code, "crate::") {
            if used != module && !allowed.contains(&used) {
                wrong.push(format!("{} uses {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn outside_libraries_stay_in_their_rooms() {
    let root = root();
    let mut wrong = Vec::new();
    for path in rust_files(&root.join("src")) {
        let relative = path.strip_prefix(&root).unwrap();
        let code = code(&path);
        for (library, places) in ONLY_UNDER {
            let used = code.match_indices(library).any(|(at, _)| {
                // Not the end of a longer name, such as `import::`.
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if used && !places.iter().any(|place| relative.starts_with(place)) {
                wrong.push(format!("{} uses {library}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
