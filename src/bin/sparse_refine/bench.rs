//! `sparse_refine bench`: the modes side by side in one run, frame by frame, so that a slow moment hits all alike.

use std::time::Instant;

use serde_json::json;
use sparse_refine::bundle::Bundle;
use sparse_refine::eval::Samples;
use sparse_refine::pipeline::{
    Backend, DeadlineBudget, Extras, FrameOutputs, PixelBudget, StageError, process_within,
};
use sparse_refine::plan::Plan;
use sparse_refine::start::{Started, start};
use sparse_refine::synth::{SceneSpec, render};
use sparse_refine::types::{CameraId, Frame, FrameReport, Mode, PixelFormat, Size, Stage, Stamp};

use crate::args::{BenchArgs, ModeArg};
use crate::exit::{DEVICE, Failure, USAGE};

/// Different images, so that no mode is timed on a lucky one.
const SCENES: u32 = 3;
const WARM_UP: u32 = 2;

/// A backend with a slot of its own.
pub(crate) trait Lane {
    /// One frame, labels included; the budget is asked for at its selection.
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        mode: Mode,
        budget: &mut dyn FnMut() -> PixelBudget,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError>;
}

struct Running<B: Backend> {
    // Dropped before what it was made by.
    slot: B::Slot,
    backend: Box<B>,
}

impl<B: Backend> Lane for Running<B> {
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        mode: Mode,
        budget: &mut dyn FnMut() -> PixelBudget,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        process_within(&*self.backend, &mut self.slot, frame, mode, budget)?;
        self.backend.finish(&mut self.slot, Extras::default(), outputs)
    }
}

pub(crate) fn lane(started: Started, size: Size) -> Result<Box<dyn Lane>, StageError> {
    Ok(match started {
        Started::Cpu(backend) => Box::new(Running { slot: backend.slot(size)?, backend }),
        Started::CpuTiles(backend) => Box::new(Running { slot: backend.slot(size)?, backend }),
        Started::Cuda(backend) => Box::new(Running { slot: backend.slot(size)?, backend }),
    })
}

struct Contender {
    plan: Plan,
    lane: Box<dyn Lane>,
    device: String,
    budget: DeadlineBudget,
    latency: Samples,
    stages: [Samples; Stage::ALL.len()],
    refined_share: f64,
}

pub(crate) fn run(args: &BenchArgs, json: bool) -> Result<(), Failure> {
    if let Some(page) = &args.curve {
        return crate::bench_curve::run(args, page, json);
    }
    let bundle = Bundle::load(&args.model)?;
    let mut contenders = Vec::new();
    for mode in modes(args, &bundle) {
        let config = args.run.config(mode);
        let plan = Plan::new(&config, &bundle)?;
        let (backend, facts) = start(plan.clone(), config.backend)?;
        contenders.push(Contender {
            plan,
            lane: lane(backend, args.size).map_err(stage_failure)?,
            device: facts.device,
            budget: DeadlineBudget::new(config.budget_ms),
            latency: Samples::default(),
            stages: Default::default(),
            refined_share: 0.0,
        });
    }
    let images: Vec<Vec<u8>> = (0..SCENES)
        .map(|seed| {
            render(&SceneSpec { size: args.size, seed: 9_200 + u64::from(seed), camera: 0, frame: 0 }).rgb
        })
        .collect();
    race(&mut contenders, &images, args)?;
    crate::print(&if json { as_json(&contenders, args) } else { as_text(&contenders, args) });
    Ok(())
}

/// The modes asked for, or all that the bundle has.
fn modes(args: &BenchArgs, bundle: &Bundle) -> Vec<Mode> {
    if !args.compare.is_empty() {
        return args.compare.iter().map(|&mode: &ModeArg| mode.into()).collect();
    }
    let mut modes = vec![Mode::Coarse];
    modes.extend(bundle.manifest.refines().then_some(Mode::Refined));
    modes.extend(bundle.manifest.dense.as_ref().map(|_| Mode::Dense));
    modes
}

fn race(contenders: &mut [Contender], images: &[Vec<u8>], args: &BenchArgs) -> Result<(), Failure> {
    let mut outputs = FrameOutputs::default();
    for round in 0..WARM_UP + args.frames {
        for contender in contenders.iter_mut() {
            let data = &images[round as usize % images.len()];
            let frame = frame_of(args.size, data);
            let Contender { plan, lane, budget, .. } = contender;
            let capacity = plan.capacity(args.size);
            let start = Instant::now();
            let elapsed_ms = || start.elapsed().as_secs_f64() * 1e3;
            let mut pixels = || budget.pixels(capacity, elapsed_ms());
            let report = lane.frame(&frame, plan.mode, &mut pixels, &mut outputs).map_err(stage_failure)?;
            let ms = elapsed_ms();
            contender.budget.observe(&report);
            if round >= WARM_UP {
                contender.take(&report, ms, args);
            }
        }
    }
    Ok(())
}

pub(crate) fn frame_of(size: Size, data: &[u8]) -> Frame<'_> {
    let step = size.width as usize * 3;
    Frame { camera: CameraId(0), stamp: Stamp::default(), size, format: PixelFormat::Rgb8, step, data }
}

/// A size that the bundle cannot take is the user's to change.
pub(crate) fn stage_failure(error: StageError) -> Failure {
    let code = if matches!(error, StageError::Frame(_)) { USAGE } else { DEVICE };
    Failure::new(code, error)
}

impl Contender {
    fn take(&mut self, report: &FrameReport, ms: f64, args: &BenchArgs) {
        self.latency.push(ms);
        for (stage, samples) in Stage::ALL.into_iter().zip(&mut self.stages) {
            samples.push(report.stages.get(stage));
        }
        let share = f64::from(report.pixels_refined) / args.size.pixels() as f64;
        self.refined_share += share / f64::from(args.frames);
    }

    fn median(&self) -> f64 {
        self.latency.percentiles().map_or(0.0, |p| p.p50)
    }

    fn stage_median(&self, stage: Stage) -> f64 {
        self.stages[stage as usize].percentiles().map_or(0.0, |p| p.p50)
    }
}

fn as_json(contenders: &[Contender], args: &BenchArgs) -> String {
    let modes: Vec<_> = contenders
        .iter()
        .map(|c| {
            let stages = Stage::ALL.into_iter().map(|s| (s.name().to_owned(), json!(c.stage_median(s))));
            json!({
                "mode": c.plan.mode,
                "device": c.device,
                "latency_ms": c.latency.percentiles(),
                "stage_p50_ms": stages.collect::<serde_json::Map<_, _>>(),
                "refined_fraction": c.refined_share,
            })
        })
        .collect();
    json!({ "size": args.size.to_string(), "frames": args.frames, "modes": modes }).to_string()
}

fn as_text(contenders: &[Contender], args: &BenchArgs) -> String {
    let Some(first) = contenders.first() else { return String::new() };
    let size: Size = args.size;
    let mut text =
        format!("{size}, {} frames a mode in turn, {}; milliseconds, medians\n", args.frames, first.device);
    text += &format!("{:<12}", "mode");
    text += &contenders.iter().map(|c| format!("{:>10}", c.plan.mode.to_string())).collect::<String>();
    for stage in Stage::ALL {
        text += &format!("\n{:<12}", stage.name());
        text += &contenders.iter().map(|c| format!("{:>10.1}", c.stage_median(stage))).collect::<String>();
    }
    let row = |name: &str, value: &dyn Fn(&Contender) -> String| {
        let cells = contenders.iter().map(|c| format!("{:>10}", value(c))).collect::<String>();
        format!("\n{name:<12}{cells}")
    };
    text += &row("frame p50", &|c| format!("{:.1}", c.median()));
    text += &row("frame p99", &|c| format!("{:.1}", c.latency.percentiles().map_or(0.0, |p| p.p99)));
    text +=
        &row(&format!("x {}", first.plan.mode), &|c| format!("{:.2}", c.median() / first.median().max(1e-9)));
    text += &row("refined", &|c| format!("{:.1} %", 100.0 * c.refined_share));
    text
}
