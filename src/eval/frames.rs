//! `frames.csv`: one line per frame, for spreadsheets and plots.

use std::borrow::Cow;
use std::io::{self, Write};

use super::Scores;
use crate::types::{FrameReport, MAX_LEVELS, Stage, Stamp};

/// One frame of the recording.
#[derive(Clone, Copy, Debug)]
pub struct FrameRow<'a> {
    /// Position among all frames of the run, from 0.
    pub index: u64,
    /// Name of the camera.
    pub camera: &'a str,
    /// Topic of its images.
    pub topic: &'a str,
    /// Header stamp of the message.
    pub stamp: Stamp,
    /// What became of it.
    pub outcome: Outcome<'a>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// It gave labels.
    Labelled {
        /// What it cost.
        report: &'a FrameReport,
        /// Time from the frame taken up to its labels, in milliseconds.
        latency_ms: f64,
        /// Its own mIoU.
        miou: Scores,
    },
    /// It gave none, for this reason: [`FrameError::reason`](crate::types::FrameError::reason).
    Rejected(&'a str),
}

/// Writes frames as comma-separated values, RFC 4180 but for bare newlines. Fields that a frame does not have are empty.
#[derive(Debug)]
pub struct FramesCsv<W> {
    out: W,
}

impl<W: Write> FramesCsv<W> {
    /// Writes the header.
    pub fn new(mut out: W) -> io::Result<Self> {
        write!(out, "index,camera,topic,stamp_ns,status,mode,width,height")?;
        write!(out, ",pixels_selected,pixels_refined,pixels_dropped")?;
        for level in 0..MAX_LEVELS {
            write!(out, ",sites_l{level}")?;
        }
        write!(out, ",non_finite_cells")?;
        for stage in Stage::ALL {
            write!(out, ",{}_ms", stage.name())?;
        }
        writeln!(out, ",total_ms,latency_ms,miou_coarse,miou_refined,miou_dense")?;
        Ok(Self { out })
    }

    /// Writes a frame's line.
    pub fn write(&mut self, row: &FrameRow<'_>) -> io::Result<()> {
        let out = &mut self.out;
        write!(out, "{},{},{},{}", row.index, quoted(row.camera), quoted(row.topic), row.stamp.as_nanos())?;
        match row.outcome {
            Outcome::Rejected(reason) => {
                write!(out, ",{}", quoted(&format!("rejected:{reason}")))?;
                let empty = 3 + 3 + MAX_LEVELS + 1 + Stage::ALL.len() + 2 + 3;
                writeln!(out, "{}", ",".repeat(empty))
            }
            Outcome::Labelled { report, latency_ms, miou } => {
                write!(out, ",ok,{},{},{}", report.mode, report.size.width, report.size.height)?;
                let pixels = [report.pixels_selected, report.pixels_refined, report.pixels_dropped];
                for count in pixels.iter().chain(&report.sites).chain([&report.non_finite_cells]) {
                    write!(out, ",{count}")?;
                }
                for stage in Stage::ALL {
                    write!(out, ",{:.3}", report.stages.get(stage))?;
                }
                write!(out, ",{:.3},{latency_ms:.3}", report.stages.total_ms())?;
                for score in [miou.coarse, miou.refined, miou.dense] {
                    write!(out, ",{}", score.map_or(String::new(), |miou| format!("{miou:.6}")))?;
                }
                writeln!(out)
            }
        }
    }

    /// Hands the lines written so far on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A field in quotes where it needs them, quotes within it doubled.
fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Mode, Size, StageTimes};

    #[test]
    fn lines_of_a_labelled_and_a_rejected_frame() {
        let mut stages = StageTimes::default();
        stages.add(Stage::Segment, 20.5);
        stages.add(Stage::Refine, 10.25);
        let report = FrameReport {
            size: Size::new(3840, 2160),
            pixels_selected: 7,
            pixels_refined: 5,
            pixels_dropped: 2,
            sites: [5, 3, 1, 0, 0, 0, 0, 0],
            stages,
            ..FrameReport::default()
        };
        let miou = Scores::new(Mode::Refined, Some(0.75), None);
        let outcome = Outcome::Labelled { report: &report, latency_ms: 31.0, miou };
        let stamp = Stamp { sec: 1, nanosec: 5 };
        let mut csv = FramesCsv::new(Vec::new()).unwrap();
        csv.write(&FrameRow { index: 0, camera: "front", topic: "/a", stamp, outcome }).unwrap();
        let outcome = Outcome::Rejected("undecodable");
        csv.write(&FrameRow { index: 1, camera: "a \"b\"", topic: "/a,b", stamp, outcome }).unwrap();
        let text = String::from_utf8(csv.out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "index,camera,topic,stamp_ns,status,mode,width,height,pixels_selected,pixels_refined,pixels_dropped,\
             sites_l0,sites_l1,sites_l2,sites_l3,sites_l4,sites_l5,sites_l6,sites_l7,non_finite_cells,upload_ms,\
             preprocess_ms,segment_ms,select_ms,refine_ms,fuse_ms,download_ms,total_ms,latency_ms,miou_coarse,\
             miou_refined,miou_dense"
        );
        assert_eq!(
            lines[1],
            "0,front,/a,1000000005,ok,refined,3840,2160,7,5,2,5,3,1,0,0,0,0,0,0,0.000,0.000,20.500,0.000,10.250,\
             0.000,0.000,30.750,31.000,,0.750000,"
        );
        assert!(lines[2].starts_with("1,\"a \"\"b\"\"\",\"/a,b\",1000000005,rejected:undecodable,"));
        let fields = |line: &str| line.matches(',').count();
        assert_eq!((fields(lines[1]), fields(lines[2]) - 1), (fields(lines[0]), fields(lines[0])));
    }
}
