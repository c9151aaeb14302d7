//! Loaded engines as the dense networks of the CUDA pipeline: a context for each frame in flight, on its stream.
#![allow(unsafe_code, reason = "hands device addresses and a stream to TensorRT")]

use std::sync::Arc;

use super::engines::{Loaded, networks, probe};
use super::error::TensorRtError;
use super::native::{Context, Engine};
use super::settings::Settings;
use super::tensors::{NetworkEnds, TensorEntry};
use crate::cuda::{
    Column, ColumnEngine, CudaBackend, CudaTileBackend, Device, DeviceAddress, DeviceEngine, DeviceSegmenter,
    DeviceTensor, Element, SegmentError, StreamHandle, TensorAt,
};
use crate::onnx::NetworkFile;
use crate::pipeline::BackendError;
use crate::plan::Plan;

/// The CUDA pipeline of a plan with its dense network on TensorRT.
pub fn cuda_backend(plan: Plan) -> Result<CudaBackend, BackendError> {
    let (device, engines) = open_all(&plan)?;
    let engine = engines.into_iter().next().expect("a plan of sparse_refine has a dense network");
    CudaBackend::with_engine(plan, device, engine, None).map_err(of_tensorrt)
}

/// The same for the method `spatial_sparsity`, both columns on TensorRT.
pub fn cuda_tile_backend(plan: Plan) -> Result<CudaTileBackend, BackendError> {
    let (device, engines) = open_all(&plan)?;
    let mut engines = engines.into_iter().map(|engine| engine as Arc<dyn ColumnEngine>);
    let coarse = engines.next().expect("a plan of spatial_sparsity has a coarse column");
    CudaTileBackend::with_engines(plan, device, coarse, engines.next()).map_err(of_tensorrt)
}

fn not_available(why: String) -> BackendError {
    BackendError::NotAvailable { backend: "tensorrt", why }
}

fn of_tensorrt(error: BackendError) -> BackendError {
    match error {
        BackendError::NotAvailable { why, .. } => not_available(why),
        error => error,
    }
}

/// The device, and the engines of all networks that a plan runs on TensorRT.
fn open_all(plan: &Plan) -> Result<(Arc<Device>, Vec<Arc<TensorRtEngine>>), BackendError> {
    let settings = Settings::from_environment();
    let open = |network: &NetworkFile| TensorRtEngine::open(&settings, network).map(Arc::new);
    let engines = networks(plan).and_then(|networks| networks.iter().map(open).collect());
    let engines = engines.map_err(|error: TensorRtError| not_available(error.to_string()))?;
    let device = Device::open().map_err(|error| not_available(error.to_string()))?;
    Ok((Arc::new(device), engines))
}

/// An engine that passed every step of a probe.
pub struct TensorRtEngine {
    loaded: Loaded,
}

impl TensorRtEngine {
    /// Finds, opens and warms up the engine of a network.
    pub fn open(settings: &Settings, network: &NetworkFile) -> Result<Self, TensorRtError> {
        let loaded = probe(settings, Some(network)).result?;
        Ok(Self { loaded: loaded.expect("a network was given") })
    }

    fn describe(&self) -> String {
        let key = &self.loaded.sidecar.key;
        let flavour = key.flavour.to_string().to_lowercase();
        format!("{flavour} {} ({})", key.version, key.precision.name())
    }

    fn placed(&self) -> Result<Placed, SegmentError> {
        let Loaded { engine, compiled, ends, .. } = &self.loaded;
        Placed::new(engine, compiled, ends).map_err(|error| lost(&error))
    }
}

impl DeviceEngine for TensorRtEngine {
    fn name(&self) -> String {
        self.describe()
    }

    fn input(&self) -> DeviceTensor {
        only(&self.loaded.ends.inputs)
    }

    fn output(&self) -> DeviceTensor {
        only(&self.loaded.ends.outputs)
    }

    fn workspace_bytes(&self) -> usize {
        self.loaded.engine.context_bytes()
    }

    fn segmenter(&self) -> Result<Box<dyn DeviceSegmenter>, SegmentError> {
        Ok(Box::new(self.placed()?))
    }
}

impl ColumnEngine for TensorRtEngine {
    fn name(&self) -> String {
        self.describe()
    }

    fn workspace_bytes(&self) -> usize {
        self.loaded.engine.context_bytes()
    }

    fn accepts(&self, inputs: &[[usize; 4]]) -> bool {
        self.loaded.ends.run_of(inputs).is_some()
    }

    fn column(&self, _: &[usize], _: &[usize]) -> Result<Box<dyn Column>, SegmentError> {
        Ok(Box::new(self.placed()?))
    }
}

/// The one tensor of a network that has one shape.
fn only(entries: &[TensorEntry]) -> DeviceTensor {
    let shape = entries.first().and_then(|entry| entry.shapes.first()).copied().unwrap_or_default();
    DeviceTensor {
        shape: shape.map(|length| usize::try_from(length).unwrap_or_default()),
        element: Element::F32,
    }
}

/// A context that cannot take an address or a launch is of no use any more; TensorRT does not say which failures would
/// go away with the next frame.
fn lost(error: &TensorRtError) -> SegmentError {
    SegmentError::Device(error.to_string())
}

/// One frame in flight.
struct Placed {
    context: Context,
    ends: NetworkEnds,
    /// Which of its runs the context is set to.
    set_to: Option<usize>,
    /// Addresses the context has, inputs first; a slot's seldom change, so they are set when they do.
    addresses: Vec<DeviceAddress>,
}

impl Placed {
    fn new(engine: &Arc<Engine>, compiled: &[u8], ends: &NetworkEnds) -> Result<Self, TensorRtError> {
        let context = Context::new(engine, compiled)?;
        Ok(Self { context, ends: ends.clone(), set_to: None, addresses: Vec::new() })
    }

    /// # Safety
    /// As for [`Column::enqueue`]; the addresses are of all inputs and then of all outputs, in the shapes of `run`.
    unsafe fn run(
        &mut self,
        run: usize,
        addresses: &[DeviceAddress],
        stream: StreamHandle,
    ) -> Result<(), TensorRtError> {
        let stream = stream as u64;
        if self.ends.runs() > 1 && self.set_to != Some(run) {
            // SAFETY: the caller's promise.
            unsafe { self.context.set_run(&self.ends, run, stream)? };
            self.set_to = Some(run);
            self.addresses.clear();
        }
        if self.addresses != addresses {
            let names = self.ends.inputs.iter().chain(&self.ends.outputs).map(|entry| &entry.name);
            for (name, &address) in names.zip(addresses) {
                // SAFETY: the caller's promise; all ends were compared with the engine when it was opened.
                unsafe { self.context.set_address(name, address)? };
            }
            self.addresses = addresses.to_vec();
        }
        // SAFETY: the caller's promise; all addresses are set.
        unsafe { self.context.enqueue(stream) }
    }
}

impl DeviceSegmenter for Placed {
    unsafe fn enqueue(
        &mut self,
        input: DeviceAddress,
        output: DeviceAddress,
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        // SAFETY: the caller's promise; this network has one input, one output and one run.
        unsafe { self.run(0, &[input, output], stream) }.map_err(|error| lost(&error))
    }
}

impl Column for Placed {
    unsafe fn enqueue(
        &mut self,
        inputs: &[TensorAt],
        outputs: &[TensorAt],
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape).collect();
        let run = self.ends.run_of(&shapes).filter(|_| outputs.len() == self.ends.outputs.len());
        let Some(run) = run else {
            return Err(SegmentError::Frame(format!("the engine has no run on inputs of {shapes:?}")));
        };
        let addresses: Vec<_> = inputs.iter().chain(outputs).map(|tensor| tensor.address).collect();
        // SAFETY: the caller's promise.
        unsafe { self.run(run, &addresses, stream) }.map_err(|error| lost(&error))
    }
}
