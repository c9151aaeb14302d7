//! `--trace FILE` and log lines on standard error (`RUST_LOG`, default: warnings).

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _};
use std::path::Path;

use tracing_chrome::{ChromeLayerBuilder, FlushGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::{FILES, Failure};

/// Starts logging, and tracing if a file is given. The trace is complete when the guard is dropped.
pub(crate) fn start(file: Option<&Path>) -> Result<Option<FlushGuard>, Failure> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_filter(filter);
    let registry = tracing_subscriber::registry().with(log);
    let Some(path) = file else {
        registry.init();
        return Ok(None);
    };
    let out = File::create(path)
        .map_err(|why| Failure::new(FILES, format!("cannot write the trace ({why}): {}", path.display())))?;
    let (chrome, guard) = ChromeLayerBuilder::new().writer(BufWriter::new(out)).include_args(true).build();
    // Only our own spans: the libraries' would drown the stages.
    let ours = Targets::new().with_target("sparse_refine", LevelFilter::TRACE);
    registry.with(chrome.with_filter(ours)).init();
    Ok(Some(guard))
}
