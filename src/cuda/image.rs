//! The camera image on its way to packed RGB.

use super::error::CudaError;
use super::launch::Launcher;
use super::memory::{Allocator, Buffer, Pinned};
use crate::types::{Frame, Size};

/// A camera's image, as it comes and as packed RGB.
pub(super) struct CameraImage {
    pinned: Pinned<u8>,
    bytes: Buffer<u8>,
    pub(super) rgb: Buffer<u8>,
}

impl CameraImage {
    pub(super) fn new(allocator: &mut Allocator, camera: Size) -> Result<Self, CudaError> {
        // The widest format has four bytes a pixel.
        let bytes = 4 * camera.pixels();
        Ok(Self {
            pinned: allocator.pinned(bytes, true)?,
            bytes: allocator.buffer("camera image", bytes)?,
            rgb: allocator.buffer("camera image", camera.pixels() * 3)?,
        })
    }

    /// Copies the rows of a frame, without their padding, to where the device fetches them.
    pub(super) fn fill(&mut self, frame: &Frame<'_>) {
        let row = frame.format.row_bytes(frame.size.width);
        let rows = frame.format.rows(frame.size.height);
        let image = self.pinned.as_mut_slice();
        for (to, from) in image.chunks_exact_mut(row).zip(frame.data.chunks(frame.step)).take(rows) {
            to.copy_from_slice(&from[..row]);
        }
    }

    /// Enqueues the way of the filled image to packed RGB.
    pub(super) fn enqueue(&mut self, launcher: &Launcher<'_>, frame: &Frame<'_>) -> Result<(), CudaError> {
        let row = frame.format.row_bytes(frame.size.width);
        launcher.upload(&self.pinned, &mut self.bytes, row * frame.format.rows(frame.size.height))?;
        launcher.to_rgb8(&self.bytes, &mut self.rgb, frame.size, row, frame.format)
    }
}
