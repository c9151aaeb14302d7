//! From a bundle to an engine in the store, and from the store to a loaded engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::build_options::{BuildOptions, Precision, Progress};
use super::device::Device;
use super::error::{Step, TensorRtError};
use super::native::{self, Engine, Library, Runtime};
use super::settings::Settings;
use super::sidecar::{EngineKey, FORMAT, Here, Sidecar, sha256};
use super::store::Store;
use super::tensors::{NetworkEnds, TensorEntry};
use super::version::Flavour;
use crate::onnx::{NetworkFile, OnnxError, Port};
use crate::plan::Plan;
use crate::tiles::{coarse_file, fine_file};

/// Most device memory an engine may use for intermediate results.
const WORKSPACE_BYTES: usize = 1 << 30;

/// The networks that TensorRT runs of a plan: the dense one, or the columns, the coarse one first.
pub fn networks(plan: &Plan) -> Result<Vec<NetworkFile>, TensorRtError> {
    if plan.columns.is_none() {
        return Ok(vec![NetworkFile::segmenter(&plan.segmenter)]);
    }
    let fine = fine_file(plan).map_err(|error| TensorRtError::Option(error.to_string()))?;
    Ok(std::iter::once(coarse_file(plan)).chain(fine).collect())
}

/// Which network, and how.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The network.
    pub network: &'a NetworkFile,
    /// Name of its bundle.
    pub model: &'a str,
    /// Where the precision comes from.
    pub precision: Precision,
    /// TensorRT-RTX: devices to build for; none: all it knows.
    pub compute_capabilities: &'a [u32],
    /// Build even if there is one.
    pub force: bool,
}

/// An engine that is in the store now.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its file.
    pub path: PathBuf,
    /// Its sidecar.
    pub sidecar: Sidecar,
    /// Whether it was made now.
    pub fresh: bool,
}

/// The model file: its hash and its ends.
struct Model {
    onnx: Vec<u8>,
    sha256: String,
    ends: NetworkEnds,
}

impl Model {
    fn read(network: &NetworkFile) -> Result<Self, TensorRtError> {
        let path = &network.path;
        let [inputs, outputs] = network.names()?;
        let onnx = std::fs::read(path).map_err(|source| OnnxError::Read { path: path.clone(), source })?;
        let entries = |ports: &[Port], names: &[String]| {
            ports.iter().zip(names).map(|(port, name)| TensorEntry::new(port, name)).collect()
        };
        let ends = NetworkEnds {
            inputs: entries(&network.inputs, &inputs),
            outputs: entries(&network.outputs, &outputs),
        };
        Ok(Self { sha256: sha256(&onnx), onnx, ends })
    }
}

/// Builds the engine of a request, unless it is there already.
pub fn build(
    settings: &Settings,
    request: &Request<'_>,
    waiting: impl FnOnce(),
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, TensorRtError> {
    let (flavour, _) = native::built_for().ok_or(TensorRtError::NotInBuild)?;
    // Full TensorRT times kernels on the device; without a driver it must not even be asked.
    let device = match flavour {
        Flavour::Full => Some(native::device(settings.device)?),
        Flavour::Rtx => None,
    };
    let library = Arc::new(Library::open(settings.library.as_deref())?);
    let model = Model::read(request.network)?;
    let capabilities = capabilities(request, device.as_ref())?;
    let key = EngineKey {
        format: FORMAT,
        flavour,
        version: library.version().to_string(),
        compute_capabilities: capabilities,
        device: device.as_ref().map(|device| device.name.clone()),
        driver: device.as_ref().map(|device| device.driver / 1000),
        precision: request.precision,
        onnx_sha256: model.sha256.clone(),
        tensors: model.ends.clone(),
        workspace_bytes: WORKSPACE_BYTES as u64,
    };
    let store = Store::new(settings.engines_folder()?);
    let id = key.id();
    let lock = store.lock(&id, waiting)?;
    // Looked at under the lock: who waited for another builder finds its engine.
    if !request.force
        && let Ok(sidecar) = store.stored(&id).sidecar
        && store.read(&sidecar).is_ok()
    {
        return Ok(Built { path: store.engine_path(&id), sidecar, fresh: false });
    }
    let timing = device.as_ref().map(|device| timing_cache_name(&key, device));
    let timing_cache = timing.as_ref().map(|name| store.read_hint(name)).unwrap_or_default();
    let options = BuildOptions {
        ends: Some(&key.tensors),
        precision: key.precision,
        compute_capabilities: match flavour {
            Flavour::Rtx => &key.compute_capabilities,
            Flavour::Full => &[],
        },
        workspace_bytes: WORKSPACE_BYTES,
        timing_cache: &timing_cache,
    };
    let start = Instant::now();
    let plan = native::build(&library, &model.onnx, &request.network.path, &options, progress)?;
    if let (Some(name), Some(bytes)) = (timing, plan.timing_cache) {
        store.write_hint(&name, &bytes);
    }
    let sidecar = Sidecar {
        model: request.model.to_owned(),
        engine_sha256: sha256(&plan.engine),
        engine_bytes: plan.engine.len() as u64,
        built_at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        build_ms: start.elapsed().as_millis() as u64,
        built_by: format!("sparse_refine {}", env!("CARGO_PKG_VERSION")),
        key,
    };
    let path = store.publish(&lock, &sidecar, &plan.engine)?;
    Ok(Built { path, sidecar, fresh: true })
}

fn capabilities(request: &Request<'_>, device: Option<&Device>) -> Result<Vec<u32>, TensorRtError> {
    let asked = request.compute_capabilities;
    let mut capabilities = match device {
        Some(device) if asked.is_empty() || asked == [device.compute_capability] => {
            vec![device.compute_capability]
        }
        Some(device) => {
            return Err(TensorRtError::Option(format!(
                "TensorRT builds for the device it runs on ({device}), not for compute capability {asked:?}; build on \
                 the target, or use a build for TensorRT-RTX"
            )));
        }
        None => asked.to_vec(),
    };
    capabilities.sort_unstable();
    capabilities.dedup();
    Ok(capabilities)
}

/// One timing cache for all engines of a TensorRT version and a device.
fn timing_cache_name(key: &EngineKey, device: &Device) -> String {
    let name: String = device
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("timing-{}-{name}.cache", key.version)
}

/// An engine in device memory.
pub struct Loaded {
    /// The engine.
    pub engine: Arc<Engine>,
    /// What its sidecar says.
    pub sidecar: Sidecar,
    /// The device it is on.
    pub device: Device,
    /// The library that runs it.
    pub library: Arc<Library>,
    /// Its inputs and outputs.
    pub ends: NetworkEnds,
    /// What it compiled for the device when it was warmed up (TensorRT-RTX).
    pub compiled: Vec<u8>,
}

/// How far TensorRT works here.
pub struct Probe {
    /// Steps that passed, and what was found.
    pub passed: Vec<(Step, String)>,
    /// The engine, or the step that failed; `None` where no network was given and all before it passed.
    pub result: Result<Option<Loaded>, TensorRtError>,
}

/// Looks step by step whether TensorRT can run a network here. Without a network, up to TensorRT's start.
pub fn probe(settings: &Settings, network: Option<&NetworkFile>) -> Probe {
    let mut passed = Vec::new();
    let result = probe_steps(settings, network, &mut passed);
    Probe { passed, result }
}

fn probe_steps(
    settings: &Settings,
    network: Option<&NetworkFile>,
    passed: &mut Vec<(Step, String)>,
) -> Result<Option<Loaded>, TensorRtError> {
    let device = native::device(settings.device)?;
    passed.push((Step::Driver, format!("for CUDA {}.{}", device.driver / 1000, device.driver % 1000 / 10)));
    passed.push((Step::Device, device.to_string()));
    let library = Arc::new(Library::open(settings.library.as_deref())?);
    passed.push((Step::Library, library.path().display().to_string()));
    passed.push((Step::Version, format!("{} {}", library.flavour(), library.version())));
    let runtime = Arc::new(Runtime::new(&library)?);
    passed.push((Step::Runtime, "starts".to_owned()));
    let Some(network) = network else { return Ok(None) };

    native::make_current(settings.device)?;
    let model = Model::read(network)?;
    let store = Store::new(settings.engines_folder()?);
    let here = Here { flavour: library.flavour(), version: library.version(), device: device.clone() };
    let sidecar = newest_that_fits(&store, &model, &here, network)?;
    let engine = Arc::new(Engine::open(&runtime, &store.read(&sidecar)?)?);
    passed.push((Step::Engine, store.engine_path(&sidecar.key.id()).display().to_string()));
    model.ends.check_all(&engine.tensors())?;
    passed.push((Step::Tensors, "as the bundle says".to_owned()));

    let name = compiled_name(&sidecar.key.id(), &device);
    let hint = store.read_hint(&name);
    let compiled = native::warm_up(&engine, &model.ends, &hint)?.unwrap_or_default();
    if !compiled.is_empty() && compiled != hint {
        store.write_hint(&name, &compiled);
    }
    passed.push((Step::WarmUp, "every output written".to_owned()));
    Ok(Some(Loaded { engine, sidecar, device, library, ends: model.ends, compiled }))
}

/// TensorRT-RTX compiles the device's half when it starts; what it compiled is kept beside the engine.
fn compiled_name(id: &str, device: &Device) -> String {
    format!("{id}.sm{}-{}.compiled", device.compute_capability, device.driver)
}

/// Of the engines of this network that can run here, the one built last. What is damaged is never taken for another.
fn newest_that_fits(
    store: &Store,
    model: &Model,
    here: &Here,
    network: &NetworkFile,
) -> Result<Sidecar, TensorRtError> {
    let mut best: Option<Sidecar> = None;
    let mut damaged = None;
    let mut nearest: Option<(usize, String)> = None;
    for stored in store.list()? {
        let sidecar = match stored.sidecar {
            Ok(sidecar) => sidecar,
            Err(error) => {
                damaged = Some(error);
                continue;
            }
        };
        if sidecar.key.onnx_sha256 != model.sha256 || sidecar.key.tensors != model.ends {
            continue;
        }
        let differences = sidecar.key.differences(here);
        let Some(first) = differences.first() else {
            if best.as_ref().is_none_or(|best| sidecar.built_at > best.built_at) {
                best = Some(sidecar);
            }
            continue;
        };
        if nearest.as_ref().is_none_or(|(count, _)| differences.len() < *count) {
            nearest = Some((differences.len(), format!("there is one, but {first}")));
        }
    }
    match (best, damaged, nearest) {
        (Some(best), ..) => Ok(best),
        (None, Some(damaged), None) => Err(damaged),
        (None, _, nearest) => Err(TensorRtError::NoEngine {
            model: network.path.parent().unwrap_or(Path::new(".")).into(),
            nearest: nearest.map(|(_, text)| text),
        }),
    }
}
