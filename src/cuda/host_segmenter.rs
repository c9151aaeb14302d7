//! The ONNX engine of the host as a device segmenter: input down, network on the CPU, logits up.
//!
//! For machines without TensorRT, and for tests. It waits for the stream in the middle of a frame, as it must.
#![allow(unsafe_code, reason = "device addresses")]

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::memory::{Allocator, Pinned};
use super::segmenter::{
    DeviceAddress, DeviceEngine, DeviceSegmenter, DeviceTensor, Element, SegmentError, StreamHandle,
};
use crate::onnx::Segmenter;

/// The network on the host, shared by all slots.
pub(super) struct HostEngine {
    segmenter: Arc<Segmenter>,
    context: Arc<CudaContext>,
}

impl HostEngine {
    pub(super) fn new(segmenter: Segmenter, context: Arc<CudaContext>) -> Self {
        Self { segmenter: Arc::new(segmenter), context }
    }
}

impl DeviceEngine for HostEngine {
    fn name(&self) -> String {
        format!("onnx ({}) on the host", self.segmenter.engine().name())
    }

    fn input(&self) -> DeviceTensor {
        let size = self.segmenter.spec().size;
        DeviceTensor { shape: [1, 3, size.height as usize, size.width as usize], element: Element::F32 }
    }

    fn output(&self) -> DeviceTensor {
        let (spec, size) = (self.segmenter.spec(), self.segmenter.spec().logit_size());
        // `Segmenter::run` keeps the classes only.
        let shape = [1, spec.classes, size.height as usize, size.width as usize];
        DeviceTensor { shape, element: Element::F32 }
    }

    fn workspace_bytes(&self) -> usize {
        0
    }

    fn segmenter(&self) -> Result<Box<dyn DeviceSegmenter>, SegmentError> {
        let mut allocator = Allocator::new(&self.context);
        let device = |error: super::CudaError| SegmentError::Device(error.to_string());
        Ok(Box::new(HostSegmenter {
            segmenter: self.segmenter.clone(),
            input: allocator.pinned(self.input().len(), false).map_err(device)?,
            output: allocator.pinned(self.output().len(), true).map_err(device)?,
            logits: Vec::new(),
        }))
    }
}

/// One frame's way through the host.
struct HostSegmenter {
    segmenter: Arc<Segmenter>,
    input: Pinned<f32>,
    output: Pinned<f32>,
    logits: Vec<f32>,
}

impl DeviceSegmenter for HostSegmenter {
    unsafe fn enqueue(
        &mut self,
        input: DeviceAddress,
        output: DeviceAddress,
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        let stream: sys::CUstream = stream.cast();
        let device = |error: cudarc::driver::DriverError| SegmentError::Device(error.to_string());
        // SAFETY: the caller vouches for the address; the pinned buffer is as long as the tensor and is not touched before
        // the stream has been waited for.
        unsafe {
            result::memcpy_dtoh_async(self.input.as_mut_slice(), input, stream).map_err(device)?;
            result::stream::synchronize(stream).map_err(device)?;
        }
        let run = self.segmenter.run(self.input.as_slice(), &mut self.logits);
        run.map_err(|why| SegmentError::Frame(why.to_string()))?;
        // The copy of the frame before has been done since the wait above.
        self.output.as_mut_slice().copy_from_slice(&self.logits);
        // SAFETY: as above for the output tensor.
        unsafe { result::memcpy_htod_async(output, self.output.as_slice(), stream).map_err(device) }
    }
}
