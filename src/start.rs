//! Chooses the backend: what was asked for, or the best that works here, and says why.

use crate::config::BackendChoice;
use crate::cpu::CpuBackend;
use crate::cpu::tiles::TileBackend;
use crate::cuda::{self, CudaBackend, CudaTileBackend};
use crate::pipeline::BackendError;
use crate::plan::Plan;
use crate::tensorrt::{built_for, cuda_backend, cuda_tile_backend};
use crate::types::BackendFacts;

/// A backend that is ready for frames. Each is its own type, so that nothing in the frame's path is dispatched at run
/// time.
pub enum Started {
    /// The plain CPU.
    Cpu(Box<CpuBackend>),
    /// CUDA, the dense network on TensorRT or on the host's ONNX engine.
    Cuda(Box<CudaBackend>),
    /// The plain CPU, for the method `spatial_sparsity`.
    CpuTiles(Box<TileBackend>),
    /// CUDA for that method, both columns on TensorRT or on the host's ONNX engine.
    CudaTiles(Box<CudaTileBackend>),
}

/// Builds the backend a plan runs on. `auto` takes the first of TensorRT, CUDA, CPU that works, and says why not the
/// first.
pub fn start(plan: Plan, choice: BackendChoice) -> Result<(Started, BackendFacts), BackendError> {
    match choice {
        BackendChoice::Cpu => start_cpu(plan, "asked for".to_owned()),
        BackendChoice::Cuda => start_cuda(plan, "asked for".to_owned()).map_err(or_cpu),
        BackendChoice::Tensorrt => {
            start_tensorrt(plan, "asked for".to_owned()).map_err(|error| match error {
                BackendError::NotAvailable { backend, why } => BackendError::NotAvailable {
                    backend,
                    why: format!("{why}; or use --backend cpu, cuda or auto"),
                },
                error => error,
            })
        }
        BackendChoice::Auto => start_best(plan),
    }
}

/// TensorRT, else CUDA, else the CPU, with the reasons against those before it. A model that cannot be read is no such
/// reason.
fn start_best(plan: Plan) -> Result<(Started, BackendFacts), BackendError> {
    let mut against = String::new();
    // Without TensorRT in the build nobody expects it.
    if built_for().is_some() {
        match start_tensorrt(plan.clone(), "auto: TensorRT works".to_owned()) {
            Err(BackendError::NotAvailable { why, .. }) => against = format!("TensorRT: {why}; "),
            started => return started,
        }
    }
    match start_cuda(plan.clone(), format!("auto: {against}CUDA works")) {
        Err(BackendError::NotAvailable { why, .. }) => {
            let why = format!("{against}{why}");
            warn_of_cpu(&why);
            start_cpu(plan, format!("auto: {why}"))
        }
        started => {
            if !against.is_empty() && started.is_ok() {
                tracing::warn!("dense networks run on the CPU: {against}the rest on CUDA");
            }
            started
        }
    }
}

/// Every report says the reason. A warning only where a GPU is expected: most machines have none.
fn warn_of_cpu(why: &str) {
    if built_for().is_some() || cuda::has_driver() {
        tracing::warn!("runs on the CPU: {why}");
    } else {
        tracing::info!("runs on the CPU: {why}");
    }
}

/// Says what else there is where CUDA does not work.
fn or_cpu(error: BackendError) -> BackendError {
    match error {
        BackendError::NotAvailable { backend: "cuda", why } => {
            BackendError::NotAvailable { backend: "cuda", why: format!("{why}; or use --backend cpu") }
        }
        error => error,
    }
}

fn start_cpu(plan: Plan, reason: String) -> Result<(Started, BackendFacts), BackendError> {
    if plan.columns.is_some() {
        return tiles_on_cpu(plan, reason);
    }
    let threads = plan.threads;
    let segmenter = format!("onnx ({})", plan.segmenter.engine.name());
    let refiner = if plan.refiner.is_some() {
        format!("cpu ({})", crate::cpu::instruction_set())
    } else {
        "no refiner".to_owned()
    };
    let backend = CpuBackend::new(plan)?;
    let device = format!("cpu, {threads} thread{}", if threads == 1 { "" } else { "s" });
    Ok((Started::Cpu(Box::new(backend)), BackendFacts { segmenter, refiner, device, reason }))
}

fn start_cuda(plan: Plan, reason: String) -> Result<(Started, BackendFacts), BackendError> {
    if plan.columns.is_some() {
        return Ok(tiles_on_cuda(&plan, CudaTileBackend::new(plan.clone())?, reason));
    }
    let refines = plan.refiner.is_some();
    Ok(on_cuda(CudaBackend::new(plan)?, refines, reason))
}

fn start_tensorrt(plan: Plan, reason: String) -> Result<(Started, BackendFacts), BackendError> {
    if plan.columns.is_some() {
        return Ok(tiles_on_cuda(&plan, cuda_tile_backend(plan.clone())?, reason));
    }
    let refines = plan.refiner.is_some();
    Ok(on_cuda(cuda_backend(plan)?, refines, reason))
}

fn on_cuda(backend: CudaBackend, refines: bool, reason: String) -> (Started, BackendFacts) {
    let precision = backend.precision().name();
    let refiner = if refines { format!("cuda ({precision})") } else { "no refiner".to_owned() };
    let (segmenter, device) = (backend.engine_name(), backend.device_name());
    (Started::Cuda(Box::new(backend)), BackendFacts { segmenter, refiner, device, reason })
}

fn tiles_on_cpu(plan: Plan, reason: String) -> Result<(Started, BackendFacts), BackendError> {
    let threads = plan.threads;
    let engine = format!("onnx ({})", plan.segmenter.engine.name());
    let device = format!("cpu, {threads} thread{}", if threads == 1 { "" } else { "s" });
    let facts = tile_facts(&plan, engine, device, reason);
    Ok((Started::CpuTiles(Box::new(TileBackend::new(plan)?)), facts))
}

fn tiles_on_cuda(plan: &Plan, backend: CudaTileBackend, reason: String) -> (Started, BackendFacts) {
    let facts = tile_facts(plan, backend.engine_name(), backend.device_name(), reason);
    (Started::CudaTiles(Box::new(backend)), facts)
}

fn tile_facts(plan: &Plan, engine: String, device: String, reason: String) -> BackendFacts {
    let refining = plan.columns.as_ref().filter(|columns| columns.fine.is_some());
    let refiner = refining.map_or("no fine column".to_owned(), |columns| {
        format!("{engine}, {} on tiles", columns.configuration.name())
    });
    BackendFacts { segmenter: engine, refiner, device, reason }
}

/// One sentence on CUDA here, and whether it works.
pub fn cuda_state() -> (bool, String) {
    cuda::state()
}
