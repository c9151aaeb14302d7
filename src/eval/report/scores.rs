//! The numbers of a run: the headline tiles and the table of classes.

use super::maps::UNLABELLED_RGB;
use super::page::{swatch, table};
use super::{Escaped, Report};
use crate::eval::text::{NONE, percent, points};
use crate::eval::{Scores, Summary};
use crate::types::Mode;

pub(super) fn headline(summary: &Summary) -> String {
    let mode = summary.mode;
    let score = |name: &str, scores: Scores, explanation: &str| {
        let (coarse, output) = (scores.baseline(mode), scores.output(mode));
        let sub = match coarse {
            Some(_) => format!("coarse {}, <b>{}</b> points", percent(coarse), points(coarse, output)),
            None => format!("{mode} labels"),
        };
        tile(name, &percent(output), &sub, explanation)
    };
    let mut tiles = String::new();
    if summary.scored_frames > 0 {
        tiles += &score(
            "mIoU",
            summary.miou,
            "Intersection over union of labels and ground truth, the mean over the classes that occur in it, all \
             frames counted together.",
        );
        tiles += &score(
            "Boundary mIoU",
            summary.boundary_miou,
            "The same, only over the pixels within 8 px of an edge of the ground truth.",
        );
        tiles +=
            &score("Pixel accuracy", summary.pixel_accuracy, "Share of the labelled pixels that are right.");
    }
    if mode == Mode::Refined {
        let sub = format!(
            "selected {}, left out {}",
            percent(Some(summary.selected_fraction)),
            percent(Some(summary.dropped_fraction))
        );
        tiles += &tile(
            "Refined",
            &percent(Some(summary.refined_fraction)),
            &sub,
            "Share of the camera's pixels that the sparse network looked at, out of those whose entropy exceeds the \
             threshold; what exceeds the capacity keeps its coarse label.",
        );
    }
    let p50 = summary.latency_ms.map_or(NONE.to_owned(), |ms| format!("{:.1} ms", ms.p50));
    let p99 = summary
        .latency_ms
        .map_or(NONE.to_owned(), |ms| format!("p99 {:.1} ms, max {:.1} ms", ms.p99, ms.max));
    tiles += &tile(
        "Latency",
        &p50,
        &p99,
        "Time from a frame taken up to its labels: half of the frames took no longer.",
    );
    let wall = format!("{:.1} s for the whole run", summary.wall_s);
    tiles += &tile(
        "Frames per second",
        &format!("{:.2}", summary.fps),
        &wall,
        "Frames labelled, by the wall clock.",
    );
    let note = if summary.scored_frames > 0 {
        ""
    } else {
        "<p class=\"note\">No ground truth was found for any frame, so nothing is scored.</p>"
    };
    format!("<section class=\"bare\"><h2>In short</h2>{note}<div class=\"tiles\">{tiles}</div></section>")
}

fn tile(name: &str, value: &str, sub: &str, explanation: &str) -> String {
    format!(
        "<div class=\"tile\"><h3>{name}</h3><p class=\"value\">{value}</p><p class=\"sub\">{sub}</p>\
         <p class=\"note\">{explanation}</p></div>"
    )
}

pub(super) fn classes(report: &Report<'_>) -> String {
    let summary = report.summary;
    if summary.per_class_iou.is_empty() {
        return String::new();
    }
    let mode = summary.mode;
    let compared = summary.miou.baseline(mode).is_some();
    let labelled = summary.per_class_iou.iter().map(|class| class.pixels).sum::<u64>().max(1);
    let rows = summary.per_class_iou.iter().map(|class| {
        let colour =
            report.classes.iter().find(|own| own.label == class.label).map_or(UNLABELLED_RGB, |c| c.colour);
        let (coarse, output) = (class.iou.baseline(mode), class.iou.output(mode));
        let number = |score: Option<f64>| score.map_or(NONE.to_owned(), |s| format!("{:.1}", 100.0 * s));
        let bar = |kind: &str, score: Option<f64>| {
            score.map_or(String::new(), |s| {
                format!("<i class=\"{kind}\" style=\"width:{:.1}%\"></i>", 100.0 * s)
            })
        };
        let difference = points(coarse, output);
        let sign = match difference.chars().next() {
            Some('+') => "up",
            Some('−') => "down",
            _ => "even",
        };
        let compared = if compared {
            format!(
                "<td>{}</td><td>{}</td><td class=\"{sign}\">{difference}</td>",
                number(coarse),
                number(output)
            )
        } else {
            format!("<td>{}</td>", number(output))
        };
        format!(
            "<tr><td>{}{}</td><td>{}</td>{compared}<td class=\"bars\">{}{}</td></tr>",
            swatch(colour),
            Escaped(&class.name),
            if class.pixels > 0 {
                percent(Some(class.pixels as f64 / labelled as f64))
            } else {
                NONE.to_owned()
            },
            bar("coarse", coarse),
            bar("output", output),
        )
    });
    let head = if compared {
        format!("<th>Coarse</th><th>{}</th><th>Difference</th>", capital(mode))
    } else {
        format!("<th>{}</th>", capital(mode))
    };
    table(
        "Classes",
        "IoU of each class in percent, and the class's share of the labelled pixels; a dash stands for a class that \
         does not occur in the ground truth.",
        &format!("<th>Class</th><th>Pixels</th>{head}<th></th>"),
        &rows.collect::<String>(),
    )
}

fn capital(mode: Mode) -> &'static str {
    match mode {
        Mode::Refined => "Refined",
        Mode::Coarse => "Coarse",
        Mode::Dense => "Dense",
    }
}
