//! When the stages of a frame were done on its stream, and waiting for that without waiting for ever.

use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::device::Device;
use super::error::{CudaError, During};
use crate::types::{FrameReport, Stage};

/// Waits for an event, in short sleeps; a kernel that hangs becomes an error.
pub(super) fn until_done(event: &CudaEvent, deadline: Duration) -> Result<(), CudaError> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(20);
    while !event.try_is_complete().during("waiting for the device")? {
        if start.elapsed() > deadline {
            return Err(CudaError::Hung { seconds: deadline.as_secs() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_micros(500));
    }
    Ok(())
}

/// An event that can be timed.
pub(super) fn new_event(device: &Device) -> Result<CudaEvent, CudaError> {
    device.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).during("an event")
}

/// The events of one frame in flight.
pub(super) struct Timeline {
    begin: CudaEvent,
    done: Vec<CudaEvent>,
    /// Which stages of this frame have recorded their event.
    recorded: Vec<Stage>,
}

impl Timeline {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            begin: new_event(device)?,
            done: Stage::ALL.iter().map(|_| new_event(device)).collect::<Result<_, _>>()?,
            recorded: Vec::with_capacity(Stage::ALL.len()),
        })
    }

    /// Waits for all that was enqueued.
    pub(super) fn drain(&mut self, stream: &CudaStream, deadline: Duration) -> Result<(), CudaError> {
        self.begin.record(stream).during("recording an event")?;
        until_done(&self.begin, deadline)
    }

    /// A frame begins.
    pub(super) fn begin(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        self.recorded.clear();
        self.begin.record(stream).during("recording an event")
    }

    /// A stage ends here.
    pub(super) fn record(&mut self, stage: Stage, stream: &CudaStream) -> Result<(), CudaError> {
        self.done[stage as usize].record(stream).during("recording an event")?;
        self.recorded.push(stage);
        Ok(())
    }

    /// Stages whose events a graph records were launched.
    pub(super) fn launched(&mut self, stages: &[Stage]) {
        self.recorded.extend_from_slice(stages);
    }

    /// What a stage records at its end.
    pub(super) fn done(&self, stage: Stage) -> &CudaEvent {
        &self.done[stage as usize]
    }

    /// Waits for the last stage.
    pub(super) fn wait(&self, deadline: Duration) -> Result<(), CudaError> {
        self.recorded.last().map_or(Ok(()), |&last| until_done(self.done(last), deadline))
    }

    /// Adds what each stage took, the host's part included. The stream must have been waited for.
    pub(super) fn add_times(&self, report: &mut FrameReport) -> Result<(), CudaError> {
        let mut before = &self.begin;
        for &stage in &self.recorded {
            let event = self.done(stage);
            let ms = before.elapsed_ms(event).during("reading an event")?;
            report.stages.add(stage, f64::from(ms));
            before = event;
        }
        Ok(())
    }
}
