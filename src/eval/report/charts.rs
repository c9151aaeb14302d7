//! The report's charts, as SVG that takes its colours from the page.

use std::fmt::Write;

const WIDTH: f64 = 560.0;

/// Time in each stage: a bar up to the median, a whisker up to the 99th percentile. Takes name, p50, p99 in ms.
pub(super) fn stage_bars(stages: &[(&str, f64, f64)]) -> String {
    const ROW: f64 = 30.0;
    const LEFT: f64 = 88.0;
    const RIGHT: f64 = 420.0;
    let height = ROW * stages.len() as f64 + 24.0;
    let longest = stages.iter().map(|&(_, _, p99)| p99).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let x = |ms: f64| LEFT + (RIGHT - LEFT) * ms / longest;
    let mut svg = open(height, "Milliseconds in each stage");
    write_svg(
        &mut svg,
        format_args!(
            r#"<text class="dim end" x="490" y="14">p50 ms</text><text class="dim end" x="558" y="14">p99 ms</text>"#
        ),
    );
    for (i, &(name, p50, p99)) in stages.iter().enumerate() {
        let middle = 24.0 + ROW * (i as f64 + 0.5);
        let (top, base) = (middle - 8.0, middle + 4.5);
        let (from, to) = (x(p50), x(p99));
        write_svg(
            &mut svg,
            format_args!(
                r#"<text class="end" x="78" y="{base:.1}">{name}</text><rect class="fill" x="{LEFT}" y="{top:.1}" width="{:.1}" height="16" rx="2"/><path class="whisker" d="M{from:.1} {middle:.1}H{to:.1}M{to:.1} {:.1}v8"/><text class="end" x="490" y="{base:.1}">{p50:.1}</text><text class="dim end" x="558" y="{base:.1}">{p99:.1}</text>"#,
                (from - LEFT).max(1.0),
                middle - 4.0,
            ),
        );
    }
    svg + "</svg>"
}

/// Latency of each frame in order, with the lines of the median and the 99th percentile. Many frames share a column;
/// it shows the slowest of them.
pub(super) fn latency_line(ms: &[f32], p50: f64, p99: f64) -> String {
    const HEIGHT: f64 = 224.0;
    const LEFT: f64 = 46.0;
    const RIGHT: f64 = WIDTH - 52.0;
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = HEIGHT - 34.0;
    const COLUMNS: usize = 300;
    let slowest = ms.iter().copied().map(f64::from).fold(p99, f64::max);
    let step = tick_step(slowest);
    let top_ms = (slowest / step).ceil().max(1.0) * step;
    let y = |ms: f64| BOTTOM - (BOTTOM - TOP) * ms / top_ms;
    let last = ms.len().saturating_sub(1).max(1) as f64;
    let x = |frame: usize| LEFT + (RIGHT - LEFT) * frame as f64 / last;

    let mut svg = open(HEIGHT, "Latency over the frames of the run");
    for tick in 0..=(top_ms / step).round() as usize {
        let value = tick as f64 * step;
        let at = y(value);
        write_svg(
            &mut svg,
            format_args!(
                r#"<path class="grid" d="M{LEFT} {at:.1}H{RIGHT}"/><text class="dim end" x="38" y="{:.1}">{value}</text>"#,
                at + 4.0
            ),
        );
    }
    let bucket = ms.len().div_ceil(COLUMNS).max(1);
    let points = ms.chunks(bucket).enumerate().map(|(i, chunk)| {
        let slowest = chunk.iter().copied().fold(0.0, f32::max);
        format!("{:.1},{:.1}", x(i * bucket), y(f64::from(slowest)))
    });
    let points: Vec<_> = points.collect();
    if let [point] = points.as_slice() {
        let (x, y) = point.split_once(',').expect("written with a comma above");
        write_svg(&mut svg, format_args!(r#"<circle class="fill" cx="{x}" cy="{y}" r="4"/>"#));
    } else {
        write_svg(&mut svg, format_args!(r#"<polyline class="line" points="{}"/>"#, points.join(" ")));
    }
    // Labels of lines that lie close together are moved apart.
    let apart = (y(p50) - y(p99)).max(14.0) - (y(p50) - y(p99));
    for (name, value, shift) in [("p50", p50, apart / 2.0), ("p99", p99, -apart / 2.0)] {
        let at = y(value);
        write_svg(
            &mut svg,
            format_args!(
                r#"<path class="mark" d="M{LEFT} {at:.1}H{RIGHT}"/><text class="dim" x="{:.1}" y="{:.1}">{name}</text>"#,
                RIGHT + 6.0,
                at + 4.0 + shift
            ),
        );
    }
    let (foot, middle) = (HEIGHT - 14.0, (LEFT + RIGHT) / 2.0);
    write_svg(
        &mut svg,
        format_args!(
            r#"<text class="dim" x="{LEFT}" y="{foot}">0</text><text class="dim middle" x="{middle}" y="{foot}">frame</text><text class="dim end" x="{RIGHT}" y="{foot}">{}</text></svg>"#,
            ms.len().saturating_sub(1)
        ),
    );
    svg
}

fn open(height: f64, title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">"#)
}

fn write_svg(svg: &mut String, part: std::fmt::Arguments<'_>) {
    svg.write_fmt(part).expect("a string takes everything");
}

/// 1, 2 or 5 times a power of ten, such that `max` spans at most five steps.
fn tick_step(max: f64) -> f64 {
    let rough = max.max(1e-3) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| s * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0);
    step * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        for (max, step) in
            [(410.0, 100.0), (1000.0, 200.0), (9.0, 2.0), (0.3, 0.1), (26.0, 10.0), (25.0, 5.0)]
        {
            assert!((tick_step(max) / step - 1.0).abs() < 1e-9, "{max}: {}", tick_step(max));
        }
    }

    #[test]
    fn bars_are_as_long_as_the_times() {
        let svg = stage_bars(&[("segment", 50.0, 100.0), ("refine", 25.0, 25.0)]);
        assert!(svg.contains(r#"width="166.0""#) && svg.contains(r#"width="83.0""#), "{svg}");
        assert!(svg.contains(">segment<") && svg.contains(">100.0<"));
    }

    #[test]
    fn long_runs_keep_their_slowest_frame_and_bounded_size() {
        let mut ms = vec![10.0f32; 100_000];
        ms[77_777] = 100.0;
        let svg = latency_line(&ms, 10.0, 10.0);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let ys: Vec<f64> = points.split(' ').map(|p| p.split_once(',').unwrap().1.parse().unwrap()).collect();
        assert!(ys.len() <= 300);
        assert_eq!(ys.iter().filter(|&&y| y == 12.0).count(), 1, "100 ms is at the top");
    }

    #[test]
    fn one_frame_is_a_dot() {
        let svg = latency_line(&[12.0], 12.0, 12.0);
        assert!(svg.contains("<circle") && !svg.contains("polyline") && !svg.contains("NaN"));
    }
}
