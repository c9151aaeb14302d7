//! Finds the true labels of a frame: the label message of its camera with the same header stamp.

use std::collections::VecDeque;

use super::source::Camera;
use crate::bag::cdr::header;
use crate::bag::decode::label_image;
use crate::bag::topics::ImageKind;
use crate::bag::{Bag, BagError, Messages};
use crate::types::{CameraId, LabelImage, Stamp};

/// How far a label may lie from its image in the recording, in nanoseconds of log time.
const REACH_NS: i64 = 5_000_000_000;
/// Most label messages held while looking for one.
const HELD_PER_CAMERA: usize = 16;
/// Label messages that cannot be read are mentioned this often.
const MENTIONED: usize = 20;

struct Held {
    camera: CameraId,
    stamp: Stamp,
    kind: ImageKind,
    log_time_ns: i64,
    cdr: Vec<u8>,
}

/// Reads the label topics of a bag beside the images, holding only what lies near them.
pub(super) struct Truth {
    messages: Option<Messages>,
    /// Camera and kind of each label topic.
    topics: Vec<(CameraId, ImageKind)>,
    held: VecDeque<Held>,
    damage: Vec<String>,
}

impl Truth {
    pub(super) fn open(bag: &Bag, cameras: &[Camera]) -> Result<Self, BagError> {
        let labelled = cameras.iter().enumerate().filter_map(|(index, camera)| {
            let (topic, kind) = camera.label.as_ref()?;
            Some((topic.clone(), (CameraId(index as u16), *kind)))
        });
        let (names, topics): (Vec<String>, Vec<_>) = labelled.unzip();
        let messages = if names.is_empty() { None } else { Some(bag.messages(&names)?) };
        Ok(Self { messages, topics, held: VecDeque::new(), damage: Vec::new() })
    }

    /// The labels of a frame, `None` where the bag has none that can be read.
    pub(super) fn find(&mut self, camera: CameraId, stamp: Stamp, log_time_ns: i64) -> Option<LabelImage> {
        self.held.retain(|held| held.log_time_ns >= log_time_ns - REACH_NS);
        let is_it = |held: &Held| held.camera == camera && held.stamp == stamp;
        let held = match self.held.iter().position(is_it) {
            Some(place) => self.held.remove(place)?,
            None => self.read_until(is_it, log_time_ns)?,
        };
        match label_image(held.kind, &held.cdr) {
            Ok(labels) => Some(labels),
            Err(error) => {
                self.mention(format!("the label image at {stamp} cannot be read: {error}"));
                None
            }
        }
    }

    /// What went wrong with label messages, a sentence each.
    pub(super) fn damage(&self) -> impl Iterator<Item = String> + '_ {
        self.damage.iter().cloned()
    }

    fn mention(&mut self, what: String) {
        tracing::info!("{what}");
        if self.damage.len() < MENTIONED {
            self.damage.push(what);
        }
    }

    fn read_until(&mut self, is_it: impl Fn(&Held) -> bool, log_time_ns: i64) -> Option<Held> {
        let too_far =
            |held: &VecDeque<Held>| held.back().is_some_and(|last| last.log_time_ns > log_time_ns + REACH_NS);
        while self.held.len() < HELD_PER_CAMERA * self.topics.len() && !too_far(&self.held) {
            let message = match self.messages.as_mut()?.read() {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.messages = None;
                    return None;
                }
                // The walk over the images meets the same damage and reports it.
                Err(_) => continue,
            };
            let (camera, kind) = self.topics[message.topic];
            let log_time_ns = message.log_time_ns;
            let Ok(cdr) = message.cdr else { continue };
            let Ok((stamp, _)) = header(cdr) else { continue };
            let held = Held { camera, stamp, kind, log_time_ns, cdr: cdr.to_vec() };
            if is_it(&held) {
                return Some(held);
            }
            self.held.push_back(held);
        }
        None
    }
}
