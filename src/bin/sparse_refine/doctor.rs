//! `sparse_refine doctor`: which backends work here, and for each that does not, the step that failed and what to do.

use serde_json::json;
use sparse_refine::bundle::Bundle;
use sparse_refine::config::{BackendChoice, Config};
use sparse_refine::cpu::instruction_set;
use sparse_refine::plan::Plan;
use sparse_refine::start::{cuda_state, start};
use sparse_refine::tensorrt::{Probe, Settings, Step, built_for, probe};
use sparse_refine::types::Mode;

use crate::args::DoctorArgs;
use crate::device_plan::device_plan;
use crate::exit::Failure;

struct Finding {
    what: &'static str,
    works: bool,
    says: String,
}

pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<(), Failure> {
    let (cuda, cuda_says) = cuda_state();
    let mut findings = vec![
        Finding { what: "cpu", works: true, says: processor() },
        Finding {
            what: "onnx rten",
            works: cfg!(feature = "onnx-rten"),
            says: in_build(cfg!(feature = "onnx-rten"), "onnx-rten"),
        },
        Finding {
            what: "onnx ort",
            works: cfg!(feature = "onnx-ort") && std::env::var_os("ORT_DYLIB_PATH").is_some(),
            says: match (cfg!(feature = "onnx-ort"), std::env::var("ORT_DYLIB_PATH")) {
                (true, Ok(path)) => format!("in this build, library {path}"),
                (true, Err(_)) => "in this build; set ORT_DYLIB_PATH to libonnxruntime.so".to_owned(),
                (false, _) => in_build(false, "onnx-ort"),
            },
        },
        Finding {
            what: "ros node",
            works: cfg!(feature = "ros"),
            says: in_build(cfg!(feature = "ros"), "ros"),
        },
        Finding { what: "cuda", works: cuda, says: cuda_says },
    ];
    findings.push(tensorrt(args.model.as_deref()));
    let mut failure = None;
    if let Some(model) = &args.model {
        let checked = check_model(model);
        let (works, says) = match checked {
            Ok(says) => (true, says),
            Err(error) => {
                let says = error.to_string();
                failure = Some(error);
                (false, says)
            }
        };
        findings.push(Finding { what: "model", works, says });
    }
    let plan = match (&args.model, args.plan) {
        (Some(model), Some(camera)) if failure.is_none() => Some(device_plan(model, camera)?),
        _ => None,
    };
    if json {
        let entry = |f: &Finding| json!({ "what": f.what, "works": f.works, "says": f.says });
        crate::print(
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "findings": findings.iter().map(entry).collect::<Vec<_>>(),
                "cuda_plan": plan.map(|(_, value)| value),
            })
            .to_string(),
        );
    } else {
        let line =
            |f: &Finding| format!("{:<10} {:<4} {}\n", f.what, if f.works { "yes" } else { "no" }, f.says);
        let plan = plan.map_or(String::new(), |(text, _)| text);
        crate::print(&(findings.iter().map(line).collect::<String>() + &plan));
    }
    failure.map_or(Ok(()), Err)
}

/// How far TensorRT works here, step by step; with a bundle that can be read, up to a run of its network.
fn tensorrt(model: Option<&std::path::Path>) -> Finding {
    let what = "tensorrt";
    if built_for().is_none() {
        return Finding { what, works: false, says: in_build(false, "tensorrt") };
    }
    let networks = model.and_then(|dir| crate::engine::networks_of(dir, false).ok()).unwrap_or_default();
    let probes: Vec<_> = if networks.is_empty() {
        vec![probe(&Settings::from_environment(), None)]
    } else {
        crate::engine::probe_all(&Settings::from_environment(), &networks)
    };
    let (mut steps, mut works) = (Vec::new(), true);
    for Probe { passed, result } in probes {
        steps.extend(passed.iter().map(|(step, says)| format!("{step}: {says}")));
        works &= result.is_ok();
        match result {
            Ok(Some(_)) => {}
            Ok(None) => steps.push("add --model to try an engine".to_owned()),
            Err(error) => {
                let step = error.step().map_or("TensorRT", Step::name);
                steps.push(format!("FAILED at {step}: {error}"));
            }
        }
    }
    Finding { what, works, says: steps.join("; ") }
}

fn in_build(present: bool, feature: &str) -> String {
    if present {
        "in this build".to_owned()
    } else {
        format!("not in this build: rebuild with `--features {feature}`")
    }
}

fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{threads} threads, {}", instruction_set())
}

/// Loads a bundle as a run would, networks included.
fn check_model(dir: &std::path::Path) -> Result<String, Failure> {
    let bundle = Bundle::load(dir)?;
    let refines = bundle.manifest.refines();
    let mode = if refines { Mode::Refined } else { Mode::Coarse };
    let config = Config { backend: BackendChoice::Cpu, mode, ..Config::default() };
    start(Plan::new(&config, &bundle)?, config.backend)?;
    let manifest = &bundle.manifest;
    let [width, height] = manifest.segmenter.size;
    let dense = if manifest.dense.is_some() { ", dense" } else { "" };
    let modes = if refines { "coarse, refined" } else { "coarse" };
    Ok(format!(
        "`{}`: {} classes, segmenter {width}x{height}, modes {modes}{dense}",
        manifest.name,
        manifest.classes.len()
    ))
}
