//! `compare.html`: two runs over the same recording on one page.

use super::maps::Palette;
use super::{Escaped, page};
use crate::eval::compare::{Comparison, Unit, rows, same_classes};
use crate::eval::text::{NONE, percent, points};
use crate::eval::{Summary, text};
use crate::types::ClassInfo;

/// What the page shows. A is the first run, B the second.
pub struct ComparisonReport<'a> {
    /// The first run in numbers.
    pub first: &'a Summary,
    /// The second.
    pub second: &'a Summary,
    /// How their labels differ.
    pub comparison: &'a Comparison,
    /// Names and colours of the labels.
    pub classes: &'a [ClassInfo],
}

impl ComparisonReport<'_> {
    /// The whole page.
    pub fn to_html(&self) -> String {
        let (a, b) = (name(self.first), name(self.second));
        let bag = Escaped(&self.second.bag);
        let header = format!(
            "<header><p class=\"eyebrow\">sparse_refine replay --compare</p>\
             <h1>{} <span>and</span> {} <span>on</span> {bag}</h1></header>",
            Escaped(&a),
            Escaped(&b)
        );
        let sections =
            [self.attention(), self.runs(&a, &b), self.numbers(), self.per_class(), self.pictures(&a, &b)];
        page::document(&format!("{a} and {b} on {}", self.second.bag), &header, &sections)
    }

    fn attention(&self) -> String {
        let mut notes = Vec::new();
        if !same_classes(self.first, self.second) {
            notes.push(
                "the classes of the two bundles differ: labels are compared by their values".to_owned(),
            );
        }
        if self.comparison.unmatched() > 0 {
            let frames = text::frames(self.comparison.unmatched());
            notes.push(format!("{frames} not compared: A gave no labels of the same size"));
        }
        if notes.is_empty() {
            return String::new();
        }
        let items: String = notes.iter().map(|note| format!("<li>{note}</li>")).collect();
        format!("<section class=\"trouble\"><h2>Attention</h2><ul>{items}</ul></section>")
    }

    fn runs(&self, a: &str, b: &str) -> String {
        let row = |letter: &str, name: &str, run: &Summary| {
            format!(
                "<tr><td>{letter}</td><td>{}</td><td>{}</td><td>{}</td><td>{}, {}</td></tr>",
                Escaped(name),
                Escaped(&run.model.path),
                run.mode,
                Escaped(&run.backend.segmenter),
                Escaped(&run.backend.refiner)
            )
        };
        page::table(
            "Runs",
            "B ran after A over the same recording; their times come from different moments.",
            "<th></th><th>Model</th><th>Folder</th><th>Mode</th><th>Networks</th>",
            &(row("A", a, self.first) + &row("B", b, self.second)),
        )
    }

    fn numbers(&self) -> String {
        let compared = text::frames(self.comparison.frames());
        let mut lines = format!(
            "<tr><td>pixels with different labels</td><td></td><td></td><td>{}</td></tr>",
            percent(self.comparison.differing_fraction())
        );
        for row in rows(self.first, self.second) {
            let [a, b] = row.values;
            let (cells, difference) = match row.unit {
                Unit::Share => ([percent(a), percent(b)], points(a, b)),
                Unit::Milliseconds => ([a, b].map(|ms| plain(ms, " ms")), ratio(a, b)),
                Unit::PerSecond => ([a, b].map(|fps| plain(fps, "")), ratio(a, b)),
            };
            lines += &format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{difference}</td></tr>",
                row.name, cells[0], cells[1]
            );
        }
        page::table(
            "In short",
            &format!("Over {compared}; shares differ in points, times and rates by a factor."),
            "<th></th><th>A</th><th>B</th><th>B against A</th>",
            &lines,
        )
    }

    fn per_class(&self) -> String {
        let (first, second) = (self.first, self.second);
        if second.per_class_iou.is_empty() {
            return String::new();
        }
        let rows = second.per_class_iou.iter().map(|class| {
            let former = first.per_class_iou.iter().find(|other| other.name == class.name);
            let (a, b) =
                (former.and_then(|class| class.iou.output(first.mode)), class.iou.output(second.mode));
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                Escaped(&class.name),
                percent(a),
                percent(b),
                points(a, b)
            )
        });
        page::table(
            "Classes",
            "IoU of the labels that each run put out, by the class's name.",
            "<th>Class</th><th>A</th><th>B</th><th>Difference</th>",
            &rows.collect::<String>(),
        )
    }

    fn pictures(&self, a: &str, b: &str) -> String {
        let worst = self.comparison.worst();
        if worst.is_empty() {
            return "<section><h2>Frames</h2><p class=\"note\">No pixel of any frame differs.</p></section>"
                .to_owned();
        }
        let palette = Palette::new(self.classes);
        // Captions are written as they are.
        let names = [format!("A: {}", Escaped(a)), format!("B: {}", Escaped(b))];
        let panels: String = worst
            .iter()
            .map(|(share, panel)| {
                let html = panel.to_html(&palette, [&names[0], &names[1]]);
                format!("<p class=\"note\">{} of the pixels differ</p>{html}", percent(Some(*share)))
            })
            .collect();
        format!("<section class=\"bare\"><h2>Frames that differ most</h2>{panels}</section>")
    }
}

fn name(run: &Summary) -> String {
    format!("{} ({})", run.model.name, run.mode)
}

fn plain(value: Option<f64>, unit: &str) -> String {
    value.map_or(NONE.to_owned(), |value| format!("{value:.2}{unit}"))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> String {
    match a.zip(b) {
        Some((a, b)) if a > 0.0 => format!("× {:.2}", b / a),
        _ => NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Panel;
    use super::*;
    use crate::eval::summary::tests::example;
    use crate::types::{LabelImage, Size};

    #[test]
    fn the_page_shows_both_runs_their_differences_and_where_they_differ() {
        let (first, mut second) = (example(), example());
        second.model.name = "<i>other</i>".into();
        second.miou.refined = second.miou.refined.map(|miou| miou + 0.021);
        second.fps = 2.0 * first.fps;
        let size = Size::new(8, 4);
        let mut comparison = Comparison::new(1);
        let labels = |value| LabelImage { size, data: vec![value; 32] };
        comparison.add(Some(labels(1)), &labels(2), |former| Panel {
            title: "/front".into(),
            size,
            rgb: vec![9; 96],
            coarse: Some(former),
            refined: labels(2),
            truth: None,
            entropy: None,
        });
        comparison.add(None, &labels(2), |_| unreachable!("there is nothing to compare"));
        let report =
            ComparisonReport { first: &first, second: &second, comparison: &comparison, classes: &[] };
        let html = report.to_html();
        for shown in [
            "+2.1",
            "× 2.00",
            "100.0 %",
            "A: streets (refined) labels",
            "B: &lt;i&gt;other&lt;/i&gt; (refined) labels",
            "1 frame not compared",
            "changed pixels",
        ] {
            assert!(html.contains(shown), "{shown}");
        }
        assert!(!html.contains("<i>other") && !html.contains("NaN"));
        let equal = Comparison::new(1);
        let report = ComparisonReport { comparison: &equal, ..report };
        assert!(report.to_html().contains("No pixel of any frame differs"));
    }
}
