//! Two replays of one recording side by side: the second reads the labels that the first left in its bag.

use std::fs;
use std::path::{Path, PathBuf};

use super::source::Camera;
use super::truth::Truth;
use super::{ReplayError, Replayed};
use crate::bag::topics::ImageKind;
use crate::bag::{Bag, BagError};
use crate::eval::{Comparison, ComparisonReport, comparison_json};
use crate::types::ClassInfo;

/// Where a replay leaves its bag of labels, in its output folder.
pub const LABEL_BAG: &str = "bag";

/// The labels of an earlier replay of the same cameras.
pub(super) fn former_labels(bag: &Path, cameras: &[Camera], names: &[String]) -> Result<Truth, BagError> {
    let labelled: Vec<Camera> = cameras
        .iter()
        .zip(names)
        .map(|(camera, name)| {
            let label = format!("/sparse_refine/output/{name}/label");
            Camera { label: Some((label, ImageKind::Raw)), ..camera.clone() }
        })
        .collect();
    Truth::open(&Bag::open(bag)?, &labelled)
}

/// Writes `compare.json` and `compare.html` to `out`; answers with the text of the first and the path of the second.
pub fn write_comparison(
    out: &Path,
    first: &Replayed,
    second: &Replayed,
    classes: &[ClassInfo],
) -> Result<(String, PathBuf), ReplayError> {
    let nothing = Comparison::new(0);
    let comparison = second.comparison.as_ref().unwrap_or(&nothing);
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|why| ReplayError::Unwritable { why, path: path.clone() })?;
        Ok::<_, ReplayError>(path)
    };
    let (first, second) = (&first.summary, &second.summary);
    let json = comparison_json(first, second, comparison);
    write("compare.json", &json)?;
    let page = ComparisonReport { first, second, comparison, classes };
    Ok((json, write("compare.html", &page.to_html())?))
}
