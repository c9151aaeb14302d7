//! `sparse_refine bench --cameras K`: several cameras through the pipeline at once, as fast as it takes their frames.

use std::convert::Infallible;
use std::time::Instant;

use serde_json::json;
use sparse_refine::bundle::Bundle;
use sparse_refine::config::Config;
use sparse_refine::eval::Samples;
use sparse_refine::pipeline::{Admission, Backend, Extras, Outcome, Payload, RunError, RunSettings};
use sparse_refine::plan::Plan;
use sparse_refine::start::{Started, start};
use sparse_refine::types::{CameraId, Frame, FrameError, Mode, Size};

use crate::args::BenchArgs;
use crate::bench::{WARM_UP, frame_of, peak_memory_mb, scenes, stage_failure};
use crate::exit::Failure;

/// One of the images; all cameras show the same.
struct Image<'a>(Size, &'a [u8]);

impl Payload for Image<'_> {
    fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R {
        use_frame(Ok(frame_of(self.0, self.1)))
    }
}

/// What a run took.
#[derive(Default)]
struct Taken {
    latency: Samples,
    first: Option<Instant>,
    rejected: Option<FrameError>,
    /// Between the end of the warm-up and the last frame.
    seconds: f64,
}

pub(crate) fn run(args: &BenchArgs, cameras: u16, json: bool) -> Result<(), Failure> {
    let bundle = Bundle::load(&args.model)?;
    let mode = if bundle.manifest.refines() { Mode::Refined } else { Mode::Coarse };
    let config = Config { slots: args.slots, ..args.run.config(mode) };
    let plan = Plan::new(&config, &bundle)?;
    let (backend, facts) = start(plan.clone(), config.backend)?;
    let slots = config.slots.unwrap_or(1);
    let settings = RunSettings {
        cameras: usize::from(cameras),
        slots,
        admission: Admission::Every,
        mode,
        extras: Extras::default(),
        budget_ms: config.budget_ms,
    };
    let taken = match backend {
        Started::Cpu(backend) => measure(&*backend, &settings, &plan, args),
        Started::CpuTiles(backend) => measure(&*backend, &settings, &plan, args),
        Started::Cuda(backend) => measure(&*backend, &settings, &plan, args),
        Started::CudaTiles(backend) => measure(&*backend, &settings, &plan, args),
    }?;
    let latency = taken.latency.percentiles().unwrap_or_default();
    let per_second = (taken.latency.as_slice().len() as f64) / taken.seconds.max(1e-9);
    crate::print(&if json {
        json!({
            "size": args.size.to_string(),
            "cameras": cameras,
            "slots": slots,
            "frames_per_camera": args.frames,
            "frames_per_second": per_second,
            "latency_ms": latency,
            "peak_memory_mb": peak_memory_mb(),
        })
        .to_string()
    } else {
        format!(
            "{}, {cameras} cameras, {slots} frames in flight, {} frames each, {}\n{per_second:.2} frames/s in all; \
             latency p50 {:.1} ms, p99 {:.1} ms; peak memory of the process {:.0} MB",
            args.size,
            args.frames,
            facts.device,
            latency.p50,
            latency.p99,
            peak_memory_mb().unwrap_or(f64::NAN),
        )
    });
    Ok(())
}

fn measure<B: Backend>(
    backend: &B,
    settings: &RunSettings,
    plan: &Plan,
    args: &BenchArgs,
) -> Result<Taken, Failure> {
    let images = scenes(args.size);
    // Every slot has seen a frame, and buffers have their size, before anything counts.
    let warm = (WARM_UP as usize * settings.slots).max(settings.cameras);
    let frames = warm + settings.cameras * args.frames as usize;
    let source = (0..frames).map(|n| {
        let camera = CameraId((n % settings.cameras) as u16);
        (camera, Image(args.size, &images[n / settings.cameras % images.len()]))
    });
    let mut taken = Taken::default();
    let mut done = 0;
    let sink = |outcome: Outcome<'_, Image<'_>>| -> Result<(), Infallible> {
        done += 1;
        taken.rejected = taken.rejected.take().or(outcome.result.err());
        if done == warm {
            taken.first = Some(Instant::now());
        } else if let Some(first) = taken.first {
            taken.latency.push(outcome.latency_ms);
            taken.seconds = first.elapsed().as_secs_f64();
        }
        Ok(())
    };
    match sparse_refine::pipeline::run(backend, settings, |size| plan.capacity(size), source, sink) {
        Ok(()) => {}
        Err(RunError::Device(error)) => return Err(stage_failure(error)),
        Err(RunError::Sink(never)) => match never {},
    }
    match taken.rejected.take() {
        Some(error) => Err(stage_failure(sparse_refine::pipeline::StageError::Frame(error))),
        None => Ok(taken),
    }
}
