//! Accuracy against time: one page with one line.

use std::fmt::Write;

/// A page that plots `(milliseconds, percent)` in the order given, alone or beside a run's report.
pub fn budget_page(points: &[(f64, f64)]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 360.0;
    const MARGIN: f64 = 56.0;
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low < high { (low, high) } else { (low - 1.0, low + 1.0) }
    };
    let (x0, x1) = range(&mut points.iter().map(|point| point.0).chain([0.0]));
    let (y0, y1) = range(&mut points.iter().map(|point| point.1));
    let x = |ms: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * (ms - x0) / (x1 - x0);
    let y = |percent: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * (percent - y0) / (y1 - y0);
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let line: Vec<_> = sorted.iter().map(|&(ms, miou)| format!("{:.1},{:.1}", x(ms), y(miou))).collect();
    let mut marks = String::new();
    let mut write = |text: std::fmt::Arguments<'_>| {
        marks.write_fmt(text).expect("a string takes everything");
    };
    for &(ms, miou) in &sorted {
        write(format_args!(
            r#"<circle cx="{0:.1}" cy="{1:.1}" r="4"/><text x="{0:.1}" y="{2:.1}">{miou:.2} %</text>"#,
            x(ms),
            y(miou),
            y(miou) - 10.0,
        ));
    }
    for step in 0..=4 {
        let ms = x0 + (x1 - x0) * f64::from(step) / 4.0;
        write(format_args!(r#"<text x="{:.1}" y="{:.1}">{ms:.0}</text>"#, x(ms), HEIGHT - MARGIN + 22.0));
    }
    format!(
        r##"<!doctype html><html lang="en"><meta charset="utf-8"><title>Accuracy against time</title>
<style>body{{font:15px sans-serif;margin:2em auto;max-width:44em}}svg{{width:100%}}text{{font-size:12px;text-anchor:middle}}
polyline{{fill:none;stroke:#2a6fbb;stroke-width:2}}circle{{fill:#2a6fbb}}path{{stroke:#999}}</style>
<h1>Accuracy against time</h1><p>mIoU in percent over the median latency of a frame in milliseconds. The leftmost point refines
nothing, the others refine what fits into a budget; the last has none.</p>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="mIoU over latency"><path d="M{MARGIN} {MARGIN}V{0}H{1}" fill="none"/>
<polyline points="{2}"/>{marks}<text x="{3}" y="{4}">milliseconds</text></svg></html>
"##,
        HEIGHT - MARGIN,
        WIDTH - MARGIN,
        line.join(" "),
        WIDTH / 2.0,
        HEIGHT - 12.0,
    )
}

#[cfg(test)]
mod tests {
    use super::budget_page;

    #[test]
    fn points_are_drawn_from_left_to_right_inside_the_picture() {
        let page = budget_page(&[(200.0, 68.5), (50.0, 60.25)]);
        let (_, rest) = page.split_once("points=\"").expect("a line");
        let (line, _) = rest.split_once('"').expect("its end");
        let points: Vec<Vec<f64>> =
            line.split(' ').map(|p| p.split(',').map(|v| v.parse().expect("a number")).collect()).collect();
        assert!(points[0][0] < points[1][0] && points[0][1] > points[1][1], "later and better: {points:?}");
        assert!(points.iter().flatten().all(|&v| (0.0..=640.0).contains(&v)));
        assert!(page.contains("60.25 %") && page.contains("68.50 %"));
        assert!(!budget_page(&[(1.0, 1.0)]).contains("NaN"));
    }
}
