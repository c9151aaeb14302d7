//! A slot's launches as one CUDA graph: recorded once, launched for every frame after.
//!
//! What is recorded has fixed addresses and shapes and waits for nothing; what changes from frame to frame lies in the
//! slot's page-locked memory.
#![allow(unsafe_code, reason = "graphs by handle")]

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use super::error::{CudaError, During};

/// How far a slot has come on the way to its graph.
#[derive(Debug, Default)]
pub(super) enum GraphState {
    /// No frame has passed.
    #[default]
    Cold,
    /// The kernels have run once.
    Warm,
    Recorded(Graph),
    /// The driver would not record it.
    Refused,
}

/// A graph ready to launch.
#[derive(Debug)]
pub(super) struct Graph {
    exec: sys::CUgraphExec,
    context: Arc<CudaContext>,
}

// SAFETY: a graph is launched by one thread at a time, whichever holds the slot.
unsafe impl Send for Graph {}

/// A stream whose work is being written down.
pub(super) struct Recording<'a>(&'a CudaStream);

impl Recording<'_> {
    /// The event is recorded here whenever the graph runs.
    pub(super) fn mark(&self, event: &CudaEvent) -> Result<(), CudaError> {
        let external = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: a live event and stream.
        unsafe { sys::cuEventRecordWithFlags(event.cu_event(), self.0.cu_stream(), external) }
            .result()
            .during("recording an event in a graph")
    }
}

impl Graph {
    /// Writes down what `enqueue` enqueues on the stream. Nothing of it runs.
    pub(super) fn record(
        stream: &CudaStream,
        enqueue: impl FnOnce(&Recording<'_>) -> Result<(), CudaError>,
    ) -> Result<Self, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a live stream, whose capture ends below on the same thread whatever happens.
        unsafe { result::stream::begin_capture(stream.cu_stream(), mode) }.during("recording a graph")?;
        let enqueued = enqueue(&Recording(stream));
        // SAFETY: as above.
        let ended = unsafe { result::stream::end_capture(stream.cu_stream()) };
        enqueued?;
        let graph = ended.during("recording a graph")?;
        // SAFETY: a live graph, destroyed once; the executable one does not need it.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec.during("instantiating a graph")?
        };
        Ok(Self { exec, context: stream.context().clone() })
    }

    /// Enqueues all of it.
    pub(super) fn launch(&self, stream: &CudaStream) -> Result<(), CudaError> {
        // SAFETY: both live; buffers and events of the recorded work belong to the slot that holds this graph.
        unsafe { result::graph::launch(self.exec, stream.cu_stream()) }.during("launching a graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: destroyed once; the driver keeps what a launch under way still needs.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}
