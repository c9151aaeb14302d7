//! Percentiles of measured times.

use serde::{Deserialize, Serialize};

/// Times of every frame of a run, in milliseconds: 4 bytes a frame, so an hour of ten cameras at 30 Hz is 4 MB.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    ms: Vec<f32>,
}

/// Percentiles by nearest rank: the smallest sample such that at least p percent of all samples are no larger. Every
/// value is one that was measured, none is interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "milliseconds, named by the percentile")]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    pub mean: f64,
}

impl Samples {
    /// Adds a time; one that is not finite is left out.
    pub fn push(&mut self, ms: f64) {
        if ms.is_finite() {
            self.ms.push(ms as f32);
        }
    }

    /// The samples in the order they came.
    pub fn as_slice(&self) -> &[f32] {
        &self.ms
    }

    /// `None` without samples.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted = self.ms.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        // Whole microseconds: what `f32` holds beyond them is noise, and would print as 0.10000000149.
        let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
        let max = rounded(f64::from(*sorted.last()?));
        let rank = |percent: usize| rounded(f64::from(sorted[(percent * sorted.len()).div_ceil(100) - 1]));
        let mean = rounded(sorted.iter().map(|&ms| f64::from(ms)).sum::<f64>() / sorted.len() as f64);
        Some(Percentiles { p50: rank(50), p90: rank(90), p99: rank(99), max, mean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(ms: impl IntoIterator<Item = f64>) -> Option<Percentiles> {
        let mut samples = Samples::default();
        ms.into_iter().for_each(|ms| samples.push(ms));
        samples.percentiles()
    }

    #[test]
    fn nearest_ranks_of_known_lists() {
        let hundred = percentiles((1..=100).rev().map(f64::from));
        assert_eq!(hundred, Some(Percentiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0, mean: 50.5 }));
        let four = percentiles([30.0, 10.0, 40.0, 20.0]);
        assert_eq!(four, Some(Percentiles { p50: 20.0, p90: 40.0, p99: 40.0, max: 40.0, mean: 25.0 }));
        let one = percentiles([7.5]);
        assert_eq!(one, Some(Percentiles { p50: 7.5, p90: 7.5, p99: 7.5, max: 7.5, mean: 7.5 }));
    }

    #[test]
    fn values_are_whole_microseconds() {
        assert_eq!(percentiles([0.1, 0.1, 12.345_678]).map(|p| (p.p50, p.max)), Some((0.1, 12.346)));
    }

    #[test]
    fn nothing_measured_has_no_percentiles_and_nan_is_left_out() {
        assert_eq!(percentiles([]), None);
        assert_eq!(percentiles([f64::NAN, f64::INFINITY]), None);
        assert_eq!(percentiles([f64::NAN, 2.0]).map(|p| p.max), Some(2.0));
    }
}
