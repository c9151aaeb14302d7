//! `sparse_refine replay`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use sparse_refine::bundle::Bundle;
use sparse_refine::config::Config;
use sparse_refine::eval::{ModelFacts, table};
use sparse_refine::plan::Plan;
use sparse_refine::replay::{LABEL_BAG, ReplayError, ReplayOptions, Replayed, replay, write_comparison};
use sparse_refine::start::{Started, start};
use sparse_refine::types::ClassInfo;

use crate::args::ReplayArgs;
use crate::exit::{DEVICE, FILES, Failure, USAGE};

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        let code = match &error {
            ReplayError::NotEmpty { .. }
            | ReplayError::OwnRecording { .. }
            | ReplayError::TooManyLabels { .. }
            | ReplayError::RepeatedTopic { .. } => USAGE,
            ReplayError::Device(_) => DEVICE,
            ReplayError::Bag(_) | ReplayError::NoImages { .. } | ReplayError::Unwritable { .. } => FILES,
        };
        Self::new(code, error)
    }
}

pub(crate) fn run(args: &ReplayArgs, json: bool) -> Result<(), Failure> {
    let (Some(model), []) = (&args.model, &args.compare[..]) else { return compare(args, json) };
    let Ran { replayed: Replayed { summary, report, .. }, .. } = run_one(args, model, &args.out, None)?;
    crate::print(&if json { summary.to_json() } else { table(&summary, Some(&report)) });
    Ok(())
}

/// Two bundles over the same recording. The first run leaves its labels in a bag, where the second finds them.
fn compare(args: &ReplayArgs, json: bool) -> Result<(), Failure> {
    let [a, b] = &args.compare[..] else {
        return Err(Failure::new(USAGE, "--compare wants two bundles; see `sparse_refine replay --help`"));
    };
    // What is wrong with the second bundle is said before the first has run.
    let bundle = Bundle::load(b)?;
    Plan::new(&args.run.config(args.mode.into()), &bundle)?;
    let outs = ["a", "b"].map(|name| args.out.join(name));
    let first = run_one(args, a, &outs[0], None)?;
    let second = run_one(args, b, &outs[1], Some(outs[0].join(LABEL_BAG)))?;
    let (text, page) = write_comparison(&args.out, &first.replayed, &second.replayed, &second.classes)?;
    if json {
        crate::print(&text);
        return Ok(());
    }
    let [first, second] = [first, second].map(|ran| table(&ran.replayed.summary, Some(&ran.replayed.report)));
    crate::print(&format!("A: {first}\nB: {second}\ncompared   {}", page.display()));
    Ok(())
}

struct Ran {
    replayed: Replayed,
    classes: Vec<ClassInfo>,
}

/// Replays into `out`. With `--compare`, the run without `against` is the first, whose labels are kept.
fn run_one(args: &ReplayArgs, model: &Path, out: &Path, against: Option<PathBuf>) -> Result<Ran, Failure> {
    let config = Config { slots: args.slots, ..args.run.config(args.mode.into()) };
    let bundle = Bundle::load(model)?;
    let plan = Plan::new(&config, &bundle)?;
    let (started, backend) = start(plan.clone(), config.backend)?;
    let options = ReplayOptions {
        bag: args.bag.clone(),
        out: out.to_owned(),
        force: args.force,
        image_topics: args.image_topics.clone(),
        label_topics: args.label_topics.clone(),
        write_bag: args.write_bag || (!args.compare.is_empty() && against.is_none()),
        panels: args.panels,
        slots: config.slots.unwrap_or(1),
        budget_ms: config.budget_ms,
        model: ModelFacts {
            name: bundle.manifest.name.clone(),
            path: bundle.dir.display().to_string(),
            sha256: Some(bundle.sha256.clone()),
        },
        backend,
        against,
    };
    let bar = progress_bar();
    let progress = |done, total: Option<u64>| {
        if let Some(total) = total {
            bar.set_length(total.max(done));
        }
        bar.set_position(done);
    };
    let replayed = match started {
        Started::Cpu(backend) => replay(&*backend, &plan, &options, progress),
        Started::CpuTiles(backend) => replay(&*backend, &plan, &options, progress),
        Started::Cuda(backend) => replay(&*backend, &plan, &options, progress),
        Started::CudaTiles(backend) => replay(&*backend, &plan, &options, progress),
    };
    bar.finish_and_clear();
    let replayed = replayed?;
    for damage in &replayed.summary.damage {
        eprintln!("sparse_refine: warning: {}", damage.replace('\n', " "));
    }
    Ok(Ran { replayed, classes: plan.classes })
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left");
    ProgressBar::no_length().with_style(style.expect("the template is valid"))
}
