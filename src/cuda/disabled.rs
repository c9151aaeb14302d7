//! CUDA in a build without it: the same names, nothing that can be made.

#[path = "footprint.rs"]
mod footprint;
#[path = "precision.rs"]
mod precision;

pub use footprint::Footprint;
pub use precision::Precision;

use crate::pipeline::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
use crate::plan::Plan;
use crate::types::{Frame, FrameReport, Size};

/// What every function here answers.
const WHY: &str = "CUDA is not in this build: rebuild with `--features cuda`";

/// A backend nobody can have.
pub enum CudaBackend {}

impl Footprint {
    /// Says how to get it.
    pub fn new(_: &Plan, _: Size, _: Precision) -> Result<Self, BackendError> {
        Err(BackendError::NotAvailable { backend: "cuda", why: WHY.to_owned() })
    }
}

/// The same for the method `spatial_sparsity`.
pub type CudaTileBackend = CudaBackend;

/// A slot nobody can have.
pub enum CudaSlot {}

/// Nothing of a driver matters to this build.
pub fn has_driver() -> bool {
    false
}

/// Whether CUDA works here, in one sentence.
pub fn state() -> (bool, String) {
    (false, WHY.to_owned())
}

impl CudaBackend {
    /// Says how to get it.
    pub fn new(_: Plan) -> Result<Self, BackendError> {
        Err(BackendError::NotAvailable { backend: "cuda", why: WHY.to_owned() })
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        match *self {}
    }

    /// How the sparse network computes.
    pub fn precision(&self) -> Precision {
        match *self {}
    }

    /// What runs the dense network.
    pub fn engine_name(&self) -> String {
        match *self {}
    }
}

impl Backend for CudaBackend {
    type Slot = CudaSlot;

    fn set_alpha(&self, _: f32) {
        match *self {}
    }

    fn slot(&self, _: Size) -> Result<CudaSlot, StageError> {
        match *self {}
    }

    fn upload(&self, _: &mut CudaSlot, _: &Frame<'_>) -> Result<(), StageError> {
        match *self {}
    }

    fn segment(&self, _: &mut CudaSlot) -> Result<(), StageError> {
        match *self {}
    }

    fn select(&self, _: &mut CudaSlot, _: PixelBudget) -> Result<(), StageError> {
        match *self {}
    }

    fn refine(&self, _: &mut CudaSlot) -> Result<(), StageError> {
        match *self {}
    }

    fn fuse(&self, _: &mut CudaSlot) -> Result<(), StageError> {
        match *self {}
    }

    fn finish(&self, _: &mut CudaSlot, _: Extras, _: &mut FrameOutputs) -> Result<FrameReport, StageError> {
        match *self {}
    }
}
