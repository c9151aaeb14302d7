//! A camera message on its way from the middleware to a worker: serialized as it came, so that nothing is copied and
//! the live node reads exactly what a replay reads.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::Instant;

use crate::bag::cdr::{ImageMsg, header};
use crate::bag::decode::camera_image;
use crate::bag::topics::ImageKind;
use crate::pipeline::Payload;
use crate::types::{CameraId, Frame, FrameError, PixelFormat, Size, Stamp};

/// One message of an image topic.
pub(super) struct Received {
    camera: CameraId,
    kind: ImageKind,
    cdr: Vec<u8>,
    /// When it came.
    pub(super) at: Instant,
    /// A made-up frame whose labels nobody gets.
    pub(super) warm_up: bool,
    taken: OnceLock<(Instant, f64)>,
}

thread_local! {
    /// Pixels of compressed images, per worker.
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Received {
    pub(super) fn new(camera: CameraId, kind: ImageKind, cdr: Vec<u8>) -> Self {
        Self { camera, kind, cdr, at: Instant::now(), warm_up: false, taken: OnceLock::new() }
    }

    /// A frame to warm up with: a pattern with detail everywhere, so that something is selected and refined.
    pub(super) fn warm_up(camera: CameraId, size: Size) -> Self {
        let mut state = 1u32;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size.pixels() * 3)
        .collect();
        let mut cdr = Vec::with_capacity(data.len() + 64);
        let (encoding, step) = (PixelFormat::Rgb8.encoding(), size.width * 3);
        let stamp = Stamp::default();
        ImageMsg { stamp, frame_id: "", size, encoding, is_bigendian: false, step, data: &data }
            .write(&mut cdr);
        Self { warm_up: true, ..Self::new(camera, ImageKind::Raw, cdr) }
    }

    /// Header of the message. It costs next to nothing, whatever the size of the image.
    pub(super) fn header(&self) -> Result<(Stamp, &str), FrameError> {
        header(&self.cdr)
    }

    /// Checks as much as is possible without decoding, so that a damaged frame replaces no good one.
    pub(super) fn check(&self) -> Result<(), FrameError> {
        match self.kind {
            ImageKind::Raw => camera_image(self.camera, self.kind, &self.cdr, &mut Vec::new()).map(|_| ()),
            ImageKind::Compressed => self.header().map(|_| ()),
        }
    }

    /// When a worker took the frame, and how long decoding it took, ms.
    pub(super) fn taken(&self) -> (Instant, f64) {
        self.taken.get().copied().unwrap_or((self.at, 0.0))
    }
}

impl Payload for Received {
    fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R {
        let start = Instant::now();
        DECODED.with_borrow_mut(|decoded| {
            let image = camera_image(self.camera, self.kind, &self.cdr, decoded);
            self.taken.get_or_init(|| (start, start.elapsed().as_secs_f64() * 1e3));
            use_frame(image.map(|image| image.frame))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_frame_is_a_sound_frame() {
        let frame = Received::warm_up(CameraId(1), Size::new(6, 4));
        frame.check().unwrap();
        assert_eq!(frame.header().unwrap(), (Stamp::default(), ""));
        frame.with_frame(|frame| assert_eq!(frame.unwrap().data.len(), 6 * 4 * 3));
        assert!(frame.taken().0 >= frame.at);
    }

    #[test]
    fn damage_is_found_before_the_frame_waits() {
        fn reason(encoding: &str, data: &[u8]) -> &'static str {
            let (stamp, size) = (Stamp::default(), Size::new(4, 4));
            let image =
                ImageMsg { stamp, frame_id: "cam", size, encoding, is_bigendian: false, step: 12, data };
            let mut cdr = Vec::new();
            image.write(&mut cdr);
            Received::new(CameraId(0), ImageKind::Raw, cdr).check().unwrap_err().reason()
        }
        assert_eq!(reason("rgb8", &[0; 47]), "short_data");
        assert_eq!(reason("rgb16", &[0; 48]), "unknown_encoding");
        let torn = Received::new(CameraId(0), ImageKind::Compressed, vec![0, 1, 0, 0, 9]);
        assert_eq!(torn.check().unwrap_err().reason(), "damaged_message");
    }
}
