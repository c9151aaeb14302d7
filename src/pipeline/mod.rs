//! The frame's path: stage order, slots, admission, and the pixel budget. Knows backends by their trait only.

mod backend;
mod budget;
#[cfg(feature = "fault-injection")]
pub mod faults;
mod mailbox;
mod run;
mod stamps;

pub use backend::{Backend, BackendError, Extras, FrameOutputs, PixelBudget, StageError};
pub use budget::{BudgetState, DeadlineBudget};
pub use mailbox::{Admission, Mailboxes};
#[cfg(feature = "ros")]
pub(crate) use run::CloseOnDrop;
pub use run::{Outcome, Payload, RunError, RunSettings, Wanted, run, serve};
pub use stamps::{StampGaps, Step};

use crate::types::{Frame, Mode};

/// Runs one frame through a slot, up to the point where only [`Backend::finish`] is left.
pub fn process<B: Backend>(
    backend: &B,
    slot: &mut B::Slot,
    frame: &Frame<'_>,
    mode: Mode,
    budget: PixelBudget,
) -> Result<(), StageError> {
    process_within(backend, slot, frame, mode, || budget)
}

/// The same, asking for the budget when the coarse labels are there and only the refinement is left to bound.
pub fn process_within<B: Backend>(
    backend: &B,
    slot: &mut B::Slot,
    frame: &Frame<'_>,
    mode: Mode,
    budget: impl FnOnce() -> PixelBudget,
) -> Result<(), StageError> {
    backend.upload(slot, frame)?;
    backend.segment(slot)?;
    backend.select(slot, budget())?;
    if mode == Mode::Refined {
        backend.refine(slot)?;
        backend.fuse(slot)?;
    }
    Ok(())
}
