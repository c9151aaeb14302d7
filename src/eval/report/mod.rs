//! `report.html`: a run on one page that needs nothing but itself. No network, no scripts, no other files.

mod charts;
mod comparison;
mod curve;
mod maps;
mod page;
mod panels;
mod scores;

use std::fmt;

pub use comparison::ComparisonReport;
pub use curve::budget_page;
pub use panels::{EntropyGrid, Measure, Panel};

use super::Summary;
use crate::types::ClassInfo;

/// What the page shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The run in numbers.
    pub summary: &'a Summary,
    /// Names and colours of the labels; several classes may share a label, the first of them counts.
    pub classes: &'a [ClassInfo],
    /// Latency of every frame in order, in milliseconds.
    pub latencies_ms: &'a [f32],
    /// A few frames to look at.
    pub panels: &'a [Panel],
}

impl Report<'_> {
    /// The whole page.
    pub fn to_html(&self) -> String {
        page::page(self)
    }
}

/// Text from outside, written so that a browser shows it and never obeys it, in content and in quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters would make the page invalid, and some terminals obey them.
                c if c.is_control() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;
    use crate::types::{LabelImage, Size};

    const ATTACK: &str = "\"'><script>alert(1)</script>";

    fn html(summary: &Summary) -> String {
        let size = Size::new(4, 2);
        let labels = LabelImage { size, data: vec![0; size.pixels()] };
        let panel = Panel {
            title: ATTACK.into(),
            size,
            rgb: vec![7; 3 * size.pixels()],
            coarse: Some(LabelImage::unlabelled(size)),
            refined: labels,
            truth: None,
            entropy: None,
        };
        let classes = [ClassInfo { name: ATTACK.into(), colour: [128, 64, 128], label: 0 }];
        Report { summary, classes: &classes, latencies_ms: &[300.0, 310.5, 402.0], panels: &[panel] }
            .to_html()
    }

    #[test]
    fn markup_is_escaped() {
        let text = Escaped("<a href=\"x\" id='y'>&amp;\u{7}é").to_string();
        assert_eq!(text, "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;\u{fffd}é");
    }

    #[test]
    fn nothing_from_outside_reaches_the_page_as_markup() {
        let mut summary = example();
        for text in [
            &mut summary.bag,
            &mut summary.model.name,
            &mut summary.model.path,
            &mut summary.backend.segmenter,
            &mut summary.backend.refiner,
            &mut summary.backend.device,
            &mut summary.backend.reason,
            &mut summary.per_class_iou[0].name,
        ] {
            *text = ATTACK.into();
        }
        summary.damage = vec![ATTACK.into()];
        let counts = summary.per_camera["/camera/front"];
        summary.per_camera = [(ATTACK.to_owned(), counts)].into();
        summary.frames_rejected = [(ATTACK.to_owned(), 1)].into();
        let html = html(&summary);
        assert!(!html.contains("<script") && !html.contains("'><"), "{html}");
        assert!(html.matches("&lt;script&gt;alert(1)").count() >= 15);
    }

    #[test]
    fn the_page_is_self_contained() {
        let html = html(&example());
        for outside in ["http:", "https:", "src=\"/", "url(", "@import", "<link", "<script"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("default-src 'none'"), "the browser refuses to load anything else");
    }

    #[test]
    fn the_numbers_of_the_run_are_on_the_page() {
        let html = html(&example());
        for shown in ["61.0 %", "58.3 %", "+2.7", "49.8 %", "12.3 %", "3.10", "undecodable", "310.5"] {
            assert!(html.contains(shown), "{shown}");
        }
    }

    #[test]
    fn a_run_without_ground_truth_or_frames_says_so() {
        let mut summary = super::super::Scorer::new(Default::default(), &[], &[]).finish(Default::default());
        summary.damage = vec!["empty recording".into()];
        let html = Report { summary: &summary, classes: &[], latencies_ms: &[], panels: &[] }.to_html();
        assert!(html.contains("No ground truth") && html.contains("empty recording"));
        assert!(!html.contains("NaN") && !html.contains("inf"));
    }
}
