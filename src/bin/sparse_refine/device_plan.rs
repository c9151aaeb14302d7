//! `sparse_refine doctor --plan`: what a camera takes on a CUDA device, counted without one.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sparse_refine::bundle::Bundle;
use sparse_refine::config::Config;
use sparse_refine::cuda::{Footprint, Precision};
use sparse_refine::plan::Plan;
use sparse_refine::types::{Mode, Size};

use crate::exit::Failure;

/// The footprint in both precisions, as text and as JSON.
pub(crate) fn device_plan(model: &Path, camera: Size) -> Result<(String, Value), Failure> {
    let bundle = Bundle::load(model)?;
    let mode = if bundle.manifest.refiner.is_some() { Mode::Refined } else { Mode::Coarse };
    let plan = Plan::new(&Config { mode, ..Config::default() }, &bundle)?;
    let (mut text, mut values) = (String::new(), Vec::new());
    for precision in [Precision::Half, Precision::Single] {
        let footprint = Footprint::new(&plan, camera, precision)?;
        let _ = write!(text, "{}", as_text(&footprint, camera, precision));
        values.push(json!({
            "precision": precision.name(),
            "slot_bytes": footprint.slot_bytes(),
            "slot": footprint.slot.iter().map(|&(part, bytes)| json!({ "part": part, "bytes": bytes })).collect::<Vec<_>>(),
            "pinned_bytes": footprint.pinned_bytes,
            "weights_bytes": footprint.weights_bytes,
            "levels": footprint.levels.iter().map(|&(size, sites)| json!({ "size": size, "sites": sites })).collect::<Vec<_>>(),
            "blocks": footprint.blocks.iter().map(|(name, count)| json!({ "kernels": name, "blocks": count })).collect::<Vec<_>>(),
        }));
    }
    Ok((text, json!({ "camera": camera, "precisions": values })))
}

fn as_text(footprint: &Footprint, camera: Size, precision: Precision) -> String {
    let mb = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let mut text = format!(
        "CUDA, {}, one slot for {camera}: {:.0} MB on the device, {:.0} MB page-locked; weights {:.1} MB for all slots\n",
        precision.name(),
        mb(footprint.slot_bytes()),
        mb(footprint.pinned_bytes),
        mb(footprint.weights_bytes)
    );
    for (part, bytes) in &footprint.slot {
        let _ = writeln!(text, "  {part:<28} {:>8.1} MB", mb(*bytes));
    }
    for (level, (size, sites)) in footprint.levels.iter().enumerate() {
        let _ = writeln!(text, "  level {level} {size:<11} at most {sites} sites");
    }
    for (kernels, blocks) in &footprint.blocks {
        let _ = writeln!(text, "  {kernels}: {blocks} blocks of 256");
    }
    text + "  every other kernel: at most 8 blocks per multiprocessor (gate: 16), looping over its work\n"
}
