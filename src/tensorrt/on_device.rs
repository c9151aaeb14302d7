//! A loaded engine as the dense network of the CUDA pipeline: a context for each frame in flight, on its stream.
#![allow(unsafe_code, reason = "hands device addresses and a stream to TensorRT")]

use std::sync::Arc;

use super::engines::{Loaded, probe};
use super::error::TensorRtError;
use super::native::{Context, Engine};
use super::settings::Settings;
use super::tensors::TensorEntry;
use crate::cuda::{
    CudaBackend, Device, DeviceAddress, DeviceEngine, DeviceSegmenter, DeviceTensor, Element, SegmentError,
    StreamHandle,
};
use crate::pipeline::BackendError;
use crate::plan::{Plan, SegmenterPlan};

/// The CUDA pipeline of a plan with its dense network on TensorRT.
pub fn cuda_backend(plan: Plan) -> Result<CudaBackend, BackendError> {
    let not_available = |why: String| BackendError::NotAvailable { backend: "tensorrt", why };
    let engine = TensorRtEngine::open(&Settings::from_environment(), &plan.segmenter);
    let engine = engine.map_err(|error| not_available(error.to_string()))?;
    let device = Device::open().map_err(|error| not_available(error.to_string()))?;
    CudaBackend::with_engine(plan, Arc::new(device), Arc::new(engine), None).map_err(|error| match error {
        BackendError::NotAvailable { why, .. } => not_available(why),
        error => error,
    })
}

/// An engine that passed every step of a probe.
pub struct TensorRtEngine {
    loaded: Loaded,
}

impl TensorRtEngine {
    /// Finds, opens and warms up the engine of a network.
    pub fn open(settings: &Settings, segmenter: &SegmenterPlan) -> Result<Self, TensorRtError> {
        let loaded = probe(settings, Some(segmenter)).result?;
        Ok(Self { loaded: loaded.expect("a network was given") })
    }
}

impl DeviceEngine for TensorRtEngine {
    fn name(&self) -> String {
        let key = &self.loaded.sidecar.key;
        let flavour = key.flavour.to_string().to_lowercase();
        format!("{flavour} {} ({})", key.version, key.precision.name())
    }

    fn input(&self) -> DeviceTensor {
        tensor(&self.loaded.ends.input)
    }

    fn output(&self) -> DeviceTensor {
        tensor(&self.loaded.ends.output)
    }

    fn workspace_bytes(&self) -> usize {
        self.loaded.engine.context_bytes()
    }

    fn segmenter(&self) -> Result<Box<dyn DeviceSegmenter>, SegmentError> {
        let Loaded { engine, compiled, ends, .. } = &self.loaded;
        let segmenter = Segmenter::new(engine, compiled, &ends.input.name, &ends.output.name);
        Ok(Box::new(segmenter.map_err(|error| SegmentError::Device(error.to_string()))?))
    }
}

fn tensor(entry: &TensorEntry) -> DeviceTensor {
    let length = |axis: usize| {
        entry.shape.get(axis).and_then(|&length| usize::try_from(length).ok()).unwrap_or_default()
    };
    DeviceTensor { shape: [length(0), length(1), length(2), length(3)], element: Element::F32 }
}

/// One frame in flight.
struct Segmenter {
    context: Context,
    input: String,
    output: String,
    /// Addresses the context has; a slot's never change, so they are set once.
    addresses: Option<(DeviceAddress, DeviceAddress)>,
}

impl Segmenter {
    fn new(engine: &Arc<Engine>, compiled: &[u8], input: &str, output: &str) -> Result<Self, TensorRtError> {
        let context = Context::new(engine, compiled)?;
        Ok(Self { context, input: input.to_owned(), output: output.to_owned(), addresses: None })
    }
}

impl DeviceSegmenter for Segmenter {
    unsafe fn enqueue(
        &mut self,
        input: DeviceAddress,
        output: DeviceAddress,
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        // A context that cannot take an address or a launch is of no use any more; TensorRT does not say which
        // failures would go away with the next frame.
        let lost = |error: TensorRtError| SegmentError::Device(error.to_string());
        if self.addresses != Some((input, output)) {
            // SAFETY: the caller's promise; both ends were compared with the engine when it was opened.
            unsafe {
                self.context.set_address(&self.input, input).map_err(lost)?;
                self.context.set_address(&self.output, output).map_err(lost)?;
            }
            self.addresses = Some((input, output));
        }
        // SAFETY: the caller's promise; both addresses are set.
        unsafe { self.context.enqueue(stream as u64) }.map_err(lost)
    }
}
