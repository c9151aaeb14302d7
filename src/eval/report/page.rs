//! The page around charts and panels: facts, headline numbers, tables, legend.

use std::collections::BTreeSet;

use super::maps::{BROKEN_RGB, FIXED_RGB, Palette, UNLABELLED_RGB, WRONG_RGB, heat};
use super::{Escaped, Report, charts, scores};
use crate::eval::Summary;
use crate::eval::text;
use crate::types::UNLABELLED;

const STYLE: &str = include_str!("report.css");

pub(super) fn page(report: &Report<'_>) -> String {
    let summary = report.summary;
    let (model, bag) = (Escaped(&summary.model.name), Escaped(&summary.bag));
    let sections = [
        facts(summary),
        attention(summary),
        scores::headline(summary),
        scores::classes(report),
        time(report),
        cameras(summary),
        frames(report),
        format!(
            "<footer>sparse_refine {}, summary schema {}</footer>",
            Escaped(&summary.version),
            summary.schema
        ),
    ];
    let header = format!(
        "<header><p class=\"eyebrow\">sparse_refine replay</p><h1>{model} <span>on</span> {bag}</h1></header>"
    );
    document(&format!("{} on {}", summary.model.name, summary.bag), &header, &sections)
}

/// A page that needs nothing but itself; `header` and `sections` are HTML, the title is not.
pub(super) fn document(title: &str, header: &str, sections: &[String]) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{header}\n\
         {}\n</main>\n</body>\n</html>\n",
        Escaped(title),
        sections.join("\n")
    )
}

fn facts(summary: &Summary) -> String {
    let backend = &summary.backend;
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
        ("Device", backend.device.clone()),
        ("Chosen because", backend.reason.clone()),
    ];
    let known = facts.iter().filter(|(_, value)| !value.is_empty());
    let items = known.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value)));
    format!("<dl class=\"facts\">{}</dl>", items.collect::<String>())
}

/// What a reader must know before believing the numbers.
fn attention(summary: &Summary) -> String {
    let mut damage = summary.damage.clone();
    if summary.label_size_mismatch > 0 {
        let n = summary.label_size_mismatch;
        damage.push(format!(
            "{} not scored: the ground truth has another size than the image",
            text::frames(n)
        ));
    }
    if summary.non_finite_cells > 0 {
        let n = summary.non_finite_cells;
        damage.push(format!(
            "the dense network gave NaN or infinite logits in {n} cells: their pixels are unlabelled"
        ));
    }
    let rejected = summary.frames_in.saturating_sub(summary.frames_out);
    if rejected > 0 {
        damage.push(format!("{} rejected: {}", text::frames(rejected), text::rejections(summary)));
    }
    if damage.is_empty() {
        return String::new();
    }
    let items: String = damage.iter().map(|text| format!("<li>{}</li>", Escaped(text))).collect();
    format!("<section class=\"trouble\"><h2>Attention</h2><ul>{items}</ul></section>")
}

/// Rejected frames by reason and, with several cameras or rejections, the counts of each camera.
fn cameras(summary: &Summary) -> String {
    let mut html = String::new();
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

pub(super) fn table(title: &str, note: &str, head: &str, rows: &str) -> String {
    format!(
        "<section><h2>{title}</h2><p class=\"note\">{note}</p>\
         <table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>"
    )
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
         labels, in milliseconds, in the order of the frames.</p>{}</section></div>",
        charts::latency_line(report.latencies_ms, latency.p50, latency.p99)
    )
}

fn frames(report: &Report<'_>) -> String {
    if report.panels.is_empty() {
        return String::new();
    }
    let palette = Palette::new(report.classes);
    let output = report.summary.mode.to_string();
    let panels: String =
        report.panels.iter().map(|panel| panel.to_html(&palette, ["coarse", &output])).collect();
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
        let (name, largest) = entropy.measure.legend();
        html += &format!(
            "<ul class=\"legend\"><li class=\"lead\">{name}</li><li>0<i class=\"ramp\" \
             style=\"background:linear-gradient(90deg,{})\"></i>{:.2} {largest}</li></ul>",
            stops.collect::<Vec<_>>().join(","),
            entropy.max
        );
    }
    html
}

pub(super) fn swatch(colour: [u8; 3]) -> String {
    format!("<i class=\"swatch\" style=\"background:{}\"></i>", css(colour))
}

fn css([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}
