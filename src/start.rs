//! Chooses the backend: what was asked for, or the best that works here, and says why.

use crate::config::BackendChoice;
use crate::cpu::CpuBackend;
use crate::cpu::tiles::TileBackend;
use crate::pipeline::BackendError;
use crate::plan::Plan;
use crate::tensorrt::{Settings, built_for, probe};
use crate::types::BackendFacts;

/// A backend that is ready for frames. More kinds will come; each is its own type, so that nothing in the frame's path
/// is dispatched at run time.
pub enum Started {
    /// The plain CPU.
    Cpu(Box<CpuBackend>),
    /// The plain CPU, for the method `spatial_sparsity`.
    CpuTiles(Box<TileBackend>),
}

/// Builds the backend a plan runs on. `auto` takes the first of TensorRT, CUDA, CPU that works.
pub fn start(plan: Plan, choice: BackendChoice) -> Result<(Started, BackendFacts), BackendError> {
    if plan.columns.is_some() {
        return start_tiles(plan, choice);
    }
    let reason = match choice {
        BackendChoice::Cpu => "asked for".to_owned(),
        BackendChoice::Auto => {
            let why = gpu_state(&plan);
            if built_for().is_some() {
                // Who built it in expects it: say once, loudly, that it is not used. Every report repeats the reason.
                tracing::warn!("runs on the CPU: {why}");
            }
            format!("auto: {why}")
        }
        BackendChoice::Tensorrt => {
            return Err(BackendError::NotAvailable {
                backend: choice.name(),
                why: format!("{}; or use --backend cpu or auto", tensorrt_state(&plan)),
            });
        }
        BackendChoice::Cuda => {
            return Err(BackendError::NotAvailable {
                backend: choice.name(),
                why: format!("{}; use --backend cpu or auto", cuda_state()),
            });
        }
    };
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

/// The method `spatial_sparsity` runs on the CPU.
fn start_tiles(plan: Plan, choice: BackendChoice) -> Result<(Started, BackendFacts), BackendError> {
    let reason = match choice {
        BackendChoice::Cpu => "asked for",
        BackendChoice::Auto => "auto: spatial_sparsity runs on the CPU only",
        BackendChoice::Cuda | BackendChoice::Tensorrt => {
            return Err(BackendError::NotAvailable {
                backend: choice.name(),
                why: "the method spatial_sparsity of this bundle runs on the CPU only; use --backend cpu or auto"
                    .to_owned(),
            });
        }
    };
    let threads = plan.threads;
    let engine = format!("onnx ({})", plan.segmenter.engine.name());
    let configuration = plan.columns.as_ref().filter(|columns| columns.fine.is_some());
    let facts = BackendFacts {
        segmenter: engine.clone(),
        refiner: configuration.map_or("no fine column".to_owned(), |columns| {
            format!("{engine}, {} on tiles", columns.configuration.name())
        }),
        device: format!("cpu, {threads} thread{}", if threads == 1 { "" } else { "s" }),
        reason: reason.to_owned(),
    };
    Ok((Started::CpuTiles(Box::new(TileBackend::new(plan)?)), facts))
}

/// Why the plan does not run on a GPU here.
fn gpu_state(plan: &Plan) -> String {
    format!("{}; {}", tensorrt_state(plan), cuda_state())
}

/// Why the plan's dense network does not run on TensorRT here: the first step that fails, and what to do.
fn tensorrt_state(plan: &Plan) -> String {
    match probe(&Settings::from_environment(), Some(&plan.segmenter)).result {
        Ok(_) => format!("TensorRT works here, but {}", cuda_state()),
        Err(error) => error.to_string(),
    }
}

/// One sentence on CUDA in this build.
pub fn cuda_state() -> &'static str {
    "CUDA is not in this build"
}
