//! A run's frames summed up.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BAND_PX, BoundaryBand, CameraCounts, ClassScore, Confusion, RunFacts, SCHEMA_VERSION, Samples,
    ScoreError, Scores, StagePercentiles, Summary,
};
use crate::types::{CameraId, ClassInfo, FrameReport, LabelImage, Mode, Size, Stage};

/// Takes every frame of a run in and sums it up. Memory grows by 32 bytes a frame and by nothing else.
#[derive(Debug)]
pub struct Scorer {
    /// One entry for each label.
    classes: Vec<ClassInfo>,
    topics: Vec<String>,
    mode: Mode,
    output: Tally,
    coarse: Tally,
    band: BoundaryBand,
    scored_frames: u64,
    label_size_mismatch: u64,
    cameras: BTreeMap<CameraId, CameraCounts>,
    rejected: BTreeMap<String, u64>,
    sizes: Vec<Size>,
    pixels: u64,
    pixels_selected: u64,
    pixels_refined: u64,
    pixels_dropped: u64,
    non_finite_cells: u64,
    latency: Samples,
    stages: [Samples; Stage::ALL.len()],
}

/// Counts of one kind of labels, over the whole image and over the boundary band.
#[derive(Debug, Default)]
struct Tally {
    all: Confusion,
    band: Confusion,
}

impl Tally {
    /// Adds a frame and gives its own table.
    fn add(&mut self, truth: &LabelImage, labels: &LabelImage, band: &[u8]) -> Result<Confusion, ScoreError> {
        let mut frame = Confusion::default();
        frame.add(truth, labels, None)?;
        self.band.add(truth, labels, Some(band))?;
        self.all.merge(&frame);
        Ok(frame)
    }
}

impl Scorer {
    /// A scorer of labels of these classes (several may share a label: the first names it) from cameras whose
    /// [`CameraId`]s are indices into `topics`.
    pub fn new(mode: Mode, classes: &[ClassInfo], topics: &[String]) -> Self {
        let mut seen = BTreeSet::new();
        Self {
            classes: classes.iter().filter(|class| seen.insert(class.label)).cloned().collect(),
            topics: topics.to_vec(),
            mode,
            output: Tally::default(),
            coarse: Tally::default(),
            band: BoundaryBand::new(BAND_PX),
            scored_frames: 0,
            label_size_mismatch: 0,
            cameras: (0..topics.len()).map(|i| (CameraId(i as u16), CameraCounts::default())).collect(),
            rejected: BTreeMap::new(),
            sizes: Vec::new(),
            pixels: 0,
            pixels_selected: 0,
            pixels_refined: 0,
            pixels_dropped: 0,
            non_finite_cells: 0,
            latency: Samples::default(),
            stages: Default::default(),
        }
    }

    /// Counts a frame that gave no labels.
    pub fn add_rejected(&mut self, camera: CameraId, reason: &str) {
        let counts = self.cameras.entry(camera).or_default();
        counts.frames_in += 1;
        counts.frames_rejected += 1;
        *self.rejected.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds a frame that gave labels, and returns its own mIoU. `output` are the labels of the run's mode, `coarse`
    /// those they are compared with; a run gives `coarse` for all its frames or for none. A frame whose ground truth
    /// (or coarse image) does not fit the output is counted in `label_size_mismatch` and not scored.
    pub fn add_frame(
        &mut self,
        report: &FrameReport,
        truth: Option<&LabelImage>,
        coarse: Option<&LabelImage>,
        output: &LabelImage,
        latency_ms: f64,
    ) -> Scores {
        let counts = self.cameras.entry(report.camera).or_default();
        counts.frames_in += 1;
        counts.frames_out += 1;
        if !self.sizes.contains(&report.size) {
            self.sizes.push(report.size);
        }
        self.pixels += report.size.pixels() as u64;
        self.pixels_selected += u64::from(report.pixels_selected);
        self.pixels_refined += u64::from(report.pixels_refined);
        self.pixels_dropped += u64::from(report.pixels_dropped);
        self.non_finite_cells += u64::from(report.non_finite_cells);
        self.latency.push(latency_ms);
        for stage in Stage::ALL {
            self.stages[stage as usize].push(report.stages.get(stage));
        }
        let Some(truth) = truth else { return Scores::default() };
        self.score(truth, coarse, output).unwrap_or_else(|_| {
            self.label_size_mismatch += 1;
            Scores::default()
        })
    }

    fn score(
        &mut self,
        truth: &LabelImage,
        coarse: Option<&LabelImage>,
        output: &LabelImage,
    ) -> Result<Scores, ScoreError> {
        for labels in coarse.into_iter().chain([output]) {
            Confusion::check(truth, labels)?;
        }
        let band = self.band.of(truth);
        let output = self.output.add(truth, output, band)?.miou();
        let coarse = match coarse {
            Some(coarse) => self.coarse.add(truth, coarse, band)?.miou(),
            None => None,
        };
        self.scored_frames += 1;
        Ok(Scores::new(self.mode, output, coarse))
    }

    /// Latency of every frame so far, in milliseconds.
    pub fn latencies_ms(&self) -> &[f32] {
        self.latency.as_slice()
    }

    /// The run so far in numbers.
    pub fn finish(&self, facts: RunFacts) -> Summary {
        let pair = |score: fn(&Tally) -> Option<f64>| {
            Scores::new(self.mode, score(&self.output), score(&self.coarse))
        };
        let share = |n: u64| if self.pixels == 0 { 0.0 } else { n as f64 / self.pixels as f64 };
        let sum = |count: fn(&CameraCounts) -> u64| self.cameras.values().map(count).sum();
        let frames_out = sum(|c| c.frames_out);
        let per_camera = self.cameras.iter().map(|(id, counts)| {
            let topic = self.topics.get(usize::from(id.0)).cloned();
            (topic.unwrap_or_else(|| format!("camera {}", id.0)), *counts)
        });
        let stage_ms = Stage::ALL.into_iter().filter_map(|stage| {
            let times = self.stages[stage as usize].percentiles()?;
            Some((stage.name().to_owned(), StagePercentiles { p50: times.p50, p99: times.p99 }))
        });
        let mut damage = facts.damage;
        damage.extend(self.foreign_labels_message());
        Summary {
            schema: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bag: facts.bag,
            mode: self.mode,
            model: facts.model,
            backend: facts.backend,
            threads: facts.threads,
            size: self.sizes.first().copied(),
            sizes: self.sizes.clone(),
            frames_in: sum(|c| c.frames_in),
            frames_out,
            frames_rejected: self.rejected.clone(),
            per_camera: per_camera.collect(),
            scored_frames: self.scored_frames,
            label_size_mismatch: self.label_size_mismatch,
            miou: pair(|tally| tally.all.miou()),
            boundary_miou: pair(|tally| tally.band.miou()),
            pixel_accuracy: pair(|tally| tally.all.accuracy()),
            per_class_iou: if self.scored_frames > 0 { self.class_scores() } else { Vec::new() },
            selected_fraction: share(self.pixels_selected),
            refined_fraction: share(self.pixels_refined),
            dropped_fraction: share(self.pixels_dropped),
            non_finite_cells: self.non_finite_cells,
            latency_ms: self.latency.percentiles(),
            stage_ms: stage_ms.collect(),
            fps: if facts.wall_s > 0.0 { frames_out as f64 / facts.wall_s } else { 0.0 },
            wall_s: facts.wall_s,
            damage,
        }
    }

    fn class_scores(&self) -> Vec<ClassScore> {
        let own = self.classes.iter().map(|class| (class.label, class.name.clone()));
        let foreign =
            self.foreign_labels().into_iter().map(|label| (label, format!("label {label} (no class)")));
        own.chain(foreign)
            .map(|(label, name)| ClassScore {
                name,
                label,
                iou: Scores::new(self.mode, self.output.all.iou(label), self.coarse.all.iou(label)),
                pixels: self.output.all.truth_pixels(label),
            })
            .collect()
    }

    /// Labels of the ground truth that no class of the model has.
    fn foreign_labels(&self) -> Vec<u8> {
        let known = |label: &u8| self.classes.iter().any(|class| class.label == *label);
        self.output.all.labels().filter(|label| !known(label)).collect()
    }

    fn foreign_labels_message(&self) -> Option<String> {
        let labels: Vec<_> = self.foreign_labels().iter().map(u8::to_string).collect();
        (!labels.is_empty()).then(|| {
            format!(
                "the ground truth holds label values that are no class of the model ({}): no prediction can match \
                 them, and each lowers the mIoU; use 255 for pixels to be ignored",
                labels.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::validate;
    use super::*;
    use crate::types::{StageTimes, UNLABELLED};

    fn classes() -> Vec<ClassInfo> {
        let class = |name: &str, label| ClassInfo { name: name.into(), colour: [1, 2, 3], label };
        vec![class("road", 0), class("car", 1), class("truck, as car", 1), class("sky", 2)]
    }

    fn topics() -> Vec<String> {
        vec!["/front".into(), "/rear".into()]
    }

    fn image(width: u32, data: Vec<u8>) -> LabelImage {
        LabelImage { size: Size::new(width, data.len() as u32 / width), data }
    }

    fn report(camera: u16, size: Size) -> FrameReport {
        let mut stages = StageTimes::default();
        stages.add(Stage::Segment, 20.0);
        FrameReport {
            camera: CameraId(camera),
            size,
            pixels_selected: 30,
            pixels_refined: 20,
            pixels_dropped: 10,
            non_finite_cells: 1,
            stages,
            ..FrameReport::default()
        }
    }

    fn facts() -> RunFacts {
        RunFacts {
            bag: "b".into(),
            wall_s: 0.5,
            threads: 2,
            damage: vec!["torn".into()],
            ..RunFacts::default()
        }
    }

    /// 40x1: half road, half car; the coarse edge is 2 pixels off.
    fn scene() -> (LabelImage, LabelImage) {
        let half = |edge| image(40, (0..40).map(|x| u8::from(x >= edge)).collect());
        (half(20), half(22))
    }

    #[test]
    fn scores_counts_and_times_of_two_cameras() {
        let (truth, coarse) = scene();
        let mut scorer = Scorer::new(Mode::Refined, &classes(), &topics());
        let frame = scorer.add_frame(&report(0, truth.size), Some(&truth), Some(&coarse), &truth, 100.0);
        assert_eq!(frame.refined, Some(1.0));
        assert_eq!(frame.coarse, Some((20.0 / 22.0 + 18.0 / 20.0) / 2.0));
        scorer.add_frame(&report(1, truth.size), None, Some(&coarse), &truth, 200.0);
        scorer.add_rejected(CameraId(1), "undecodable");
        scorer.add_rejected(CameraId(1), "undecodable");

        let summary = scorer.finish(facts());
        assert_eq!((summary.frames_in, summary.frames_out, summary.scored_frames), (4, 2, 1));
        assert_eq!(summary.frames_rejected, BTreeMap::from([("undecodable".into(), 2)]));
        let rear = CameraCounts { frames_in: 3, frames_out: 1, frames_rejected: 2 };
        assert_eq!(summary.per_camera["/rear"], rear);
        // The band is columns 12..28, 8 of each class.
        assert_eq!(summary.boundary_miou.coarse, Some((8.0 / 10.0 + 6.0 / 8.0) / 2.0));
        assert_eq!(summary.boundary_miou.refined, Some(1.0));
        assert_eq!(summary.pixel_accuracy.coarse, Some(38.0 / 40.0));
        let names: Vec<_> = summary.per_class_iou.iter().map(|c| (c.name.as_str(), c.pixels)).collect();
        assert_eq!(names, [("road", 20), ("car", 20), ("sky", 0)], "a shared label is listed once");
        assert_eq!(summary.per_class_iou[2].iou, Scores::default());
        assert_eq!((summary.selected_fraction, summary.dropped_fraction), (0.75, 0.25));
        assert_eq!((summary.fps, summary.non_finite_cells), (4.0, 2));
        assert_eq!(summary.latency_ms.map(|l| (l.p50, l.max)), Some((100.0, 200.0)));
        assert_eq!(summary.stage_ms["segment"], StagePercentiles { p50: 20.0, p99: 20.0 });
        assert_eq!(summary.damage, ["torn"]);
        assert_eq!(scorer.latencies_ms(), [100.0, 200.0]);
        assert_eq!(validate(&serde_json::to_value(&summary).unwrap()), Ok(()));
    }

    #[test]
    fn pooled_miou_is_that_of_all_pixels_together() {
        let mut scorer = Scorer::new(Mode::Coarse, &classes(), &topics());
        let size = Size::new(4, 1);
        let truth = [image(4, vec![0, 0, 0, 0]), image(4, vec![0, 2, 2, 2])];
        let output = [image(4, vec![0, 0, 0, 2]), image(4, vec![0, 0, 2, 2])];
        for (truth, output) in truth.iter().zip(&output) {
            scorer.add_frame(&report(0, size), Some(truth), None, output, 1.0);
        }
        let miou = scorer.finish(facts()).miou;
        assert_eq!(miou, Scores { coarse: Some((4.0 / 6.0 + 2.0 / 4.0) / 2.0), refined: None, dense: None });
    }

    #[test]
    fn ground_truth_of_another_size_is_counted_and_not_scored() {
        let (truth, coarse) = scene();
        let mut scorer = Scorer::new(Mode::Refined, &classes(), &topics());
        let other = image(20, vec![0; 40]);
        let torn = LabelImage { size: truth.size, data: vec![0; 39] };
        for wrong in [&other, &torn] {
            let scores = scorer.add_frame(&report(0, truth.size), Some(wrong), Some(&coarse), &coarse, 1.0);
            assert_eq!(scores, Scores::default());
        }
        scorer.add_frame(&report(0, truth.size), Some(&truth), Some(&other), &coarse, 1.0);
        let summary = scorer.finish(facts());
        assert_eq!((summary.label_size_mismatch, summary.scored_frames, summary.frames_out), (3, 0, 3));
        assert_eq!(summary.miou, Scores::default(), "a frame that fails half way leaves no counts");
        assert!(summary.per_class_iou.is_empty());
    }

    #[test]
    fn an_empty_run_is_a_valid_summary() {
        let summary = Scorer::new(Mode::Refined, &[], &[]).finish(RunFacts::default());
        assert_eq!((summary.frames_in, summary.fps, summary.latency_ms), (0, 0.0, None));
        assert_eq!(validate(&serde_json::to_value(&summary).unwrap()), Ok(()));
    }

    #[test]
    fn labels_that_are_no_class_are_listed_and_said() {
        let truth = image(4, vec![0, 0, 77, UNLABELLED]);
        let mut scorer = Scorer::new(Mode::Refined, &classes(), &topics());
        scorer.add_frame(&report(9, truth.size), Some(&truth), None, &image(4, vec![0; 4]), 1.0);
        let summary = scorer.finish(facts());
        assert_eq!(summary.miou.refined, Some(1.0 / 3.0));
        let last = summary.per_class_iou.last().unwrap();
        assert_eq!((last.label, last.iou.refined, last.pixels), (77, Some(0.0), 1));
        assert!(summary.damage[1].contains("(77)"), "{:?}", summary.damage);
        assert_eq!(summary.per_camera["camera 9"].frames_out, 1);
    }
}
