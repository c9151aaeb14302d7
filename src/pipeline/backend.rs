//! The one seam: what a backend does for a frame, stage by stage.

use crate::types::{Frame, FrameError, FrameReport, LabelImage, Size};

/// Most pixels of a frame that may be refined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBudget(pub u32);

/// What is wanted of a frame beside its labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The labels as they were before refinement.
    pub coarse: bool,
    /// The entropy of every cell.
    pub entropy: bool,
    /// Which pixels were refined.
    pub refined: bool,
}

/// Buffers a finished frame is written to. Reused from frame to frame.
#[derive(Debug, Default)]
pub struct FrameOutputs {
    /// Final labels at camera resolution.
    pub labels: LabelImage,
    /// Labels before refinement; empty unless asked for.
    pub coarse: LabelImage,
    /// Size of `entropy`.
    pub entropy_size: Size,
    /// Entropy in nats of each cell of the selection grid, row-major; empty unless asked for.
    pub entropy: Vec<f32>,
    /// 255 where the refiner saw the pixel, else 0; empty unless asked for.
    pub refined: LabelImage,
}

/// Why a stage did not finish.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// This frame gives no labels; the stream goes on.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The device is gone; nothing runs any more.
    #[error("the device was lost in stage {stage}: {why}")]
    DeviceLost {
        /// Stage that noticed.
        stage: &'static str,
        /// The device's own words.
        why: String,
    },
}

/// Why a backend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It is not there, or not in this build.
    #[error("backend {backend} is not available: {why}")]
    NotAvailable {
        /// The backend asked for.
        backend: &'static str,
        /// The step that failed and what to do.
        why: String,
    },
    /// A file of the bundle cannot be used by it.
    #[error("{0}")]
    Model(String),
    /// The machine cannot hold what the plan needs.
    #[error("{0}")]
    Resources(String),
}

/// A way to run the frame's path. Device memory never leaves it.
///
/// The stages of one slot are called in the order of [`super::process`]; different slots run side by side.
pub trait Backend: Sync {
    /// Every buffer one frame in flight owns. Made once per size, at start-up or when the size changes.
    type Slot: Send;

    /// Changes the entropy threshold, in nats, for frames not yet selected. The plan's holds until then.
    fn set_alpha(&self, alpha: f32);
    /// A slot for camera images of one size.
    fn slot(&self, camera: Size) -> Result<Self::Slot, StageError>;
    /// Takes the camera image over; the frame's bytes are not needed afterwards.
    fn upload(&self, slot: &mut Self::Slot, frame: &Frame<'_>) -> Result<(), StageError>;
    /// Low-resolution input, dense network, logits on the selection grid.
    fn segment(&self, slot: &mut Self::Slot) -> Result<(), StageError>;
    /// Base labels everywhere, and the sites to refine: entropy above alpha, highest first within the budget.
    fn select(&self, slot: &mut Self::Slot, budget: PixelBudget) -> Result<(), StageError>;
    /// The sparse network at the sites.
    fn refine(&self, slot: &mut Self::Slot) -> Result<(), StageError>;
    /// Gate, argmax and scatter into the base labels.
    fn fuse(&self, slot: &mut Self::Slot) -> Result<(), StageError>;
    /// Waits for the slot, then hands out labels and what the frame cost.
    fn finish(
        &self,
        slot: &mut Self::Slot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError>;
}
