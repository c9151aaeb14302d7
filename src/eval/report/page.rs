//! The page around charts and panels: facts, headline numbers, tables, legend.

use std::collections::BTreeSet;

use super::maps::{BROKEN_RGB, FIXED_RGB, Palette, UNLABELLED_RGB, WRONG_RGB, heat};
use super::{Escaped, Report, charts};
use crate::eval::text::{self, NONE, percent, points};
use crate::eval::{Scores, Summary};
use crate::types::{Mode, UNLABELLED};

const STYLE: &str = include_str!("report.css");

pub(super) fn page(report: &Report<'_>) -> String {
    let summary = report.summary;
    let (model, bag) = (Escaped(&summary.model.name), Escaped(&summary.bag));
    let sections = [
        facts(summary),
        trouble(summary),
        headline(summary),
        classes(report),
        time(report),
        frames(report),
        format!(
            "<footer>sparse_refine {}, summary schema {}</footer>",
            Escaped(&summary.version),
            summary.schema
        ),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'\">\n\
         <title>{model} on {bag}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><p class=\"eyebrow\">sparse_refine replay</p><h1>{model} <span>on</span> {bag}</h1></header>\n\
         {}\n</main>\n</body>\n</html>\n",
        sections.join("\n")
    )
}

fn facts(summary: &Summary) -> String {
    let backend = &summary.backend;
    let threads =
        if summary.threads == 1 { "1 thread".into() } else { format!("{} threads", summary.threads) };
    let facts = [
        ("Mode", summary.mode.to_string()),
        ("Camera", text::sizes(summary)),
        (
            "Frames",
            format!(
                "{} of {} labelled, {} scored",
                summary.frames_out, summary.frames_in, summary.scored_frames
            ),
        ),
        ("Model", summary.model.path.clone()),
        ("Dense network", backend.segmenter.clone()),
        ("Sparse network", backend.refiner.clone()),
        ("Device", format!("{}, {threads}", backend.device)),
        ("Chosen because", backend.reason.clone()),
    ];
    let known = facts.iter().filter(|(_, value)| !value.is_empty());
    let items = known.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value)));
    format!("<dl class=\"facts\">{}</dl>", items.collect::<String>())
}

/// Damage, rejected frames and, with several cameras or rejections, the counts of each camera.
fn trouble(summary: &Summary) -> String {
    let mut html = String::new();
    let mut damage = summary.damage.clone();
    if summary.label_size_mismatch > 0 {
        let n = summary.label_size_mismatch;
        damage
            .push(format!("{n} frames were not scored: their ground truth has another size than the image"));
    }
    if summary.non_finite_cells > 0 {
        let n = summary.non_finite_cells;
        damage.push(format!(
            "the dense network gave NaN or infinite logits in {n} cells: their pixels are unlabelled"
        ));
    }
    if !damage.is_empty() {
        let items = damage.iter().map(|text| format!("<li>{}</li>", Escaped(text)));
        html += &format!(
            "<section class=\"trouble\"><h2>Attention</h2><ul>{}</ul></section>",
            items.collect::<String>()
        );
    }
    if !summary.frames_rejected.is_empty() {
        let counts = summary.frames_rejected.iter();
        let rows = counts.map(|(reason, n)| format!("<tr><td>{}</td><td>{n}</td></tr>", Escaped(reason)));
        html += &table(
            "Rejected frames",
            "Frames that gave no labels; the stream went on without them.",
            "<th>Reason</th><th>Frames</th>",
            &rows.collect::<String>(),
        );
    }
    if summary.per_camera.len() > 1 || !summary.frames_rejected.is_empty() {
        let rows = summary.per_camera.iter().map(|(topic, n)| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                Escaped(topic),
                n.frames_in,
                n.frames_out,
                n.frames_rejected
            )
        });
        html += &table(
            "Cameras",
            "Frames by image topic.",
            "<th>Topic</th><th>In</th><th>Labelled</th><th>Rejected</th>",
            &rows.collect::<String>(),
        );
    }
    if html.is_empty() { html } else { format!("<div class=\"columns\">{html}</div>") }
}

fn table(title: &str, note: &str, head: &str, rows: &str) -> String {
    format!(
        "<section><h2>{title}</h2><p class=\"note\">{note}</p>\
         <table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>"
    )
}

fn headline(summary: &Summary) -> String {
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

fn classes(report: &Report<'_>) -> String {
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

fn time(report: &Report<'_>) -> String {
    let Some(latency) = report.summary.latency_ms else { return String::new() };
    let stages = text::stages(report.summary);
    let stages = if stages.is_empty() {
        String::new()
    } else {
        format!(
            "<section><h2>Stages</h2><p class=\"note\">Time of each step of a frame: the bar ends at the median, the \
             whisker at the 99th percentile.</p>{}</section>",
            charts::stage_bars(&stages)
        )
    };
    format!(
        "<div class=\"columns\">{stages}<section><h2>Latency</h2><p class=\"note\">Time from a frame taken up to its \
         labels, in the order of the frames.</p>{}</section></div>",
        charts::latency_line(report.latencies_ms, latency.p50, latency.p99)
    )
}

fn frames(report: &Report<'_>) -> String {
    if report.panels.is_empty() {
        return String::new();
    }
    let palette = Palette::new(report.classes);
    let output = report.summary.mode.to_string();
    let panels: String = report.panels.iter().map(|panel| panel.to_html(&palette, &output)).collect();
    format!("<section class=\"bare\"><h2>Frames</h2>{}{panels}</section>", legend(report))
}

fn legend(report: &Report<'_>) -> String {
    let mut seen = BTreeSet::new();
    let classes = report.classes.iter().filter(|class| seen.insert(class.label));
    let entry = |colour, name: &str| format!("<li>{}{}</li>", swatch(colour), Escaped(name));
    let mut items: String = classes.map(|class| entry(class.colour, &class.name)).collect();
    items += &entry(UNLABELLED_RGB, &format!("unlabelled ({UNLABELLED})"));
    let mut html = format!("<ul class=\"legend\">{items}</ul>");
    let compared = report.panels.iter().any(|panel| panel.coarse.is_some());
    if compared {
        html += &format!(
            "<ul class=\"legend\"><li class=\"lead\">Errors</li>{}{}{}</ul>",
            entry(FIXED_RGB, "coarse wrong, now right (without ground truth: changed)"),
            entry(BROKEN_RGB, "coarse right, now wrong"),
            entry(WRONG_RGB, "wrong in both")
        );
    }
    if let Some(entropy) = report.panels.iter().find_map(|panel| panel.entropy.as_ref()) {
        let stops = (0..=4).map(|i| css(heat(i as f32 / 4.0)));
        html += &format!(
            "<ul class=\"legend\"><li class=\"lead\">Entropy</li><li>0<i class=\"ramp\" \
             style=\"background:linear-gradient(90deg,{})\"></i>{:.2} nats, that of a guess among all \
             classes</li></ul>",
            stops.collect::<Vec<_>>().join(","),
            entropy.max
        );
    }
    html
}

fn swatch(colour: [u8; 3]) -> String {
    format!("<i class=\"swatch\" style=\"background:{}\"></i>", css(colour))
}

fn css([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}
