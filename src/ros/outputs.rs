//! What is published for each frame, on the pipeline's last thread. Messages are written as bytes into buffers that are
//! used again; what nobody subscribes to is not made.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use r2r::{Clock, Node, PublisherUntyped, QosProfile};

use super::camera::{Camera, Last, lock};
use super::received::Received;
use crate::bag::cdr::{CompressedMsg, ImageMsg};
use crate::bag::definitions::{COMPRESSED_IMAGE, IMAGE};
use crate::bag::frame_timing::{Counters, FRAME_TIMING, FrameTiming};
use crate::cpu::pixels::to_rgb8;
use crate::pipeline::{FrameOutputs, Mailboxes, Outcome, Payload};
use crate::types::{BackendFacts, ClassInfo, FrameReport, LabelImage, Size, Stage, Stamp};

/// What is offered beside the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    LabelCompressed,
    Color,
    Overlay,
    Entropy,
    RefinedMask,
}

impl Extra {
    pub(super) const ALL: [Self; 5] =
        [Self::LabelCompressed, Self::Color, Self::Overlay, Self::Entropy, Self::RefinedMask];

    fn topic(self) -> &'static str {
        match self {
            Self::LabelCompressed => "label/compressed",
            Self::Color => "color",
            Self::Overlay => "overlay",
            Self::Entropy => "entropy",
            Self::RefinedMask => "refined_mask",
        }
    }

    /// Whether a set of bits, as in [`Camera::wanted`], holds it.
    pub(super) fn is_in(self, wanted: u8) -> bool {
        wanted & (1 << self as u8) != 0
    }
}

/// The publishers of one camera. Handles to what the node owns: clones publish on the same topics.
#[derive(Clone)]
pub(super) struct CameraOutputs {
    label: PublisherUntyped,
    info: PublisherUntyped,
    extras: [PublisherUntyped; 5],
    timing: PublisherUntyped,
}

impl CameraOutputs {
    pub(super) fn create(node: &mut Node, camera: &str, reliable: bool) -> r2r::Result<Self> {
        let qos = QosProfile::default().keep_last(1).volatile();
        let qos = if reliable { qos.reliable() } else { qos.best_effort() };
        let mut raw = |topic: &str, kind: &str| {
            node.create_publisher_untyped(&format!("~/output/{camera}/{topic}"), kind, qos.clone())
        };
        let label = raw("label", IMAGE.name)?;
        let info = raw("camera_info", "sensor_msgs/msg/CameraInfo")?;
        let mut extra = |extra: Extra| {
            raw(
                extra.topic(),
                if extra == Extra::LabelCompressed { COMPRESSED_IMAGE.name } else { IMAGE.name },
            )
        };
        let extras = [
            extra(Extra::LabelCompressed)?,
            extra(Extra::Color)?,
            extra(Extra::Overlay)?,
            extra(Extra::Entropy)?,
            extra(Extra::RefinedMask)?,
        ];
        let timing_qos = QosProfile::default().keep_last(10).reliable();
        let timing_topic = format!("~/debug/{camera}/timing");
        let timing = node.create_publisher_untyped(&timing_topic, FRAME_TIMING.name, timing_qos)?;
        Ok(Self { label, info, extras, timing })
    }

    pub(super) fn destroy(self, node: &mut Node) {
        let Self { label, info, extras, timing } = self;
        for publisher in [label, info, timing].into_iter().chain(extras) {
            node.destroy_publisher_untyped(publisher);
        }
    }

    /// The extras that are offered and subscribed to, as bits.
    pub(super) fn wanted(&self, offered: [bool; 5]) -> u8 {
        let wanted =
            |extra: &Extra| offered[*extra as usize] && has_subscribers(&self.extras[*extra as usize]);
        Extra::ALL.iter().filter(|extra| wanted(extra)).fold(0, |bits, extra| bits | (1 << *extra as u8))
    }
}

fn has_subscribers(publisher: &PublisherUntyped) -> bool {
    publisher.get_inter_process_subscription_count().is_ok_and(|count| count > 0)
}

/// A label image on its way to PNG.
pub(super) struct ToCompress {
    stamp: Stamp,
    frame_id: String,
    labels: LabelImage,
}

/// Compresses and publishes until the mailboxes are closed: a thread of its own, and the newest label wins.
pub(super) fn compress(waiting: &Mailboxes<ToCompress>, outputs: Vec<CameraOutputs>, log: impl Fn(String)) {
    let publishers: Vec<PublisherUntyped> =
        outputs.into_iter().map(|CameraOutputs { extras: [png, ..], .. }| png).collect();
    let (mut png, mut cdr) = (Vec::new(), Vec::new());
    while let Some((camera, ToCompress { stamp, frame_id, labels })) = waiting.take() {
        png.clear();
        match encode_png(&labels, &mut png) {
            Ok(()) => {
                // The format string image_transport's plugins write; decoders look at the data.
                let format = "mono8; png compressed ";
                CompressedMsg { stamp, frame_id: &frame_id, format, data: &png }.write(&mut cdr);
                if let Err(error) = publishers[usize::from(camera.0)].publish_raw(&cdr) {
                    log(format!("cannot publish a compressed label: {error}"));
                }
            }
            Err(error) => log(format!("cannot compress a label: {error}")),
        }
    }
}

fn encode_png(labels: &LabelImage, png: &mut Vec<u8>) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(png, labels.size.width, labels.size.height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(&labels.data)
}

/// Facts that every timing message repeats.
pub(super) struct RunFacts {
    pub(super) model: String,
    pub(super) backend: BackendFacts,
}

/// Publishes what the pipeline hands out.
pub(super) struct Publish<'a> {
    pub(super) cameras: &'a [Camera],
    pub(super) outputs: &'a [CameraOutputs],
    pub(super) mailboxes: &'a Mailboxes<Received>,
    pub(super) to_compress: &'a Mailboxes<ToCompress>,
    pub(super) clock: Arc<Mutex<Clock>>,
    pub(super) facts: &'a RunFacts,
    /// RGB of every label value; the camera's own colour shows through where there is none.
    pub(super) palette: Box<[Option<[u8; 3]>; 256]>,
    pub(super) highest_entropy: f32,
    pub(super) cdr: Vec<u8>,
    pub(super) pixels: Vec<u8>,
}

/// What a frame's publication needs to know of the settings in force.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    pub(super) processing_ms: f64,
    pub(super) budget_ms: Option<f64>,
}

impl Publish<'_> {
    /// RGB of every label value; a class's first channel gives its colour.
    pub(super) fn palette(classes: &[ClassInfo]) -> Box<[Option<[u8; 3]>; 256]> {
        let mut palette = Box::new([None; 256]);
        for class in classes.iter().rev() {
            palette[usize::from(class.label)] = Some(class.colour);
        }
        palette
    }

    /// Label first, then timing, then what few want.
    pub(super) fn frame(
        &mut self,
        outcome: &Outcome<'_, Received>,
        report: &FrameReport,
        allowed: Allowed,
    ) -> r2r::Result<()> {
        let Ok((stamp, frame_id)) = outcome.payload.header() else { return Ok(()) };
        let index = usize::from(outcome.camera.0);
        let (camera, outputs) = (&self.cameras[index], &self.outputs[index]);
        let wanted = camera.wanted.load(Relaxed);
        let FrameOutputs { labels, entropy, entropy_size, refined, .. } = outcome.outputs;
        let header = Header { stamp, frame_id };
        let finished = Instant::now();
        header.image(labels.size, "mono8", &labels.data).write(&mut self.cdr);
        outputs.label.publish_raw(&self.cdr)?;
        let published = Instant::now();
        if has_subscribers(&outputs.info) {
            self.camera_info(camera, outputs, stamp)?;
        }
        self.timing(outcome, report, allowed, header, finished, published)?;

        if Extra::LabelCompressed.is_in(wanted) {
            let to_compress = ToCompress { stamp, frame_id: frame_id.to_owned(), labels: labels.clone() };
            // Refused only when the node is going down.
            let _ = self.to_compress.put(outcome.camera, to_compress);
        }
        if Extra::Color.is_in(wanted) {
            self.pixels.clear();
            let palette = &self.palette;
            self.pixels
                .extend(labels.data.iter().flat_map(|&label| palette[usize::from(label)].unwrap_or([0; 3])));
            header.image(labels.size, "rgb8", &self.pixels).write(&mut self.cdr);
            outputs.extras[Extra::Color as usize].publish_raw(&self.cdr)?;
        }
        if Extra::Overlay.is_in(wanted) {
            self.pixels.resize(labels.size.pixels() * 3, 0);
            let pixels = &mut self.pixels;
            let drawn = outcome.payload.with_frame(|frame| frame.map(|frame| to_rgb8(&frame, pixels)));
            if drawn.is_ok() {
                blend(&mut self.pixels, &labels.data, &self.palette);
                header.image(labels.size, "rgb8", &self.pixels).write(&mut self.cdr);
                outputs.extras[Extra::Overlay as usize].publish_raw(&self.cdr)?;
            }
        }
        if Extra::Entropy.is_in(wanted) && !entropy.is_empty() {
            self.pixels.clear();
            let scale = 255.0 / self.highest_entropy;
            // Cells with logits that are no numbers have none either: the highest value.
            let byte = |&value: &f32| if value.is_finite() { (value * scale).round() as u8 } else { 255 };
            self.pixels.extend(entropy.iter().map(byte));
            header.image(*entropy_size, "mono8", &self.pixels).write(&mut self.cdr);
            outputs.extras[Extra::Entropy as usize].publish_raw(&self.cdr)?;
        }
        if Extra::RefinedMask.is_in(wanted) && refined.size == labels.size {
            header.image(refined.size, "mono8", &refined.data).write(&mut self.cdr);
            outputs.extras[Extra::RefinedMask as usize].publish_raw(&self.cdr)?;
        }
        Ok(())
    }

    /// The camera's newest camera_info with the label's stamp, which consumers pair by.
    fn camera_info(&mut self, camera: &Camera, outputs: &CameraOutputs, stamp: Stamp) -> r2r::Result<()> {
        self.cdr.clear();
        self.cdr.extend_from_slice(&lock(&camera.info));
        if restamp(&mut self.cdr, stamp) { outputs.info.publish_raw(&self.cdr) } else { Ok(()) }
    }

    fn timing(
        &mut self,
        outcome: &Outcome<'_, Received>,
        report: &FrameReport,
        allowed: Allowed,
        header: Header<'_>,
        finished: Instant,
        published: Instant,
    ) -> r2r::Result<()> {
        let index = usize::from(outcome.camera.0);
        let camera = &self.cameras[index];
        let now = lock(&self.clock).get_now().map_or(0, |now| now.as_nanos() as i64);
        let age_ms = (now - header.stamp.as_nanos()) as f64 / 1e6;
        let received = outcome.payload.at;
        let (taken, decode_ms) = outcome.payload.taken();
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let latency_ms = ms(received, published);
        let stage = |stage| report.stages.get(stage);
        let last = Last {
            at: published,
            in_time: published,
            latency_ms,
            age_ms,
            preprocess_ms: stage(Stage::Upload) + stage(Stage::Preprocess),
            inference_ms: stage(Stage::Segment) + stage(Stage::Refine),
            postprocess_ms: stage(Stage::Select) + stage(Stage::Fuse) + stage(Stage::Download),
            pixels_refined: report.pixels_refined,
            pixels_dropped: report.pixels_dropped,
            coarse_only: report.is_coarse_only(),
        };
        camera.label(last, allowed.processing_ms);
        let timing = FrameTiming {
            stamp: header.stamp,
            frame_id: header.frame_id,
            camera: &camera.name,
            backend: &self.facts.backend,
            model: &self.facts.model,
            report,
            decode_ms,
            wait_ms: ms(received, taken),
            publish_ms: ms(finished, published),
            latency_ms,
            age_ms,
            budget_ms: allowed.budget_ms,
            counters: Counters {
                received: camera.received.load(Relaxed),
                labelled: camera.labelled.load(Relaxed),
                overwritten: self.mailboxes.overwritten(outcome.camera),
                rejected: camera.rejected.load(Relaxed),
                stamp_gaps: camera.stamp_gaps.load(Relaxed),
                time_jumps: camera.time_jumps.load(Relaxed),
            },
        };
        timing.write(&mut self.cdr);
        self.outputs[index].timing.publish_raw(&self.cdr)
    }
}

/// Stamp and frame of the input, which every output repeats.
#[derive(Clone, Copy)]
struct Header<'a> {
    stamp: Stamp,
    frame_id: &'a str,
}

impl<'a> Header<'a> {
    fn image(self, size: Size, encoding: &'a str, data: &'a [u8]) -> ImageMsg<'a> {
        let Self { stamp, frame_id } = self;
        let step = (data.len() / (size.height as usize).max(1)) as u32;
        ImageMsg { stamp, frame_id, size, encoding, is_bigendian: false, step, data }
    }
}

/// Half camera, half class colour.
fn blend(rgb: &mut [u8], labels: &[u8], palette: &[Option<[u8; 3]>; 256]) {
    for (pixel, &label) in rgb.chunks_exact_mut(3).zip(labels) {
        if let Some(colour) = palette[usize::from(label)] {
            for (value, colour) in pixel.iter_mut().zip(colour) {
                *value = ((u16::from(*value) + u16::from(colour)) / 2) as u8;
            }
        }
    }
}

/// Replaces the stamp of a serialized message that begins with a header. False if it is too short for one.
fn restamp(cdr: &mut [u8], stamp: Stamp) -> bool {
    let Some(little_endian) = cdr.get(1).map(|&kind| kind & 1 == 1) else { return false };
    let Some(place) = cdr.get_mut(4..12) else { return false };
    let (sec, nanosec) = if little_endian {
        (stamp.sec.to_le_bytes(), stamp.nanosec.to_le_bytes())
    } else {
        (stamp.sec.to_be_bytes(), stamp.nanosec.to_be_bytes())
    };
    place[..4].copy_from_slice(&sec);
    place[4..].copy_from_slice(&nanosec);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_png() {
        let labels = LabelImage { size: Size::new(3, 2), data: vec![0, 1, 2, 254, 255, 7] };
        let mut file = Vec::new();
        encode_png(&labels, &mut file).unwrap();
        let mut cdr = Vec::new();
        CompressedMsg { stamp: Stamp::default(), frame_id: "", format: "png", data: &file }.write(&mut cdr);
        let read = crate::bag::decode::label_image(crate::bag::topics::ImageKind::Compressed, &cdr).unwrap();
        assert_eq!(read, labels);
    }

    #[test]
    fn restamping_keeps_everything_else() {
        let stamp = Stamp { sec: 5, nanosec: 6 };
        let image = |stamp| Header { stamp, frame_id: "cam" }.image(Size::new(2, 1), "mono8", &[1, 2]);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        image(Stamp::default()).write(&mut old);
        image(stamp).write(&mut new);
        assert!(restamp(&mut old, stamp));
        assert_eq!(old, new);
        assert!(!restamp(&mut [0, 1, 0], stamp) && !restamp(&mut [], stamp));
    }

    #[test]
    fn unlabelled_pixels_show_the_camera() {
        let classes = [("road", 0, [200, 0, 100]), ("kerb", 0, [1, 1, 1])]
            .map(|(name, label, colour)| ClassInfo { name: name.to_owned(), colour, label });
        let palette = Publish::palette(&classes);
        let mut rgb = [100, 100, 100, 50, 60, 70];
        blend(&mut rgb, &[0, 255], &palette);
        assert_eq!(rgb, [150, 50, 100, 50, 60, 70]);
    }

    #[test]
    fn every_extra_has_its_own_bit() {
        for extra in Extra::ALL {
            let bit = 1 << extra as u8;
            assert!(extra.is_in(bit));
            assert_eq!(Extra::ALL.iter().filter(|other| other.is_in(bit)).count(), 1);
        }
    }
}
