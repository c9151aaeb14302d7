//! `sparse_refine/msg/FrameTiming`, the message that says what one frame cost. The live node publishes these bytes and a
//! replay writes them into its bag.

use super::cdr::Writer;
use super::definitions::MessageType;
use crate::types::{BackendFacts, FrameReport, Stage, Stamp};

/// The message type; the text of the definition is the file that ROS 2 generates its own code from.
pub const FRAME_TIMING: MessageType<'static> = MessageType {
    name: "sparse_refine/msg/FrameTiming",
    definition: concat!(
        include_str!("../../msg/FrameTiming.msg"),
        "================================================================================\n",
        "MSG: std_msgs/Header\n",
        "builtin_interfaces/Time stamp\n",
        "string frame_id\n",
        "================================================================================\n",
        "MSG: builtin_interfaces/Time\n",
        "int32 sec\n",
        "uint32 nanosec\n",
    ),
    hash: "RIHS01_da717fd4e877a5c1db2d9b9a18b7d6e18f412bf899ebaa98abaa975384bdc19d",
};

/// What one frame of one camera cost. `msg/FrameTiming.msg` says what the fields are.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "described in msg/FrameTiming.msg")]
pub struct FrameTiming<'a> {
    pub stamp: Stamp,
    pub frame_id: &'a str,
    pub camera: &'a str,
    pub backend: &'a BackendFacts,
    pub model: &'a str,
    pub report: &'a FrameReport,
    pub decode_ms: f64,
    pub wait_ms: f64,
    pub publish_ms: f64,
    pub latency_ms: f64,
    pub age_ms: f64,
    pub budget_ms: Option<f64>,
    pub counters: Counters,
}

/// Frames of one camera so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "described in msg/FrameTiming.msg")]
pub struct Counters {
    pub received: u64,
    pub labelled: u64,
    pub overwritten: u64,
    pub rejected: u64,
    pub stamp_gaps: u64,
    pub time_jumps: u64,
}

impl FrameTiming<'_> {
    /// Replaces the contents of `cdr` with the serialized message, little-endian.
    pub fn write(&self, cdr: &mut Vec<u8>) {
        let Self { report, backend, counters, .. } = *self;
        let mut writer = Writer::new(cdr);
        writer.header(self.stamp, self.frame_id);
        writer.text(self.camera);
        writer.u64(counters.labelled);

        writer.text(if report.is_coarse_only() { "COARSE_ONLY" } else { "NOMINAL" });
        writer.text(&report.mode.to_string());
        writer.text(&backend.segmenter);
        writer.text(&backend.refiner);
        writer.text(&backend.device);
        writer.text(&backend.reason);
        writer.text(self.model);
        writer.u32(report.size.width);
        writer.u32(report.size.height);
        writer.u32(report.pixels_selected);
        writer.u32(report.pixels_refined);
        writer.u32(report.pixels_dropped);
        writer.u32(report.non_finite_cells);

        let stages_ms = report.stages.total_ms();
        let stages = [
            Stage::Upload,
            Stage::Preprocess,
            Stage::Segment,
            Stage::Select,
            Stage::Refine,
            Stage::Fuse,
            Stage::Download,
        ];
        for stage in stages {
            writer.f32(report.stages.get(stage) as f32);
        }
        writer.f32(stages_ms as f32);

        writer.f32(self.decode_ms as f32);
        writer.f32(self.wait_ms as f32);
        writer.f32(self.publish_ms as f32);
        writer.f32((self.latency_ms - self.wait_ms - stages_ms) as f32);
        writer.f32(self.latency_ms as f32);
        writer.f32(self.age_ms as f32);
        writer.f32(self.budget_ms.unwrap_or(0.0) as f32);

        writer.u64(counters.received);
        writer.u64(counters.overwritten);
        writer.u64(counters.rejected);
        writer.u64(counters.stamp_gaps);
        writer.u64(counters.time_jumps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Mode, Size};

    /// Field names in the order of the definition, without the header's.
    fn fields() -> Vec<(&'static str, &'static str)> {
        let own = FRAME_TIMING.definition.split("====").next().unwrap();
        let lines = own.lines().map(|line| line.split('#').next().unwrap().trim());
        lines.filter(|line| !line.is_empty()).map(|line| line.split_once(' ').unwrap()).collect()
    }

    #[test]
    fn the_bytes_follow_the_definition() {
        let mut report = FrameReport {
            size: Size::new(640, 360),
            mode: Mode::Refined,
            pixels_selected: 10,
            pixels_refined: 7,
            pixels_dropped: 3,
            ..FrameReport::default()
        };
        report.stages.add(Stage::Segment, 2.0);
        report.stages.add(Stage::Refine, 1.0);
        let backend = BackendFacts {
            segmenter: "s".into(),
            refiner: "refiner".into(),
            device: "cpu".into(),
            reason: "asked for".into(),
        };
        let counters =
            Counters { received: 9, labelled: 5, overwritten: 3, rejected: 1, stamp_gaps: 2, time_jumps: 4 };
        let timing = FrameTiming {
            stamp: Stamp { sec: 5, nanosec: 6 },
            frame_id: "camera",
            camera: "front",
            backend: &backend,
            model: "tiny",
            report: &report,
            decode_ms: 0.0,
            wait_ms: 1.0,
            publish_ms: 0.5,
            latency_ms: 8.0,
            age_ms: 9.0,
            budget_ms: None,
            counters,
        };
        let mut cdr = vec![7; 3];
        timing.write(&mut cdr);
        assert_eq!(cdr[..4], [0, 1, 0, 0]);

        // Read by the definition, not by the code above.
        let body = &cdr[4..];
        let mut at = 0_usize;
        let mut take = |size: usize, align: usize| {
            at = at.next_multiple_of(align) + size;
            &body[at - size..at]
        };
        let mut values = std::collections::BTreeMap::new();
        for (kind, name) in fields() {
            let value = match kind {
                "std_msgs/Header" => {
                    take(8, 4);
                    let length = u32::from_le_bytes(take(4, 4).try_into().unwrap());
                    String::from_utf8_lossy(take(length as usize, 1)).into_owned()
                }
                "string" => {
                    let length = u32::from_le_bytes(take(4, 4).try_into().unwrap());
                    String::from_utf8_lossy(take(length as usize, 1)).into_owned()
                }
                "uint64" => u64::from_le_bytes(take(8, 8).try_into().unwrap()).to_string(),
                "uint32" => u32::from_le_bytes(take(4, 4).try_into().unwrap()).to_string(),
                "float32" => f32::from_le_bytes(take(4, 4).try_into().unwrap()).to_string(),
                other => panic!("no rule for {other}"),
            };
            values.insert(name, value);
        }
        assert_eq!(at, body.len(), "every byte belongs to a field");
        let expected = [
            ("header", "camera\0"),
            ("camera", "front\0"),
            ("sequence", "5"),
            ("state", "NOMINAL\0"),
            ("mode", "refined\0"),
            ("refiner", "refiner\0"),
            ("width", "640"),
            ("pixels_dropped", "3"),
            ("segment_ms", "2"),
            ("stages_ms", "3"),
            ("overhead_ms", "4"),
            ("age_ms", "9"),
            ("budget_ms", "0"),
            ("received", "9"),
            ("overwritten", "3"),
            ("rejected", "1"),
            ("stamp_gaps", "2"),
            ("time_jumps", "4"),
        ];
        for (name, value) in expected {
            assert_eq!(values[name], value, "{name}");
        }
    }
}
