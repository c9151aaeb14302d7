//! `summary.json`: what a replay did and how well, for programs. Described by `docs/summary.schema.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Percentiles;
use crate::types::{BackendFacts, Mode, Size};

/// Version of `summary.json`; raised when a field changes its meaning or goes, not when one is added.
pub const SCHEMA_VERSION: u32 = 1;

/// One score for each kind of labels the run produced, a fraction between 0 and 1; `None` where there was no ground
/// truth or no such labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Of the coarse labels, upsampled to the camera's resolution.
    pub coarse: Option<f64>,
    /// Of the coarse labels with refined pixels fused in.
    pub refined: Option<f64>,
    /// Of a dense network at full resolution; only runs of mode `dense` have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<f64>,
}

impl Scores {
    /// The score of a run's output, and that of the coarse labels beside it where the output is not coarse itself.
    pub fn new(mode: Mode, output: Option<f64>, coarse: Option<f64>) -> Self {
        match mode {
            Mode::Refined => Self { coarse, refined: output, dense: None },
            Mode::Coarse => Self { coarse: output, ..Self::default() },
            Mode::Dense => Self { coarse, refined: None, dense: output },
        }
    }

    /// The score of what the run put out.
    pub fn output(self, mode: Mode) -> Option<f64> {
        match mode {
            Mode::Refined => self.refined,
            Mode::Coarse => self.coarse,
            Mode::Dense => self.dense,
        }
    }

    /// The score to compare the output with: that of the coarse labels, where the output is not coarse itself.
    pub fn baseline(self, mode: Mode) -> Option<f64> {
        self.coarse.filter(|_| mode != Mode::Coarse)
    }
}

/// IoU of one class over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Name of the class.
    pub name: String,
    /// Its value in the label images.
    pub label: u8,
    /// IoU; `None` for a class that does not occur in the ground truth.
    #[serde(flatten)]
    pub iou: Scores,
    /// Pixels of the class in the scored ground truth.
    pub pixels: u64,
}

/// Which model bundle ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Name in the manifest.
    pub name: String,
    /// Folder of the bundle.
    pub path: String,
    /// SHA-256 of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What a caller knows about a run that its frames do not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunFacts {
    /// Path of the recording.
    pub bag: String,
    /// The bundle that ran.
    pub model: ModelFacts,
    /// What ran it.
    pub backend: BackendFacts,
    /// Worker threads of the compute code.
    pub threads: usize,
    /// Wall-clock seconds from the first frame in to the last labels out.
    pub wall_s: f64,
    /// What was damaged in the recording, a sentence each.
    pub damage: Vec<String>,
}

/// Frames of one camera.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in `Summary`")]
pub struct CameraCounts {
    pub frames_in: u64,
    pub frames_out: u64,
    pub frames_rejected: u64,
}

/// Time in one stage, in milliseconds, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named by the percentile")]
pub struct StagePercentiles {
    pub p50: f64,
    pub p99: f64,
}

/// A run in numbers. Fractions are between 0 and 1; `None` is written as `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// Version of `sparse_refine` that wrote it.
    pub version: String,
    /// Path of the recording.
    pub bag: String,
    /// What was computed.
    pub mode: Mode,
    /// The bundle that ran.
    pub model: ModelFacts,
    /// What ran it.
    pub backend: BackendFacts,
    /// Worker threads of the compute code.
    pub threads: usize,
    /// Resolution of the first frame that gave labels.
    pub size: Option<Size>,
    /// Every resolution that gave labels, in order of appearance.
    pub sizes: Vec<Size>,
    /// Frames of the chosen topics.
    pub frames_in: u64,
    /// Frames that gave labels.
    pub frames_out: u64,
    /// Frames that gave none, by reason.
    pub frames_rejected: BTreeMap<String, u64>,
    /// The same by image topic.
    pub per_camera: BTreeMap<String, CameraCounts>,
    /// Frames compared with ground truth.
    pub scored_frames: u64,
    /// Frames whose ground truth has another size than the frame: not scored.
    pub label_size_mismatch: u64,
    /// Mean IoU over the classes in the ground truth, from one table of counts for the whole run.
    pub miou: Scores,
    /// The same over the pixels within [`BAND_PX`](super::BAND_PX) of an edge of the ground truth.
    pub boundary_miou: Scores,
    /// Share of the labelled pixels that are right.
    pub pixel_accuracy: Scores,
    /// IoU of every class of the model, in its order, then of labels that are no class of it; empty without ground
    /// truth.
    pub per_class_iou: Vec<ClassScore>,
    /// Pixels whose entropy exceeds alpha, of all pixels that got labels.
    pub selected_fraction: f64,
    /// Pixels the refiner saw.
    pub refined_fraction: f64,
    /// Selected pixels that the capacity or the budget left out.
    pub dropped_fraction: f64,
    /// Cells of the segmenter's grid with NaN or infinite logits.
    pub non_finite_cells: u64,
    /// Time from a frame taken up to its labels; `None` without frames.
    pub latency_ms: Option<Percentiles>,
    /// Time in each stage, by the stage's name; empty without frames.
    pub stage_ms: BTreeMap<String, StagePercentiles>,
    /// Frames that gave labels for each second of the run.
    pub fps: f64,
    /// Wall-clock seconds of the run.
    pub wall_s: f64,
    /// What was damaged or did not fit, a sentence each.
    pub damage: Vec<String>,
}

impl Summary {
    /// Indented JSON with a newline at its end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("string keys and finite numbers only");
        text.push('\n');
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::schema::validate;
    use super::*;

    /// A finished run with a number in every field.
    pub(in crate::eval) fn example() -> Summary {
        let class = |name: &str, label, coarse, refined, pixels| ClassScore {
            name: name.into(),
            label,
            iou: Scores { coarse, refined, dense: None },
            pixels,
        };
        let size = Size::new(3840, 2160);
        let stage = |p50, p99| StagePercentiles { p50, p99 };
        let counts = CameraCounts { frames_in: 42, frames_out: 40, frames_rejected: 2 };
        Summary {
            schema: SCHEMA_VERSION,
            version: "0.1.0".into(),
            bag: "drive.mcap".into(),
            mode: Mode::Refined,
            model: ModelFacts { name: "streets".into(), path: "engines/streets".into(), sha256: None },
            backend: BackendFacts {
                segmenter: "rten".into(),
                refiner: "cpu (avx512)".into(),
                device: "cpu".into(),
                reason: "no CUDA driver".into(),
            },
            threads: 2,
            size: Some(size),
            sizes: vec![size],
            frames_in: 42,
            frames_out: 40,
            frames_rejected: BTreeMap::from([("undecodable".into(), 1), ("short_data".into(), 1)]),
            per_camera: BTreeMap::from([("/camera/front".into(), counts)]),
            scored_frames: 40,
            label_size_mismatch: 0,
            miou: Scores { coarse: Some(0.5834), refined: Some(0.61), dense: None },
            boundary_miou: Scores { coarse: Some(0.412), refined: Some(0.498), dense: None },
            pixel_accuracy: Scores { coarse: Some(0.91), refined: Some(0.925), dense: None },
            per_class_iou: vec![
                class("road", 0, Some(0.9), Some(0.93), 123_456_789),
                class("pole", 5, Some(0.2668), Some(0.29), 4_321),
                class("train", 16, None, None, 0),
            ],
            selected_fraction: 0.13,
            refined_fraction: 0.123,
            dropped_fraction: 0.007,
            non_finite_cells: 0,
            latency_ms: Some(Percentiles { p50: 310.5, p90: 350.25, p99: 402.0, max: 410.0, mean: 318.0 }),
            stage_ms: BTreeMap::from([
                ("segment".into(), stage(140.2, 160.0)),
                ("refine".into(), stage(120.0, 190.0)),
                ("preprocess".into(), stage(9.0, 12.0)),
            ]),
            fps: 3.1,
            wall_s: 12.9,
            damage: vec![],
        }
    }

    #[test]
    fn json_reads_back_as_the_same_summary() {
        let mut summary = example();
        assert_eq!(serde_json::from_str::<Summary>(&summary.to_json()).unwrap(), summary);
        summary.mode = Mode::Dense;
        summary.miou = Scores::new(Mode::Dense, Some(0.6), None);
        summary.model.sha256 = Some("00".into());
        let value: Value = serde_json::from_str(&summary.to_json()).unwrap();
        assert_eq!(value["miou"], json!({"coarse": null, "refined": null, "dense": 0.6}));
        assert_eq!(validate(&value), Ok(()));
    }

    #[test]
    fn scores_know_what_the_run_put_out() {
        for mode in [Mode::Refined, Mode::Dense] {
            let scores = Scores::new(mode, Some(0.7), Some(0.6));
            assert_eq!((scores.output(mode), scores.baseline(mode)), (Some(0.7), Some(0.6)));
        }
        let coarse = Scores::new(Mode::Coarse, Some(0.7), None);
        assert_eq!((coarse.output(Mode::Coarse), coarse.baseline(Mode::Coarse)), (Some(0.7), None));
    }
}
