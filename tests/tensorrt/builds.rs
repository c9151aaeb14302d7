//! From ONNX to engines, and what is wrong with models.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rten_onnx::onnx::{DataType, GraphProto, ModelProto};
use serde_json::Value;
use sparse_refine::bundle::sparsity::Configuration;
use sparse_refine::tensorrt::build_options::{BuildOptions, Precision, Progress};
use sparse_refine::tensorrt::sidecar::sha256;
use sparse_refine::tensorrt::tensors::TensorEntry;
use sparse_refine::tensorrt::{Library, Request, Settings, build, networks, raw};
use sparse_refine::types::Mode;

use super::support::columns::write_columns;
use super::support::fixtures::columns::{Columns, Kernels};
use super::support::fixtures::{model, node, segmenter, value};
use super::{Place, Rig, assert_says, json, refusal};

fn bytes(model: &ModelProto) -> Vec<u8> {
    model.write_buf().unwrap()
}

/// The tiny bundle's network, an input of 32x24 and a logit for 2x2 pixels of each of four classes.
fn good() -> ModelProto {
    segmenter([32, 24], 4, 2, Some(&[1, 4, 12, 16]))
}

/// Every bundle of the repository, and those the script made of them.
fn bundles(rig: &Rig) -> Vec<PathBuf> {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("engines");
    let mut found = Vec::new();
    for folder in [repository, rig.folder.join("models")] {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let bundle = entry.unwrap().path();
            if bundle.join("model.toml").is_file() {
                found.push(bundle);
            }
        }
    }
    found.sort();
    found
}

/// File, bytes and number of profiles of each engine that was built just now.
fn engines(built: &Value) -> Vec<(PathBuf, Vec<u8>, usize)> {
    let all = built["engines"].as_array().map_or(std::slice::from_ref(built), Vec::as_slice);
    let engine = |one: &Value| {
        assert_eq!(one["built"], true, "{one}");
        let path = PathBuf::from(one["path"].as_str().unwrap());
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes, one["sidecar"]["key"]["tensors"]["inputs"][0]["shapes"].as_array().unwrap().len())
    };
    all.iter().map(engine).collect()
}

/// TensorRT-RTX 1.7.1 numbers some tensors of a network with several profiles in one of two orders, whatever its options,
/// threads and addresses (13 bytes of 6.3 MB, in one build of twenty): two of three builds are equal. With one profile all are.
#[test]
fn every_bundled_network_builds_again_with_equal_bytes() {
    let place = Place::new();
    let bundles = bundles(&place.rig);
    assert!(!bundles.is_empty());
    for bundle in bundles {
        let manifest = std::fs::read_to_string(bundle.join("model.toml")).unwrap();
        let runs: &[&[&str]] = if manifest.contains("[dense]") { &[&[], &["--dense"]] } else { &[&[]] };
        for network in runs {
            let mut arguments =
                vec!["engine", "build", "--json", "--compute-capabilities", "86,89", "--model"];
            let path = bundle.display().to_string();
            arguments.push(&path);
            arguments.extend(*network);
            let first = engines(&json(&place.run(&arguments)));
            arguments.push("--force");
            let second = engines(&json(&place.run(&arguments)));
            if first != second {
                let third = engines(&json(&place.run(&arguments)));
                assert_eq!([second.len(), third.len()], [first.len(); 2]);
                for ((first, second), third) in first.iter().zip(&second).zip(&third) {
                    let equal = first == second || first.2 > 1 && (third == first || third == second);
                    assert!(equal, "{} of {path} {network:?}", first.0.display());
                }
            }
            println!(
                "{path} {network:?}: {:?} bytes",
                first.iter().map(|(_, bytes, _)| bytes.len()).collect::<Vec<_>>()
            );
        }
    }
    let list = json(&place.run(&["engine", "list", "--json"]));
    let engines = list["engines"].as_array().unwrap();
    assert!(engines.iter().all(|engine| engine["sound"] == true), "{list}");
}

#[test]
fn an_engine_is_built_once_and_said_what_it_is() {
    let place = Place::new();
    let first =
        json(&place.engine("build", &["--json", "--compute-capabilities", "89,86"]).output().unwrap());
    let again =
        json(&place.engine("build", &["--json", "--compute-capabilities", "86,89"]).output().unwrap());
    assert_eq!((&first["built"], &again["built"]), (&true.into(), &false.into()));
    assert_eq!(first["path"], again["path"]);
    let key = &first["sidecar"]["key"];
    assert_eq!(key["flavour"], "tensorrt-rtx");
    assert_eq!(key["compute_capabilities"], serde_json::json!([86, 89]));
    let tensors = &key["tensors"];
    assert_eq!(tensors["inputs"][0]["shapes"], serde_json::json!([[1, 3, 24, 32]]));
    assert_eq!(tensors["outputs"][0]["shapes"], serde_json::json!([[1, 4, 12, 16]]));
    let text = place.engine("build", &[]).output().unwrap();
    assert_says(&String::from_utf8_lossy(&text.stderr), &["Building engine"]);
    assert_says(&String::from_utf8_lossy(&text.stdout), &["`tiny` 32x24", "TensorRT-RTX 1.7.1"]);
}

/// Windows of 48x48 in the batches of a manifest that names none, and the whole image.
fn windows(channels: usize, unit: usize) -> Value {
    let windows = [1, 2, 4, 8].map(|batch| [batch, channels, 48 / unit, 48 / unit]);
    serde_json::json!([&windows[..], &[[1, channels, 48 / unit, 64 / unit]]].concat())
}

#[test]
fn both_columns_are_built_with_a_profile_for_every_run() {
    let place = Place::new();
    write_columns(&place.model(), "sctf");
    let build = |more: &[&str]| {
        let arguments = [&["--json", "--compute-capabilities", "86"], more].concat();
        json(&place.engine("build", &arguments).output().unwrap())["engines"].as_array().unwrap().clone()
    };
    let first = build(&[]);
    assert_eq!(first.len(), 2);
    let tensors = |engine: &Value| engine["sidecar"]["key"]["tensors"].clone();
    let (coarse, fine) = (tensors(&first[0]), tensors(&first[1]));
    assert_eq!(coarse["inputs"][0]["shapes"], serde_json::json!([[1, 3, 24, 32]]));
    let outputs = serde_json::json!([
        { "name": "scores", "shapes": [[1, 4, 3, 4]] },
        { "name": "weights", "shapes": [[1, 1, 3, 4]] },
    ]);
    assert_eq!(coarse["outputs"], outputs);
    assert_eq!(fine["inputs"], serde_json::json!([{ "name": "image", "shapes": windows(3, 1) }]));
    assert_eq!(fine["outputs"], serde_json::json!([{ "name": "scores", "shapes": windows(4, 8) }]));
    let bytes = |built: &[Value]| -> Vec<Vec<u8>> {
        built.iter().map(|one| std::fs::read(one["path"].as_str().unwrap()).unwrap()).collect()
    };
    let before = bytes(&first);
    assert!(build(&[]).iter().all(|one| one["built"] == false));
    assert!(bytes(&build(&["--force"])) == before, "equal bytes");

    let list = json(&place.engine("list", &["--json"]).output().unwrap());
    let sound = list["engines"].as_array().unwrap().iter().filter(|engine| engine["sound"] == true);
    assert_eq!(sound.count(), 2, "{list}");
    let text = place.engine("list", &[]).output().unwrap();
    assert_says(&String::from_utf8_lossy(&text.stdout), &["`columns` 48x48 or 2 of 48x48", "or 64x48"]);
    assert_eq!(place.run(&["engine", "verify"]).status.code(), Some(0), "both are whole");
}

#[test]
fn features_that_go_from_column_to_column_are_ends_like_the_image() {
    let (rig, folder) = (Rig::new(), tempfile::tempdir().unwrap());
    let mut state = 7_u32;
    let kernels = Kernels::new(4, |len, spread| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * spread
        };
        (0..len).map(|_| next()).collect()
    });
    let (configuration, mode) = (Configuration::Isctf, Mode::Refined);
    let (plan, _files) = Columns { configuration, tile: 32, halo: 16, mode }.plan(&kernels);
    let settings =
        Settings { library: Some(rig.rtx()), engines: Some(folder.path().join("engines")), device: 0 };
    let networks = networks(&plan).unwrap();
    let ends = networks.iter().map(|network| {
        let precision = Precision::Typed;
        let compute_capabilities = &[86];
        let request = Request { network, model: "isctf", precision, compute_capabilities, force: false };
        build(&settings, &request, || (), &mut |_| ()).unwrap().sidecar.key.tensors
    });
    let [coarse, fine] = <[_; 2]>::try_from(ends.collect::<Vec<_>>()).unwrap();
    let names = |entries: &[TensorEntry]| entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&coarse.outputs), ["scores", "weights", "features"]);
    assert_eq!(names(&fine.inputs), ["image", "features"]);
    assert_eq!(fine.inputs[1].shapes, [[2, 2, 4, 4], [4, 2, 4, 4], [1, 2, 6, 10]]);
    assert_eq!(fine.outputs[0].shapes, [[2, 4, 8, 8], [4, 4, 8, 8], [1, 4, 12, 20]]);
}

#[test]
fn a_fine_column_of_one_size_is_refused_and_leaves_no_engine() {
    let place = Place::new();
    write_columns(&place.model(), "sctf");
    let manifest = std::fs::read_to_string(place.model().join("model.toml")).unwrap();
    let old = std::fs::read(place.model().join("fine.onnx")).unwrap();
    // The tiny bundle's network takes 32x24 and nothing else.
    let mut other = good();
    other.graph.as_mut().unwrap().node[0].output[0] = "scores".into();
    other.graph.as_mut().unwrap().output[0].name = Some("scores".into());
    let other = bytes(&other);
    std::fs::write(place.model().join("fine.onnx"), &other).unwrap();
    let manifest = manifest.replace(&sha256(&old), &sha256(&other));
    std::fs::write(place.model().join("model.toml"), manifest).unwrap();
    let line = refusal(&place.engine("build", &[]).output().unwrap());
    assert_says(&line, &["input is 1x3x24x32", "says ?x3x48x?"]);
    let list = json(&place.run(&["engine", "list", "--json"]));
    assert_eq!(list["engines"].as_array().unwrap().len(), 1, "the coarse column's is there: {list}");
}

#[test]
fn lengths_that_a_model_leaves_free_are_the_bundles() {
    let mut free = good();
    let graph = free.graph.as_mut().unwrap();
    graph.input = vec![value("image", DataType::FLOAT, Some(&[0, 3, 0, 0]))];
    graph.output = vec![value("logits", DataType::FLOAT, Some(&[0, 4, 0, 0]))];
    let place = Place::with_onnx(bytes(&free));
    assert!(place.build(&[]).is_file());
}

#[test]
fn each_bad_model_has_its_own_error_and_status_4() {
    let one = |op: &str| {
        model(GraphProto {
            node: vec![node(op, &["image"], &["logits"], Vec::new())],
            input: vec![value("image", DataType::FLOAT, Some(&[1, 3, 24, 32]))],
            output: vec![value("logits", DataType::FLOAT, Some(&[1, 3, 24, 32]))],
            ..GraphProto::default()
        })
    };
    let whole = bytes(&good());
    let mut half_floats = good();
    half_floats.graph.as_mut().unwrap().input =
        vec![value("image", DataType::FLOAT16, Some(&[1, 3, 24, 32]))];
    let cases: [(&str, Vec<u8>, &[&str]); 6] = [
        ("cut off", whole[..whole.len() / 2].to_vec(), &["not an ONNX model", "cut off", "segmenter.onnx"]),
        ("no protobuf", (0..=255).cycle().take(4096).collect(), &["not an ONNX model"]),
        ("unknown operator", bytes(&one("SubMConv3x3")), &["TensorRT cannot read the model", "SubMConv3x3"]),
        (
            "other classes",
            bytes(&segmenter([32, 24], 5, 2, None)),
            &["output is 1x5x12x16", "says 1x4x12x16"],
        ),
        ("other size", bytes(&segmenter([64, 24], 4, 2, None)), &["input is 1x3x24x64", "says 1x3x24x32"]),
        ("other type", bytes(&half_floats), &["float16", "float32"]),
    ];
    for (case, onnx, parts) in cases {
        let place = Place::with_onnx(onnx);
        let line = refusal(&place.engine("build", &[]).output().unwrap());
        println!("{case}: {line}");
        assert_says(&line, parts);
        let left = std::fs::read_dir(place.engines()).into_iter().flatten().flatten();
        let left: Vec<_> =
            left.filter(|entry| !entry.path().ends_with(".lock")).map(|entry| entry.path()).collect();
        assert!(left.iter().all(|path| path.extension().is_some_and(|ending| ending == "lock")), "{left:?}");
    }
}

#[test]
fn a_free_length_without_a_shape_is_refused_by_tensorrt_itself() {
    let library = Arc::new(Library::open(Some(&Rig::new().rtx())).unwrap());
    let mut free = good();
    free.graph.as_mut().unwrap().input = vec![value("image", DataType::FLOAT, Some(&[0, 3, 0, 0]))];
    let options = BuildOptions {
        ends: None,
        precision: Precision::Typed,
        compute_capabilities: &[86],
        workspace_bytes: 1 << 28,
        timing_cache: &[],
    };
    let path = PathBuf::from("free.onnx");
    let mut phases = 0;
    let mut progress = |report: Progress<'_>| phases += usize::from(matches!(report, Progress::Start { .. }));
    let error = raw::build(&library, &bytes(&free), &path, &options, &mut progress).unwrap_err().to_string();
    assert_says(&error, &["TensorRT cannot build the engine", "no optimization profile", "free.onnx"]);
    let plan = raw::build(&library, &bytes(&good()), &path, &options, &mut progress).unwrap();
    assert!(!plan.engine.is_empty() && phases > 0);
}

#[test]
fn devices_and_flags_that_a_version_does_not_have_are_named() {
    let place = Place::new();
    let line = refusal(&place.engine("build", &["--compute-capabilities", "87"]).output().unwrap());
    assert_says(&line, &["TensorRT-RTX 1.7.1", "cannot build for compute capability [87]"]);
    for precision in ["fp16", "int8"] {
        let line = refusal(&place.engine("build", &["--precision", precision]).output().unwrap());
        assert_says(&line, &["has no precision flags", "--precision typed"]);
    }
}

#[test]
fn nothing_of_tensorrt_or_cuda_is_linked() {
    let program = env!("CARGO_BIN_EXE_sparse_refine");
    let output = Command::new("readelf").args(["--dynamic", program]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("libc.so"), "{text}");
    for library in ["nvinfer", "tensorrt", "nvonnx", "libcuda", "cudart"] {
        assert!(!text.contains(library), "{library} is linked: {text}");
    }
}
