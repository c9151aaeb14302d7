//! `sparse_refine bench --curve`: what accuracy each time budget buys, on scenes whose labels are known.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use sparse_refine::bundle::Bundle;
use sparse_refine::eval::{Confusion, Percentiles, Samples, budget_page};
use sparse_refine::pipeline::{BudgetState, DeadlineBudget, FrameOutputs};
use sparse_refine::plan::Plan;
use sparse_refine::start::start;
use sparse_refine::synth::{Scene, SceneSpec, render};
use sparse_refine::types::Mode;

use crate::args::BenchArgs;
use crate::bench::{frame_of, lane, stage_failure};
use crate::exit::{FILES, Failure};

/// The same scenes as those of the comparison of modes.
const SCENES: u64 = 3;
const FIRST_SEED: u64 = 9_200;
/// Frames of each budget before those that count: its cost model has settled then.
const WARM_UP: u32 = 6;
/// Budgets between the coarse time and that of an unbounded refinement, as parts of the way.
const STEPS: [f64; 6] = [0.1, 0.3, 0.5, 0.7, 0.9, 1.2];

/// One budget and what came of it.
struct Point {
    budget: DeadlineBudget,
    budget_ms: Option<f64>,
    latency: Samples,
    confusion: Confusion,
    selected: u64,
    dropped: u64,
    dropped_entropy: f64,
    coarse_only: u32,
    late: u32,
    frames: u32,
}

impl Point {
    fn new(budget_ms: Option<f64>) -> Self {
        Self {
            budget: DeadlineBudget::new(budget_ms),
            budget_ms,
            latency: Samples::default(),
            confusion: Confusion::default(),
            selected: 0,
            dropped: 0,
            dropped_entropy: 0.0,
            coarse_only: 0,
            late: 0,
            frames: 0,
        }
    }

    fn latency(&self) -> Percentiles {
        self.latency.percentiles().unwrap_or_default()
    }

    fn dropped_share(&self) -> f64 {
        self.dropped as f64 / (self.selected as f64).max(1.0)
    }

    fn to_json(&self) -> serde_json::Value {
        let frames = f64::from(self.frames.max(1));
        json!({
            "budget_ms": self.budget_ms,
            "latency_ms": self.latency(),
            "miou": self.confusion.miou(),
            "dropped_share_of_selected": self.dropped_share(),
            "dropped_entropy_nats_per_frame": self.dropped_entropy / frames,
            "coarse_only_share": f64::from(self.coarse_only) / frames,
            "share_within_1_1_budgets": 1.0 - f64::from(self.late) / frames,
        })
    }
}

pub(crate) fn run(args: &BenchArgs, page: &Path, json: bool) -> Result<(), Failure> {
    let bundle = Bundle::load(&args.model)?;
    let config = args.run.config(Mode::Refined);
    let plan = Plan::new(&config, &bundle)?;
    let (backend, facts) = start(plan.clone(), config.backend)?;
    let scene = |seed| render(&SceneSpec { size: args.size, seed, camera: 0, frame: 0 });
    let scenes: Vec<Scene> = (FIRST_SEED..FIRST_SEED + SCENES).map(scene).collect();
    let mut lane = lane(backend, args.size).map_err(stage_failure)?;
    let mut outputs = FrameOutputs::default();
    let capacity = plan.capacity(args.size);
    let mut frame = |point: &mut Point, round: u32, counts: bool| -> Result<(), Failure> {
        let scene = &scenes[round as usize % scenes.len()];
        let image = frame_of(args.size, &scene.rgb);
        let start = Instant::now();
        let elapsed_ms = || start.elapsed().as_secs_f64() * 1e3;
        let budget = &mut point.budget;
        let mut pixels = || budget.pixels(capacity, elapsed_ms());
        let report = lane.frame(&image, Mode::Refined, &mut pixels, &mut outputs).map_err(stage_failure)?;
        let ms = elapsed_ms();
        budget.observe(&report);
        if counts {
            point.latency.push(ms);
            let scored = point.confusion.add(&scene.labels, &outputs.labels, None);
            scored.map_err(|error| Failure::new(FILES, error))?;
            point.frames += 1;
            point.selected += u64::from(report.pixels_selected);
            point.dropped += u64::from(report.pixels_dropped);
            point.dropped_entropy += report.dropped_entropy;
            point.coarse_only += u32::from(budget.state() == BudgetState::CoarseOnly);
            point.late += u32::from(point.budget_ms.is_some_and(|budget_ms| ms > 1.1 * budget_ms));
        }
        Ok(())
    };

    // The ends of the curve: nothing refined, and everything.
    let mut ends = [Point::new(Some(0.0)), Point::new(None)];
    for round in 0..WARM_UP + args.frames {
        for point in &mut ends {
            frame(point, round, round >= WARM_UP)?;
        }
    }
    let [coarse, unbounded] = ends;
    let (least, most) = (coarse.latency().p50, unbounded.latency().p50);
    let mut points: Vec<Point> =
        STEPS.iter().map(|step| Point::new(Some(least + (most - least) * step))).collect();
    for round in 0..WARM_UP + args.frames {
        for point in &mut points {
            frame(point, round, round >= WARM_UP)?;
        }
    }
    points.insert(0, Point { budget_ms: None, ..coarse });
    points.push(unbounded);

    let curve: Vec<(f64, f64)> =
        points.iter().filter_map(|p| Some((p.latency().p50, 100.0 * p.confusion.miou()?))).collect();
    std::fs::write(page, budget_page(&curve))
        .map_err(|why| Failure::new(FILES, format!("cannot write the curve: {why}: {}", page.display())))?;
    if json {
        let points: Vec<_> = points.iter().map(Point::to_json).collect();
        let result = json!({ "size": args.size.to_string(), "frames": args.frames, "points": points });
        crate::print(&result.to_string());
    } else {
        crate::print(&as_text(&points, args, &facts.device));
    }
    Ok(())
}

fn as_text(points: &[Point], args: &BenchArgs, device: &str) -> String {
    let mut text = format!(
        "{}, {} frames a budget in turn, {device}; milliseconds; the first row refines nothing, the last has no budget\n",
        args.size, args.frames
    );
    text += &format!(
        "{:>8} {:>8} {:>8} {:>8} {:>9} {:>12} {:>12}",
        "budget", "p50", "p99", "mIoU %", "dropped %", "<= 1.1 B %", "coarse only %"
    );
    for point in points {
        let Percentiles { p50, p99, .. } = point.latency();
        let frames = f64::from(point.frames.max(1));
        let budget = point.budget_ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        text += &format!(
            "\n{budget:>8} {p50:>8.1} {p99:>8.1} {:>8.2} {:>9.1} {:>12.1} {:>12.1}",
            100.0 * point.confusion.miou().unwrap_or(0.0),
            100.0 * point.dropped_share(),
            100.0 * (1.0 - f64::from(point.late) / frames),
            100.0 * f64::from(point.coarse_only) / frames,
        );
    }
    text
}
