//! The subscriptions of an active node. Messages are taken serialized, as soon as they come, and left in the mailboxes.

use std::sync::atomic::Ordering::Relaxed;

use futures::StreamExt;
use futures::stream::BoxStream;
use r2r::{Node, QosProfile};

use super::camera::{Camera, lock};
use super::engine::Engine;
use super::parameters::Settings;
use super::received::Received;
use super::services::next;
use crate::bag::topics::ImageKind;
use crate::pipeline::{StampGaps, Step};
use crate::types::{CameraId, FrameError};

/// Every camera's subscriptions; dropping them unsubscribes.
pub(super) struct Inputs {
    kind: ImageKind,
    cameras: Vec<CameraInput>,
}

struct CameraInput {
    images: BoxStream<'static, Vec<u8>>,
    infos: BoxStream<'static, Vec<u8>>,
    gaps: StampGaps,
}

impl Inputs {
    pub(super) fn subscribe(node: &mut Node, settings: &Settings) -> r2r::Result<Self> {
        let (kind, suffix, type_name) = if settings.compressed_input {
            (ImageKind::Compressed, "/compressed", "sensor_msgs/msg/CompressedImage")
        } else {
            (ImageKind::Raw, "", "sensor_msgs/msg/Image")
        };
        let newest = || QosProfile::default().keep_last(1).volatile();
        let image_qos = || if settings.reliable_input { newest().reliable() } else { newest().best_effort() };
        let mut cameras = Vec::new();
        for camera in &settings.cameras {
            let image = format!("~/input/{camera}/image{suffix}");
            let images = node.subscribe_raw(&image, type_name, image_qos())?.boxed();
            let info = format!("~/input/{camera}/camera_info");
            let infos =
                node.subscribe_raw(&info, "sensor_msgs/msg/CameraInfo", newest().best_effort())?.boxed();
            cameras.push(CameraInput { images, infos, gaps: StampGaps::default() });
        }
        Ok(Self { kind, cameras })
    }

    /// Leaves what came in the mailboxes. Returns what is worth a line in the log.
    pub(super) fn take(&mut self, engine: &Engine) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, input) in self.cameras.iter_mut().enumerate() {
            let camera = &engine.cameras[index];
            if let Some(info) = next(&mut input.infos) {
                *lock(&camera.info) = info;
            }
            while let Some(cdr) = next(&mut input.images) {
                camera.received.fetch_add(1, Relaxed);
                let received = Received::new(CameraId(index as u16), self.kind, cdr);
                if let Err(error) = admit(camera, &mut input.gaps, &received) {
                    camera.reject(&error);
                    // The first of each kind, then ever more rarely: a broken driver must not fill the log.
                    let count = camera.rejections().get(error.reason()).map_or(0, |(count, _)| *count);
                    if count.is_power_of_two() {
                        problems.push(format!("camera {}: {count} rejected, {error}", camera.name));
                    }
                    continue;
                }
                // Refused only once the engine is closing.
                let _ = engine.mailboxes.put(CameraId(index as u16), received);
            }
        }
        problems
    }
}

/// Checks a frame and notes what its stamp says of those before it.
fn admit(camera: &Camera, gaps: &mut StampGaps, received: &Received) -> Result<(), FrameError> {
    let (stamp, _) = received.header()?;
    match gaps.step(stamp) {
        Step::Forward(missing) => camera.stamp_gaps.fetch_add(missing, Relaxed),
        Step::Backward => camera.time_jumps.fetch_add(1, Relaxed),
    };
    received.check()
}
