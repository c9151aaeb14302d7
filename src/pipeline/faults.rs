//! [feature `fault-injection`] A device that fails when it is told to, for tests of what the program does then. No
//! product is built with it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Backend, Extras, FrameOutputs, PixelBudget, StageError};
use crate::types::{Frame, FrameReport, Size};

/// What to fail with and when: `KIND:N` fails at the N-th frame, warm-up included. KIND is `lost`, the device is gone;
/// `hang`, it never answers; or `panic`, a bug.
pub const VARIABLE: &str = "SPARSE_REFINE_FAULT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lost,
    Hang,
    Panic,
}

/// Another backend, until its time has come.
pub struct Faulty<'a, B> {
    backend: &'a B,
    fault: Option<(Fault, u64)>,
    frames: AtomicU64,
}

impl<'a, B: Backend> Faulty<'a, B> {
    /// Reads [`VARIABLE`]; unset or not understood, nothing fails.
    pub fn from_environment(backend: &'a B) -> Self {
        let fault = std::env::var(VARIABLE).ok().and_then(|text| parse(&text));
        Self { backend, fault, frames: AtomicU64::new(0) }
    }
}

fn parse(text: &str) -> Option<(Fault, u64)> {
    let (kind, frame) = text.split_once(':')?;
    let kind = match kind {
        "lost" => Fault::Lost,
        "hang" => Fault::Hang,
        "panic" => Fault::Panic,
        _ => return None,
    };
    Some((kind, frame.parse().ok()?))
}

impl<B: Backend> Backend for Faulty<'_, B> {
    type Slot = B::Slot;

    fn set_alpha(&self, alpha: f32) {
        self.backend.set_alpha(alpha);
    }

    fn slot(&self, camera: Size) -> Result<B::Slot, StageError> {
        self.backend.slot(camera)
    }

    fn upload(&self, slot: &mut B::Slot, frame: &Frame<'_>) -> Result<(), StageError> {
        let now = self.frames.fetch_add(1, Relaxed) + 1;
        match self.fault {
            Some((Fault::Lost, at)) if now == at => {
                Err(StageError::DeviceLost { stage: "upload", why: format!("as {VARIABLE} says") })
            }
            Some((Fault::Hang, at)) if now == at => loop {
                std::thread::park();
            },
            Some((Fault::Panic, at)) if now == at => panic!("as {VARIABLE} says"),
            _ => self.backend.upload(slot, frame),
        }
    }

    fn segment(&self, slot: &mut B::Slot) -> Result<(), StageError> {
        self.backend.segment(slot)
    }

    fn select(&self, slot: &mut B::Slot, budget: PixelBudget) -> Result<(), StageError> {
        self.backend.select(slot, budget)
    }

    fn refine(&self, slot: &mut B::Slot) -> Result<(), StageError> {
        self.backend.refine(slot)
    }

    fn fuse(&self, slot: &mut B::Slot) -> Result<(), StageError> {
        self.backend.fuse(slot)
    }

    fn finish(
        &self,
        slot: &mut B::Slot,
        extras: Extras,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        self.backend.finish(slot, extras, outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_by_kind_and_frame() {
        assert_eq!(parse("lost:3"), Some((Fault::Lost, 3)));
        assert_eq!(parse("hang:1"), Some((Fault::Hang, 1)));
        for text in ["", "lost", "lost:", "melt:2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
