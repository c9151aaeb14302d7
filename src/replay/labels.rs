//! The labels as a rosbag2 of their own: for each camera labels, timing and, latched, the class names; topics and bytes
//! are the live node's.

use std::path::Path;

use crate::bag::BagError;
use crate::bag::cdr::{ImageMsg, write_string};
use crate::bag::definitions::{IMAGE, Qos, STRING};
use crate::bag::frame_timing::{FRAME_TIMING, FrameTiming};
use crate::bag::label_info::label_info;
use crate::bag::write::{BagWriter, Compression, TopicId};
use crate::types::{ClassInfo, LabelImage};

/// Writes labels as they come.
pub(super) struct LabelBag {
    writer: BagWriter,
    /// Label and timing topic of each camera.
    topics: Vec<[TopicId; 2]>,
    /// Class names wait for the first log time.
    info: Option<(Vec<TopicId>, String)>,
    cdr: Vec<u8>,
}

impl LabelBag {
    /// Makes the bag, with topics named as the live node names them.
    pub(super) fn create(folder: &Path, names: &[String], classes: &[ClassInfo]) -> Result<Self, BagError> {
        let mut writer = BagWriter::create(folder, Compression::Zstd)?;
        let mut topics = Vec::new();
        let mut infos = Vec::new();
        for name in names {
            let output = format!("/sparse_refine/output/{name}");
            let label = writer.add_topic(&format!("{output}/label"), &IMAGE, Qos::Reliable)?;
            let timing = format!("/sparse_refine/debug/{name}/timing");
            topics.push([label, writer.add_topic(&timing, &FRAME_TIMING, Qos::Reliable)?]);
            infos.push(writer.add_topic(&format!("{output}/label_info_json"), &STRING, Qos::Latched)?);
        }
        Ok(Self { writer, topics, info: Some((infos, label_info(classes))), cdr: Vec::new() })
    }

    /// Appends the labels of a frame, with the frame's own header, and what it cost.
    pub(super) fn write(
        &mut self,
        camera: usize,
        labels: &LabelImage,
        timing: &FrameTiming<'_>,
        log_time_ns: i64,
    ) -> Result<(), BagError> {
        if let Some((topics, info)) = self.info.take() {
            write_string(&info, &mut self.cdr);
            for topic in topics {
                self.writer.write(topic, log_time_ns, &self.cdr)?;
            }
        }
        let message = ImageMsg {
            stamp: timing.stamp,
            frame_id: timing.frame_id,
            size: labels.size,
            encoding: "mono8",
            is_bigendian: false,
            step: labels.size.width,
            data: &labels.data,
        };
        message.write(&mut self.cdr);
        let [label_topic, timing_topic] = self.topics[camera];
        self.writer.write(label_topic, log_time_ns, &self.cdr)?;
        timing.write(&mut self.cdr);
        self.writer.write(timing_topic, log_time_ns, &self.cdr)
    }

    /// Completes the bag.
    pub(super) fn finish(self) -> Result<(), BagError> {
        self.writer.finish()
    }
}

/// A name for each camera from its image topic: `/camera/front/image_raw` is `front`. Where two would be equal, all are
/// named by their whole topic.
pub fn camera_names(topics: &[String]) -> Vec<String> {
    let short: Vec<String> = topics.iter().map(|topic| short_name(topic)).collect();
    let mut distinct = short.clone();
    distinct.sort();
    distinct.dedup();
    if distinct.len() == short.len() {
        return short;
    }
    topics.iter().map(|topic| topic.trim_matches('/').replace('/', "_")).collect()
}

fn short_name(topic: &str) -> String {
    let parts: Vec<&str> =
        topic.split('/').filter(|part| !part.is_empty() && *part != "compressed").collect();
    match parts[..] {
        [] => "camera".to_owned(),
        [only] => only.to_owned(),
        [.., camera, last] if last.starts_with("image") => camera.to_owned(),
        [.., last] => last.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(topics: &[&str]) -> Vec<String> {
        camera_names(&topics.iter().map(|&topic| topic.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn cameras_are_named_by_their_topics() {
        assert_eq!(
            names(&["/camera/front/image_raw", "/camera/left/image_raw/compressed"]),
            ["front", "left"]
        );
        assert_eq!(names(&["/a/front/image", "/b/front/image"]), ["a_front_image", "b_front_image"]);
        assert_eq!(names(&["/image", "/", "/cam/rgb"]), ["image", "camera", "rgb"]);
    }
}
