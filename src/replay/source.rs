//! The recorded images as payloads of the pipeline, and the damage met on the way.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::bag::cdr::header;
use crate::bag::decode::camera_image;
use crate::bag::topics::{CameraTopics, ImageKind};
use crate::bag::{Bag, BagError, Messages};
use crate::cpu::pixels::to_rgb8;
use crate::pipeline::Payload;
use crate::types::{CameraId, Frame, FrameError, Size, Stamp};

/// A bag that reports more damage than this is not read any further.
const DAMAGE_LIMIT: usize = 1000;

/// Topics of one camera.
#[derive(Clone, Debug)]
pub(super) struct Camera {
    pub(super) topic: String,
    pub(super) kind: ImageKind,
    pub(super) label: Option<(String, ImageKind)>,
}

impl From<CameraTopics> for Camera {
    fn from(topics: CameraTopics) -> Self {
        let CameraTopics { image, label } = topics;
        Self { topic: image.name, kind: image.kind, label: label.map(|label| (label.name, label.kind)) }
    }
}

/// One recorded message with an image in it.
pub(super) struct Recorded {
    camera: CameraId,
    kind: ImageKind,
    pub(super) log_time_ns: i64,
    cdr: Result<Vec<u8>, FrameError>,
    /// How long the first decoding took.
    decode_ms: Cell<Option<f64>>,
}

thread_local! {
    /// Pixels of the compressed image at hand. One a thread: workers keep theirs from frame to frame.
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Recorded {
    /// Header stamp and frame of the message, where they can be read.
    pub(super) fn header(&self) -> Option<(Stamp, &str)> {
        header(self.cdr.as_ref().ok()?).ok()
    }

    /// Header frame of the message; empty where it cannot be read.
    pub(super) fn frame_id(&self) -> &str {
        self.header().map_or("", |(_, frame_id)| frame_id)
    }

    /// Header stamp of the message; the time of the recording where it cannot be read.
    pub(super) fn stamp(&self) -> Stamp {
        self.header().map_or_else(|| Stamp::from_nanos(self.log_time_ns), |(stamp, _)| stamp)
    }

    /// Milliseconds that decoding took: next to none for a raw image.
    pub(super) fn decode_ms(&self) -> f64 {
        self.decode_ms.get().unwrap_or(0.0)
    }

    /// The image in RGB, for a picture. Empty where there is none.
    pub(super) fn rgb(&self, size: Size) -> Vec<u8> {
        self.with_frame(|frame| match frame {
            Ok(frame) if frame.size == size => {
                let mut rgb = vec![0; size.pixels() * 3];
                to_rgb8(&frame, &mut rgb);
                rgb
            }
            _ => Vec::new(),
        })
    }
}

impl Payload for Recorded {
    fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R {
        let cdr = match &self.cdr {
            Ok(cdr) => cdr,
            Err(error) => return use_frame(Err(error.clone())),
        };
        DECODED.with_borrow_mut(|scratch| {
            let (span, start) = (tracing::info_span!("decode").entered(), Instant::now());
            let image = camera_image(self.camera, self.kind, cdr, scratch);
            drop(span);
            if self.decode_ms.get().is_none() {
                self.decode_ms.set(Some(start.elapsed().as_secs_f64() * 1e3));
            }
            use_frame(image.map(|image| image.frame))
        })
    }
}

/// Walks over the image messages of a bag, past damage.
pub(super) struct Source {
    messages: Messages,
    kinds: Vec<ImageKind>,
    damage: Arc<Mutex<Vec<String>>>,
}

impl Source {
    pub(super) fn open(bag: &Bag, cameras: &[Camera]) -> Result<Self, BagError> {
        let topics: Vec<&str> = cameras.iter().map(|camera| camera.topic.as_str()).collect();
        let kinds = cameras.iter().map(|camera| camera.kind).collect();
        Ok(Self { messages: bag.messages(&topics)?, kinds, damage: Arc::default() })
    }

    /// What was found damaged so far, a sentence each; shared, since the walk moves to its own thread.
    pub(super) fn damage(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.damage)
    }
}

impl Iterator for Source {
    type Item = (CameraId, Recorded);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.messages.read() {
                Ok(Some(message)) => {
                    let camera = CameraId(message.topic as u16);
                    let recorded = Recorded {
                        camera,
                        kind: self.kinds[message.topic],
                        log_time_ns: message.log_time_ns,
                        cdr: message.cdr.map(<[u8]>::to_vec),
                        decode_ms: Cell::new(None),
                    };
                    return Some((camera, recorded));
                }
                Ok(None) => return None,
                Err(error) => {
                    tracing::info!("{error}");
                    let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
                    damage.push(error.to_string());
                    if damage.len() >= DAMAGE_LIMIT {
                        return None;
                    }
                }
            }
        }
    }
}
