//! What is known of one camera: counters that all threads add to, and its newest frame.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::types::FrameError;

/// Shared by the receiving, computing and publishing threads. Counts since the node was configured.
pub(super) struct Camera {
    /// Part of its topics' names.
    pub(super) name: String,
    pub(super) received: AtomicU64,
    pub(super) labelled: AtomicU64,
    pub(super) rejected: AtomicU64,
    /// Frames missing from the input, by its stamps.
    pub(super) stamp_gaps: AtomicU64,
    /// Stamps that went backwards.
    pub(super) time_jumps: AtomicU64,
    /// Bit `n` set: somebody subscribes to [`super::outputs::Extra`] number `n`, and it is offered.
    pub(super) wanted: AtomicU8,
    /// The newest camera_info message, serialized; empty before the first.
    pub(super) info: Mutex<Vec<u8>>,
    rejections: Mutex<BTreeMap<&'static str, (u64, String)>>,
    last: Mutex<Option<Last>>,
}

/// The newest labelled frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) at: Instant,
    /// The last that kept to the time allowed, or the first.
    pub(super) in_time: Instant,
    pub(super) latency_ms: f64,
    pub(super) age_ms: f64,
    pub(super) preprocess_ms: f64,
    pub(super) inference_ms: f64,
    pub(super) postprocess_ms: f64,
    pub(super) pixels_refined: u32,
    pub(super) pixels_dropped: u32,
    pub(super) coarse_only: bool,
}

impl Camera {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            received: AtomicU64::new(0),
            labelled: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            stamp_gaps: AtomicU64::new(0),
            time_jumps: AtomicU64::new(0),
            wanted: AtomicU8::new(0),
            info: Mutex::default(),
            rejections: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// Counts a frame that gave no labels.
    pub(super) fn reject(&self, error: &FrameError) {
        let mut rejections = lock(&self.rejections);
        let (count, text) = rejections.entry(error.reason()).or_default();
        *count += 1;
        *text = error.to_string();
        drop(rejections);
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Rejected frames by reason, with the newest one's message.
    pub(super) fn rejections(&self) -> BTreeMap<&'static str, (u64, String)> {
        lock(&self.rejections).clone()
    }

    /// Notes a labelled frame.
    pub(super) fn label(&self, mut last: Last, allowed_ms: f64) {
        let mut slot = lock(&self.last);
        if last.latency_ms > allowed_ms
            && let Some(before) = &*slot
        {
            last.in_time = before.in_time;
        }
        *slot = Some(last);
        drop(slot);
        self.labelled.fetch_add(1, Relaxed);
    }

    pub(super) fn last(&self) -> Option<Last> {
        *lock(&self.last)
    }
}

/// What the mutexes here hold is whole whenever they are free.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_keep_their_reason_and_newest_message() {
        let camera = Camera::new("front");
        camera.reject(&FrameError::UnknownEncoding { encoding: "a".into() });
        camera.reject(&FrameError::UnknownEncoding { encoding: "b".into() });
        let (count, text) = camera.rejections()["unknown_encoding"].clone();
        assert_eq!((count, camera.rejected.load(Relaxed)), (2, 2));
        assert!(text.contains("`b`"));
    }

    #[test]
    fn late_frames_keep_the_moment_of_the_last_in_time() {
        let camera = Camera::new("front");
        let at = Instant::now();
        let frame = |latency_ms| {
            let now = Instant::now();
            Last {
                at: now,
                in_time: now,
                latency_ms,
                age_ms: 0.0,
                preprocess_ms: 0.0,
                inference_ms: 0.0,
                postprocess_ms: 0.0,
                pixels_refined: 0,
                pixels_dropped: 0,
                coarse_only: false,
            }
        };
        camera.label(frame(5.0), 10.0);
        let first = camera.last().unwrap().in_time;
        camera.label(frame(50.0), 10.0);
        assert_eq!(camera.last().unwrap().in_time, first);
        camera.label(frame(5.0), 10.0);
        assert!(camera.last().unwrap().in_time > first && first >= at);
    }
}
