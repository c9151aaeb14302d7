//! How good and how fast a replay was: scores against ground truth, latency statistics, and the files that say so.
//!
//! [`Scorer`] takes every frame in and gives a [`Summary`] (`summary.json`); [`FramesCsv`] writes a line per frame;
//! [`table`] and [`Report`] show the summary in a terminal and as one self-contained web page. Scores are fractions
//! between 0 and 1 everywhere but in what people read, which is in percent.

mod boundary;
mod compare;
mod confusion;
mod frames;
mod latency;
mod report;
#[cfg(test)]
mod schema;
mod score;
mod summary;
mod table;
mod text;

pub use boundary::{BAND_PX, BoundaryBand};
pub use compare::{Comparison, comparison_json};
pub use confusion::{Confusion, ScoreError};
pub use frames::{FrameRow, FramesCsv, Outcome};
pub use latency::{Percentiles, Samples};
pub use report::{ComparisonReport, EntropyGrid, Measure, Panel, Report, budget_page};
pub use score::Scorer;
pub use summary::{
    CameraCounts, ClassScore, ModelFacts, RunFacts, SCHEMA_VERSION, Scores, StagePercentiles, Summary,
};
pub use table::table;
