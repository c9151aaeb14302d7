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
use sparse_refine::types::{CameraId, Frame, FrameReport, MAX_LEVELS, Mode, PixelFormat, Size, Stage, Stamp};

use crate::args::{BenchArgs, ModeArg};
use crate::exit::{DEVICE, Failure, USAGE};

/// Different images, so that no mode is timed on a lucky one.
const SCENES: u32 = 3;
pub(crate) const WARM_UP: u32 = 2;

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
        Started::CudaTiles(backend) => Box::new(Running { slot: backend.slot(size)?, backend }),
    })
}

struct Contender {
    plan: Plan,
    lane: Box<dyn Lane>,
    device: String,
    budget: DeadlineBudget,
    latency: Samples,
    stages: [Samples; Stage::ALL.len()],
    work: Work,
}

/// Sums over the frames that count.
#[derive(Default)]
struct Work {
    frames: u32,
    selected: u64,
    refined: u64,
    dropped: u64,
    sites: [u64; MAX_LEVELS],
    /// Frames that took longer than 1.1 budgets.
    late: u32,
}

pub(crate) fn run(args: &BenchArgs, json: bool) -> Result<(), Failure> {
    if let Some(page) = &args.curve {
        return crate::bench_curve::run(args, page, json);
    }
    if let Some(cameras) = args.cameras {
        return crate::bench_cameras::run(args, cameras, json);
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
            work: Work::default(),
        });
    }
    let images = scenes(args.size);
    race(&mut contenders, &images, args)?;
    crate::print(&if json { as_json(&contenders, args) } else { as_text(&contenders, args) });
    Ok(())
}

/// The images of every benchmark.
pub(crate) fn scenes(size: Size) -> Vec<Vec<u8>> {
    let image = |seed| render(&SceneSpec { size, seed: 9_200 + u64::from(seed), camera: 0, frame: 0 }).rgb;
    (0..SCENES).map(image).collect()
}

/// Most memory the process ever held, in megabytes, where the system tells.
pub(crate) fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
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
                contender.take(&report, ms, args.run.budget_ms);
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
    fn take(&mut self, report: &FrameReport, ms: f64, budget_ms: Option<f64>) {
        self.latency.push(ms);
        for (stage, samples) in Stage::ALL.into_iter().zip(&mut self.stages) {
            samples.push(report.stages.get(stage));
        }
        self.work.frames += 1;
        self.work.selected += u64::from(report.pixels_selected);
        self.work.refined += u64::from(report.pixels_refined);
        self.work.dropped += u64::from(report.pixels_dropped);
        self.work.late += u32::from(budget_ms.is_some_and(|budget_ms| ms > 1.1 * budget_ms));
        for (sum, &sites) in self.work.sites.iter_mut().zip(&report.sites) {
            *sum += u64::from(sites);
        }
    }

    fn refined_share(&self, size: Size) -> f64 {
        self.work.refined as f64 / (f64::from(self.work.frames.max(1)) * size.pixels() as f64)
    }

    fn dropped_share(&self) -> f64 {
        self.work.dropped as f64 / (self.work.selected as f64).max(1.0)
    }

    fn punctual_share(&self) -> f64 {
        1.0 - f64::from(self.work.late) / f64::from(self.work.frames.max(1))
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
                "refined_fraction": c.refined_share(args.size),
                "sites_per_frame": c.work.sites.map(|sum| sum as f64 / f64::from(c.work.frames.max(1))),
                "dropped_share_of_selected": c.dropped_share(),
                "share_within_1_1_budgets": args.run.budget_ms.map(|_| c.punctual_share()),
            })
        })
        .collect();
    json!({
        "size": args.size.to_string(),
        "frames": args.frames,
        "budget_ms": args.run.budget_ms,
        "peak_memory_mb": peak_memory_mb(),
        "modes": modes,
    })
    .to_string()
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
    text += &row("refined", &|c| format!("{:.1} %", 100.0 * c.refined_share(args.size)));
    if args.run.budget_ms.is_some() {
        text += &row("dropped", &|c| format!("{:.1} %", 100.0 * c.dropped_share()));
        text += &row("<= 1.1 B", &|c| format!("{:.1} %", 100.0 * c.punctual_share()));
    }
    text += &peak_memory_mb().map_or(String::new(), |mb| format!("\npeak memory of the process {mb:.0} MB"));
    text
}
