//! The same functions for a build without TensorRT: each says so.

use std::path::Path;
use std::sync::Arc;

use super::build_options::{BuildOptions, Plan, Progress};
use super::device::Device;
use super::error::TensorRtError;
use super::tensors::{EngineTensor, NetworkEnds};
use super::version::{Flavour, Version};

/// There is none in this build.
pub enum Library {}
/// There is none in this build.
pub enum Runtime {}
/// There is none in this build.
pub enum Engine {}
/// There is none in this build.
pub enum Context {}

/// The version of the headers this build was compiled with.
pub fn built_for() -> Option<(Flavour, Version)> {
    None
}

/// The device with this number, as CUDA counts them.
pub fn device(_ordinal: usize) -> Result<Device, TensorRtError> {
    Err(TensorRtError::NotInBuild)
}

/// Makes the primary context of a device the calling thread's own.
pub fn make_current(_ordinal: usize) -> Result<(), TensorRtError> {
    Err(TensorRtError::NotInBuild)
}

/// Runs the engine once.
pub fn warm_up(
    engine: &Arc<Engine>,
    _ends: &NetworkEnds,
    _compiled: &[u8],
) -> Result<Option<Vec<u8>>, TensorRtError> {
    match **engine {}
}

/// Builds an engine.
pub fn build(
    library: &Arc<Library>,
    _onnx: &[u8],
    _path: &Path,
    _options: &BuildOptions<'_>,
    _progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Plan, TensorRtError> {
    match **library {}
}

impl Library {
    /// Opens the runtime library.
    pub fn open(_configured: Option<&Path>) -> Result<Self, TensorRtError> {
        Err(TensorRtError::NotInBuild)
    }

    /// Full TensorRT or TensorRT-RTX.
    pub fn flavour(&self) -> Flavour {
        match *self {}
    }

    /// Its own version.
    pub fn version(&self) -> Version {
        match *self {}
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        match *self {}
    }
}

impl Runtime {
    /// Starts TensorRT.
    pub fn new(library: &Arc<Library>) -> Result<Self, TensorRtError> {
        match **library {}
    }
}

impl Engine {
    /// Opens a serialised engine.
    pub fn open(runtime: &Arc<Runtime>, _plan: &[u8]) -> Result<Self, TensorRtError> {
        match **runtime {}
    }

    /// Device memory that each context takes for itself.
    pub fn context_bytes(&self) -> usize {
        match *self {}
    }

    /// Its inputs and outputs.
    pub fn tensors(&self) -> Vec<EngineTensor> {
        match *self {}
    }
}

impl Context {
    /// Makes a context.
    pub fn new(engine: &Arc<Engine>, _compiled: &[u8]) -> Result<Self, TensorRtError> {
        match **engine {}
    }

    /// Says where a tensor is in device memory.
    ///
    /// # Safety
    /// As in a build with TensorRT.
    #[allow(unsafe_code, reason = "the same function as in a build with TensorRT")]
    pub unsafe fn set_address(&mut self, _tensor: &str, _address: u64) -> Result<(), TensorRtError> {
        match *self {}
    }

    /// Chooses the run that is enqueued next.
    ///
    /// # Safety
    /// As in a build with TensorRT.
    #[allow(unsafe_code, reason = "the same function as in a build with TensorRT")]
    pub unsafe fn set_run(
        &mut self,
        _ends: &NetworkEnds,
        _run: usize,
        _stream: u64,
    ) -> Result<(), TensorRtError> {
        match *self {}
    }

    /// Puts the network on a stream.
    ///
    /// # Safety
    /// As in a build with TensorRT.
    #[allow(unsafe_code, reason = "the same function as in a build with TensorRT")]
    pub unsafe fn enqueue(&mut self, _stream: u64) -> Result<(), TensorRtError> {
        match *self {}
    }

    /// What was compiled for this device.
    pub fn compiled(&self) -> Option<Vec<u8>> {
        match *self {}
    }
}
