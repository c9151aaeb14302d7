//! Numbers as people read them: percent with one decimal, differences in points, counts in words.

use super::Summary;
use crate::types::Stage;

/// What stands for a number that there is none of.
pub(super) const NONE: &str = "–";

/// A fraction in percent: `61.0 %`.
pub(super) fn percent(fraction: Option<f64>) -> String {
    fraction.map_or(NONE.to_owned(), |f| format!("{:.1} %", 100.0 * f))
}

/// The difference of two fractions in points of a percent, of the values as they are shown: `+2.7`.
pub(super) fn points(from: Option<f64>, to: Option<f64>) -> String {
    let tenths = |f: f64| (1000.0 * f).round();
    from.zip(to).map_or(NONE.to_owned(), |(a, b)| match (tenths(b) - tenths(a)) / 10.0 {
        0.0 => "0.0".to_owned(),
        difference => format!("{difference:+.1}").replace('-', "−"),
    })
}

/// `1 frame`, `2 frames`.
pub(super) fn frames(count: u64) -> String {
    if count == 1 { "1 frame".to_owned() } else { format!("{count} frames") }
}

/// `1 short_data, 3 undecodable`, or nothing.
pub(super) fn rejections(summary: &Summary) -> String {
    let counts: Vec<_> = summary.frames_rejected.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    counts.join(", ")
}

/// `3840x2160`, or `1920x1080, 640x480`.
pub(super) fn sizes(summary: &Summary) -> String {
    let sizes: Vec<_> = summary.sizes.iter().map(ToString::to_string).collect();
    if sizes.is_empty() { "no images".to_owned() } else { sizes.join(", ") }
}

/// The stages that took time, in the order a frame passes them: name, p50 and p99 in milliseconds.
pub(super) fn stages(summary: &Summary) -> Vec<(&'static str, f64, f64)> {
    let times = Stage::ALL.into_iter().filter_map(|stage| {
        let times = summary.stage_ms.get(stage.name())?;
        (times.p99 > 0.0).then_some((stage.name(), times.p50, times.p99))
    });
    times.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(percent(Some(0.12345)), "12.3 %");
        assert_eq!(percent(None), "–");
        assert_eq!(points(Some(0.5834), Some(0.61)), "+2.7");
        assert_eq!(points(Some(0.61), Some(0.5834)), "−2.7");
        assert_eq!(points(Some(0.61), None), "–");
        assert_eq!(points(Some(0.5004), Some(0.4996)), "0.0", "both are shown as 50.0");
    }
}
