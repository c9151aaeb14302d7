//! `sparse_refine replay`.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use sparse_refine::bundle::Bundle;
use sparse_refine::config::Config;
use sparse_refine::eval::{ModelFacts, table};
use sparse_refine::plan::Plan;
use sparse_refine::replay::{ReplayError, ReplayOptions, Replayed, replay};
use sparse_refine::start::{Started, start};

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
    let config = Config { slots: args.slots, ..args.run.config(args.mode.into()) };
    let bundle = Bundle::load(&args.model)?;
    let plan = Plan::new(&config, &bundle)?;
    let (started, backend) = start(plan.clone(), config.backend)?;
    let options = ReplayOptions {
        bag: args.bag.clone(),
        out: args.out.clone(),
        force: args.force,
        image_topics: args.image_topics.clone(),
        label_topics: args.label_topics.clone(),
        write_bag: args.write_bag,
        panels: args.panels,
        slots: config.slots.unwrap_or(1),
        budget_ms: config.budget_ms,
        model: ModelFacts {
            name: bundle.manifest.name.clone(),
            path: bundle.dir.display().to_string(),
            sha256: Some(bundle.sha256.clone()),
        },
        backend,
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
    };
    bar.finish_and_clear();
    let Replayed { summary, report } = replayed?;
    for damage in &summary.damage {
        eprintln!("sparse_refine: warning: {}", damage.replace('\n', " "));
    }
    crate::print(&if json { summary.to_json() } else { table(&summary, Some(&report)) });
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left");
    ProgressBar::no_length().with_style(style.expect("the template is valid"))
}
