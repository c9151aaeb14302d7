//! A summary as plain text, for the end of a run in a terminal.

use std::path::Path;

use super::{Scores, Summary, text};
use crate::types::Mode;

/// The scores of the coarse labels and of the output side by side, then speed and cost, then where the report is.
pub fn table(summary: &Summary, report: Option<&Path>) -> String {
    let mode = summary.mode;
    let (frames_in, frames_out) = (summary.frames_in, summary.frames_out);
    let size = text::sizes(summary);
    let mut out = format!(
        "{} on {}: mode {mode}, {size}, {frames_out} of {frames_in} frames labelled\n\n",
        summary.model.name, summary.bag
    );
    if summary.scored_frames == 0 {
        out += "no ground truth: nothing scored\n";
    } else {
        let rows = [
            ("mIoU", summary.miou),
            ("boundary mIoU", summary.boundary_miou),
            ("pixel accuracy", summary.pixel_accuracy),
        ];
        out += &scores(mode, &rows);
    }
    out += "\n";

    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            out += &format!("{name:<10}  {value}\n");
        }
    };
    let percent = |fraction| text::percent(Some(fraction));
    if mode == Mode::Refined {
        let (selected, dropped) = (percent(summary.selected_fraction), percent(summary.dropped_fraction));
        let refined = percent(summary.refined_fraction);
        line("refined", &format!("{refined} of all pixels (selected {selected}, left out {dropped})"));
    }
    if let Some(latency) = summary.latency_ms {
        let (p50, p99) = (latency.p50, latency.p99);
        line("speed", &format!("{:.2} frames/s, latency p50 {p50:.1} ms, p99 {p99:.1} ms", summary.fps));
    }
    let stages: Vec<_> =
        text::stages(summary).iter().map(|(name, p50, _)| format!("{name} {p50:.1}")).collect();
    let unit = if stages.is_empty() { "" } else { " (p50, ms)" };
    line("stages", &(stages.join(", ") + unit));
    let backend = &summary.backend;
    line("backend", &format!("{}, {} on {}", backend.segmenter, backend.refiner, backend.device));
    line("rejected", &text::rejections(summary));
    if summary.label_size_mismatch > 0 {
        line(
            "unscored",
            &format!("{}, ground truth of another size", text::frames(summary.label_size_mismatch)),
        );
    }
    for damage in &summary.damage {
        line("damage", damage);
    }
    line("report", &report.map_or(String::new(), |path| path.display().to_string()));
    out
}

fn scores(mode: Mode, rows: &[(&str, Scores)]) -> String {
    if mode == Mode::Coarse {
        let lines =
            rows.iter().map(|(name, scores)| format!("{name:<15} {:>8}\n", text::percent(scores.coarse)));
        return format!("{:<15} {:>8}\n", "", "coarse") + &lines.collect::<String>();
    }
    let lines = rows.iter().map(|(name, scores)| {
        let (coarse, output) = (scores.baseline(mode), scores.output(mode));
        let (left, right) = (text::percent(coarse), text::percent(output));
        format!("{name:<15} {left:>8} {right:>8} {:>11}\n", text::points(coarse, output))
    });
    format!("{:<15} {:>8} {:>8} {:>11}\n", "", "coarse", mode.to_string(), "difference")
        + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;

    #[test]
    fn a_refined_run() {
        let expected = "\
streets on drive.mcap: mode refined, 3840x2160, 40 of 42 frames labelled

                  coarse  refined  difference
mIoU              58.3 %   61.0 %        +2.7
boundary mIoU     41.2 %   49.8 %        +8.6
pixel accuracy    91.0 %   92.5 %        +1.5

refined     12.3 % of all pixels (selected 13.0 %, left out 0.7 %)
speed       3.10 frames/s, latency p50 310.5 ms, p99 402.0 ms
stages      preprocess 9.0, segment 140.2, refine 120.0 (p50, ms)
backend     rten, cpu (avx512) on cpu
rejected    1 short_data, 1 undecodable
report      out/report.html
";
        assert_eq!(table(&example(), Some(Path::new("out/report.html"))), expected);
    }

    #[test]
    fn a_coarse_run_without_ground_truth_that_met_damage() {
        let mut summary = example();
        summary.mode = Mode::Coarse;
        summary.scored_frames = 0;
        summary.label_size_mismatch = 3;
        summary.damage = vec!["chunk 7 is torn".into()];
        summary.frames_rejected.clear();
        let expected = "\
streets on drive.mcap: mode coarse, 3840x2160, 40 of 42 frames labelled

no ground truth: nothing scored

speed       3.10 frames/s, latency p50 310.5 ms, p99 402.0 ms
stages      preprocess 9.0, segment 140.2, refine 120.0 (p50, ms)
backend     rten, cpu (avx512) on cpu
unscored    3 frames, ground truth of another size
damage      chunk 7 is torn
";
        assert_eq!(table(&summary, None), expected);
    }

    #[test]
    fn a_coarse_run_has_one_column() {
        let rows = [("mIoU", Scores::new(Mode::Coarse, Some(0.5), None))];
        assert_eq!(scores(Mode::Coarse, &rows), "                  coarse\nmIoU              50.0 %\n");
    }
}
