//! `sparse_refine engine build|list|verify`: TensorRT engines ahead of time.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sparse_refine::bundle::Bundle;
use sparse_refine::bundle::manifest::Method;
use sparse_refine::config::Config;
use sparse_refine::onnx::NetworkFile;
use sparse_refine::plan::Plan;
use sparse_refine::tensorrt::build_options::{Precision, Progress};
use sparse_refine::tensorrt::sidecar::{Here, Sidecar, sha256};
use sparse_refine::tensorrt::store::{Store, Stored};
use sparse_refine::tensorrt::{
    Built, Library, Probe, Request, Settings, Step, TensorRtError, build, built_for, networks, probe, raw,
};
use sparse_refine::types::Mode;

use crate::args::{EngineBuildArgs, EngineCommand, EngineNetwork, EnginePlace, PrecisionArg};
use crate::exit::{BACKEND, FILES, Failure};

impl From<TensorRtError> for Failure {
    fn from(error: TensorRtError) -> Self {
        let code = if matches!(error, TensorRtError::Cache { .. }) { FILES } else { BACKEND };
        Self::new(code, error)
    }
}

pub(crate) fn run(command: &EngineCommand, json: bool) -> Result<(), Failure> {
    if built_for().is_none() {
        return Err(TensorRtError::NotInBuild.into());
    }
    match command {
        EngineCommand::Build(args) => build_engine(args, json),
        EngineCommand::List { place, network } => list(&settings(place), network, json),
        EngineCommand::Verify { place, network } => verify(&settings(place), network, json),
    }
}

fn settings(place: &EnginePlace) -> Settings {
    let environment = Settings::from_environment();
    Settings {
        library: place.library.clone().or(environment.library),
        engines: place.engines.clone().or(environment.engines),
        ..environment
    }
}

/// The networks of a bundle that TensorRT runs: its dense low-resolution network or, if asked for, the full-resolution
/// one; of the method `spatial_sparsity` both columns.
pub(crate) fn networks_of(model: &Path, dense: bool) -> Result<Vec<NetworkFile>, Failure> {
    let bundle = Bundle::load(model)?;
    let mode = match bundle.manifest.method {
        _ if dense => Mode::Dense,
        Method::SparseRefine => Mode::Coarse,
        Method::SpatialSparsity => Mode::Refined,
    };
    let plan = Plan::new(&Config { mode, ..Config::default() }, &bundle)?;
    Ok(networks(&plan)?)
}

/// Probes network by network, up to the first that does not run; what the first one says of the machine once.
pub(crate) fn probe_all(settings: &Settings, networks: &[NetworkFile]) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for network in networks {
        let mut probe = probe(settings, Some(network));
        if !probes.is_empty() {
            probe.passed.retain(|(step, _)| *step >= Step::Engine);
        }
        let failed = probe.result.is_err();
        probes.push(probe);
        if failed {
            break;
        }
    }
    probes
}

fn build_engine(args: &EngineBuildArgs, json: bool) -> Result<(), Failure> {
    let name = Bundle::load(&args.model)?.manifest.name;
    let settings = settings(&args.place);
    let mut values = Vec::new();
    for network in networks_of(&args.model, args.dense)? {
        let request = Request {
            network: &network,
            model: &name,
            precision: match args.precision {
                PrecisionArg::Typed => Precision::Typed,
                PrecisionArg::Fp16 => Precision::Fp16,
                PrecisionArg::Int8 => Precision::Int8,
            },
            compute_capabilities: &args.compute_capabilities,
            force: args.force,
        };
        let waiting = || eprintln!("sparse_refine: another process builds the same engine, waiting for it");
        let mut bar = BuildProgress::new();
        let built = build(&settings, &request, waiting, &mut |progress| bar.report(progress));
        bar.finish();
        let Built { path, sidecar, fresh } = built?;
        if !json {
            let how = if fresh {
                format!("built in {:.1} s", sidecar.build_ms as f64 / 1000.0)
            } else {
                "it was there already".to_owned()
            };
            crate::print(&format!("{}: {}, {how}", path.display(), describe(&sidecar)));
        }
        values.push(json!({ "path": path.display().to_string(), "built": fresh, "sidecar": sidecar }));
    }
    if json {
        // Of a bundle with one network that network's; of one with columns all of them.
        let value = if values.len() == 1 { values.remove(0) } else { json!({ "engines": values }) };
        crate::print(&value.to_string());
    }
    Ok(())
}

fn describe(sidecar: &Sidecar) -> String {
    let key = &sidecar.key;
    let shapes = key.tensors.inputs.first().map_or(&[][..], |input| &input.shapes);
    let size = |[batch, _, height, width]: &[i64; 4]| match batch {
        1 => format!("{width}x{height}"),
        batch => format!("{batch} of {width}x{height}"),
    };
    let sizes: Vec<_> = shapes.iter().map(size).collect();
    let capabilities: Vec<_> = key.compute_capabilities.iter().map(ToString::to_string).collect();
    format!(
        "`{}` {}, {} {}, {}, {}, {}",
        sidecar.model,
        sizes.join(" or "),
        key.flavour,
        key.version,
        if capabilities.is_empty() {
            "every device it knows".to_owned()
        } else {
            format!("compute capability {}", capabilities.join(", "))
        },
        key.precision.name(),
        HumanBytes(sidecar.engine_bytes)
    )
}

/// What engines are to run on, if a driver and TensorRT are here.
fn here(settings: &Settings) -> Result<Here, TensorRtError> {
    let device = raw::device(settings.device)?;
    let library = Library::open(settings.library.as_deref())?;
    Ok(Here { flavour: library.flavour(), version: library.version(), device })
}

/// Whether an engine can run here, `None` where that cannot be told, and why not.
fn fits(sidecar: &Sidecar, here: &Result<Here, TensorRtError>) -> (Option<bool>, String) {
    match here {
        Err(error) => (None, format!("cannot tell: {error}")),
        Ok(here) => {
            let reasons: Vec<_> = sidecar.key.differences(here).iter().map(ToString::to_string).collect();
            (Some(reasons.is_empty()), reasons.join("; "))
        }
    }
}

/// The engines of the folder; with a bundle, those of its networks.
fn stored(store: &Store, network: &EngineNetwork) -> Result<Vec<Stored>, Failure> {
    let mut list = store.list()?;
    if let Some(model) = &network.model {
        let hash = |NetworkFile { path, .. }: NetworkFile| {
            let onnx = std::fs::read(&path);
            onnx.map(|onnx| sha256(&onnx))
                .map_err(|why| Failure::new(FILES, format!("cannot read ({why}): {}", path.display())))
        };
        let networks = networks_of(model, network.dense)?;
        let wanted = networks.into_iter().map(hash).collect::<Result<Vec<_>, _>>()?;
        list.retain(|one| {
            one.sidecar.as_ref().map_or(true, |sidecar| wanted.contains(&sidecar.key.onnx_sha256))
        });
    }
    Ok(list)
}

fn list(settings: &Settings, network: &EngineNetwork, json: bool) -> Result<(), Failure> {
    let store = Store::new(settings.engines_folder()?);
    let here = here(settings);
    let mut entries = Vec::new();
    let mut text = String::new();
    for Stored { path, sidecar } in stored(&store, network)? {
        let checked = sidecar.and_then(|sidecar| store.read(&sidecar).map(|_| sidecar));
        let (value, line) = match &checked {
            Ok(sidecar) => {
                let (fits, why) = fits(sidecar, &here);
                let word = match fits {
                    Some(true) => "fits here".to_owned(),
                    Some(false) => format!("does not fit: {why}"),
                    None => why.clone(),
                };
                let line = format!("{}\n    {}\n    {word}\n", path.display(), describe(sidecar));
                (json!({ "sound": true, "fits": fits, "why": why, "sidecar": sidecar }), line)
            }
            Err(error) => {
                let line = format!("{}\n    cannot be used: {error}\n", path.display());
                (
                    json!({ "sound": false, "fits": false, "why": error.to_string(), "sidecar": Value::Null }),
                    line,
                )
            }
        };
        let mut value = value;
        value["path"] = json!(path.display().to_string());
        entries.push(value);
        text.push_str(&line);
    }
    if json {
        let folder = store.folder().display().to_string();
        crate::print(&json!({ "folder": folder, "engines": entries }).to_string());
    } else if entries.is_empty() {
        crate::print(&format!(
            "no engines in {}; make one: sparse_refine engine build --model DIR",
            store.folder().display()
        ));
    } else {
        crate::print(&text);
    }
    Ok(())
}

/// Every engine is whole; with a bundle, one for each of its networks runs here, step by step.
fn verify(settings: &Settings, network: &EngineNetwork, json: bool) -> Result<(), Failure> {
    let store = Store::new(settings.engines_folder()?);
    let mut checks = Vec::new();
    let mut failure = None;
    let mut note =
        |checks: &mut Vec<(String, bool, String)>, what: String, result: Result<String, TensorRtError>| {
            let (passed, says) = match result {
                Ok(says) => (true, says),
                Err(error) => {
                    let says = error.to_string();
                    failure.get_or_insert(error);
                    (false, says)
                }
            };
            checks.push((what, passed, says));
        };
    for Stored { path, sidecar } in stored(&store, network)? {
        let whole = sidecar.and_then(|sidecar| store.read(&sidecar).map(|_| describe(&sidecar)));
        note(&mut checks, path.display().to_string(), whole);
    }
    if let Some(model) = &network.model {
        for Probe { passed, result } in probe_all(settings, &networks_of(model, network.dense)?) {
            for (step, says) in passed {
                note(&mut checks, step.name().to_owned(), Ok(says));
            }
            if let Err(error) = result {
                let what = error.step().map_or("engine", Step::name);
                note(&mut checks, what.to_owned(), Err(error));
            }
        }
    }
    if json {
        let entry = |(what, passed, says): &(String, bool, String)| json!({ "what": what, "passed": passed, "says": says });
        crate::print(&json!({ "checks": checks.iter().map(entry).collect::<Vec<_>>() }).to_string());
    } else {
        let line = |(what, passed, says): &(String, bool, String)| {
            format!("{} {what}: {says}\n", if *passed { "ok    " } else { "FAILED" })
        };
        crate::print(&checks.iter().map(line).collect::<String>());
        if checks.is_empty() {
            crate::print(&format!("no engines in {}", store.folder().display()));
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// A bar for TensorRT's outermost phases on a terminal; elsewhere a line for each of them.
struct BuildProgress {
    bar: Option<ProgressBar>,
    outermost: String,
}

impl BuildProgress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} {msg}, {elapsed}");
            let bar = ProgressBar::new(1).with_style(style.expect("the template is valid"));
            // One step of a large network takes minutes: show that we live.
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, outermost: String::new() }
    }

    fn report(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Start { phase, parent: "", steps } => {
                phase.clone_into(&mut self.outermost);
                match &self.bar {
                    Some(bar) => {
                        bar.set_length(u64::from(steps));
                        bar.set_position(0);
                        bar.set_message(phase.to_owned());
                    }
                    None => eprintln!("sparse_refine: {phase}, {steps} steps"),
                }
            }
            Progress::Step { phase, step } if phase == self.outermost => {
                if let Some(bar) = &self.bar {
                    bar.set_position(u64::from(step));
                }
            }
            _ => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
