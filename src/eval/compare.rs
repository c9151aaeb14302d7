//! Two runs over the same recording, side by side: how much their labels differ, where most, and what both score.

use serde_json::json;

use super::report::Panel;
use super::{Scores, Summary};
use crate::types::LabelImage;

/// How far the labels of a second run are from those of a first, frame by frame.
#[derive(Debug)]
pub struct Comparison {
    frames: u64,
    unmatched: u64,
    pixels: u64,
    differing: u64,
    /// Share of differing pixels and picture of the frames that differ most, the largest first.
    worst: Vec<(f64, Panel)>,
    keep: usize,
}

impl Comparison {
    /// Nothing compared yet; `panels` frames will be kept as pictures.
    pub fn new(panels: usize) -> Self {
        Self { frames: 0, unmatched: 0, pixels: 0, differing: 0, worst: Vec::new(), keep: panels }
    }

    /// Takes a frame in: the labels of the first run, if it has any of this size, and those of the second. `panel` is
    /// asked for a picture if the frame is among those that differ most.
    pub fn add(
        &mut self,
        first: Option<LabelImage>,
        second: &LabelImage,
        panel: impl FnOnce(LabelImage) -> Panel,
    ) {
        let Some(first) =
            first.filter(|first| first.size == second.size && first.data.len() == second.data.len())
        else {
            self.unmatched += 1;
            return;
        };
        let differing = first.data.iter().zip(&second.data).filter(|(a, b)| a != b).count();
        self.frames += 1;
        self.pixels += second.data.len() as u64;
        self.differing += differing as u64;
        let share = differing as f64 / second.data.len().max(1) as f64;
        // Behind those that differ as much: the first of equals comes first.
        let place = self.worst.partition_point(|(other, _)| *other >= share);
        if place < self.keep && differing > 0 {
            self.worst.insert(place, (share, panel(first)));
            self.worst.truncate(self.keep);
        }
    }

    /// Frames that both runs labelled.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames of the second run for which the first has no labels of that size.
    pub fn unmatched(&self) -> u64 {
        self.unmatched
    }

    /// Share of the pixels whose labels differ; `None` if no frame was compared.
    pub fn differing_fraction(&self) -> Option<f64> {
        (self.pixels > 0).then(|| self.differing as f64 / self.pixels as f64)
    }

    /// Share of differing pixels and picture of the frames that differ most, the largest first.
    pub fn worst(&self) -> &[(f64, Panel)] {
        &self.worst
    }
}

/// One number of both runs.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) values: [Option<f64>; 2],
}

/// How a number is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Share,
    Milliseconds,
    PerSecond,
}

/// What is worth comparing of two summaries, in the order it is shown.
pub(super) fn rows(first: &Summary, second: &Summary) -> Vec<Row> {
    let of = |name, unit, value: &dyn Fn(&Summary) -> Option<f64>| Row {
        name,
        unit,
        values: [value(first), value(second)],
    };
    let score = |name, scores: &dyn Fn(&Summary) -> Scores| {
        of(name, Unit::Share, &|summary| scores(summary).output(summary.mode))
    };
    vec![
        score("mIoU", &|summary| summary.miou),
        score("boundary mIoU", &|summary| summary.boundary_miou),
        score("pixel accuracy", &|summary| summary.pixel_accuracy),
        of("mIoU of the coarse labels", Unit::Share, &|summary| summary.miou.coarse),
        of("refined pixels", Unit::Share, &|summary| Some(summary.refined_fraction)),
        of("left out", Unit::Share, &|summary| Some(summary.dropped_fraction)),
        of("latency p50", Unit::Milliseconds, &|summary| summary.latency_ms.map(|ms| ms.p50)),
        of("latency p99", Unit::Milliseconds, &|summary| summary.latency_ms.map(|ms| ms.p99)),
        of("frames per second", Unit::PerSecond, &|summary| Some(summary.fps)),
    ]
}

/// The names and labels of the classes agree, so that a difference of labels is one of opinion.
pub(super) fn same_classes(first: &Summary, second: &Summary) -> bool {
    let names = |summary: &Summary| -> Vec<(String, u8)> {
        summary.per_class_iou.iter().map(|class| (class.name.clone(), class.label)).collect()
    };
    first.per_class_iou.is_empty() || second.per_class_iou.is_empty() || names(first) == names(second)
}

/// `compare.json`: both summaries, and how much the labels differ.
pub fn comparison_json(first: &Summary, second: &Summary, comparison: &Comparison) -> String {
    let differences = rows(first, second).into_iter().map(|row| {
        let difference = row.values[0].zip(row.values[1]).map(|(a, b)| b - a);
        (
            row.name.replace(' ', "_"),
            json!({ "a": row.values[0], "b": row.values[1], "b_minus_a": difference }),
        )
    });
    let value = json!({
        "schema": 1,
        "frames_compared": comparison.frames(),
        "frames_unmatched": comparison.unmatched(),
        "differing_fraction": comparison.differing_fraction(),
        "same_classes": same_classes(first, second),
        "numbers": differences.collect::<serde_json::Map<_, _>>(),
        "a": first,
        "b": second,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;
    use crate::types::Size;

    fn labels(values: [u8; 4]) -> LabelImage {
        LabelImage { size: Size::new(4, 1), data: values.to_vec() }
    }

    fn panel(title: &str) -> impl FnOnce(LabelImage) -> Panel {
        let title = title.to_owned();
        move |first| Panel {
            title,
            size: first.size,
            rgb: vec![0; 12],
            refined: labels([0; 4]),
            coarse: Some(first),
            truth: None,
            entropy: None,
        }
    }

    #[test]
    fn the_frames_that_differ_most_are_kept_and_those_without_a_partner_counted() {
        let mut comparison = Comparison::new(2);
        let second = labels([0, 0, 0, 0]);
        comparison.add(Some(labels([0, 0, 0, 1])), &second, panel("quarter"));
        comparison.add(Some(labels([0, 0, 0, 0])), &second, panel("equal"));
        comparison.add(Some(labels([1, 1, 1, 0])), &second, panel("three"));
        comparison.add(Some(labels([1, 1, 0, 0])), &second, panel("half"));
        comparison.add(Some(labels([0, 0, 2, 2])), &second, panel("half again"));
        comparison.add(None, &second, panel("alone"));
        comparison.add(Some(LabelImage::unlabelled(Size::new(2, 2))), &second, panel("other size"));
        assert_eq!((comparison.frames(), comparison.unmatched()), (5, 2));
        assert_eq!(comparison.differing_fraction(), Some(8.0 / 20.0));
        let kept: Vec<_> = comparison.worst().iter().map(|(share, p)| (*share, p.title.as_str())).collect();
        assert_eq!(kept, [(0.75, "three"), (0.5, "half")]);
        assert_eq!(Comparison::new(2).differing_fraction(), None);
    }

    #[test]
    fn json_holds_both_runs_and_the_differences() {
        let (first, mut second) = (example(), example());
        second.miou.refined = second.miou.refined.map(|miou| miou + 0.02);
        second.per_class_iou[0].name = "lawn".into();
        let text = comparison_json(&first, &second, &Comparison::new(1));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let difference = value["numbers"]["mIoU"]["b_minus_a"].as_f64().unwrap();
        assert!((difference - 0.02).abs() < 1e-9);
        assert_eq!(
            (value["same_classes"].as_bool(), value["frames_compared"].as_u64()),
            (Some(false), Some(0))
        );
        assert!(value["differing_fraction"].is_null() && value["a"]["model"]["name"] == "streets");
    }
}
