//! How many pixels a frame may refine so that it is done in time.

use super::PixelBudget;
use crate::types::{FrameReport, Stage};

/// Share of a new measurement in the running estimates.
const GAIN: f64 = 0.2;
/// Part of the budget the plan spends; the rest absorbs what varies between frames.
const FILL: f64 = 0.9;

/// Estimates the cost of a frame from those before it: a fixed part (all stages but refine and fuse) and a part
/// proportional to the refined pixels.
#[derive(Clone, Debug)]
pub struct DeadlineBudget {
    budget_ms: Option<f64>,
    fixed_ms: f64,
    ms_per_pixel: f64,
    frames: u32,
}

impl DeadlineBudget {
    /// A budget per frame in milliseconds, or none.
    pub fn new(budget_ms: Option<f64>) -> Self {
        Self { budget_ms, fixed_ms: 0.0, ms_per_pixel: 0.0, frames: 0 }
    }

    /// Changes the budget; what was learnt about the cost of frames stays.
    pub fn set(&mut self, budget_ms: Option<f64>) {
        self.budget_ms = budget_ms;
    }

    /// Pixels the next frame may refine, at most `capacity`. The first frame, with nothing measured, gets it all.
    pub fn pixels(&self, capacity: u32) -> PixelBudget {
        let Some(budget_ms) = self.budget_ms else { return PixelBudget(capacity) };
        if self.frames == 0 {
            return PixelBudget(capacity);
        }
        let left_ms = (budget_ms * FILL - self.fixed_ms).max(0.0);
        if self.ms_per_pixel <= 0.0 {
            // Nothing was refined yet. Try a little if there is time at all, to learn what it costs.
            return PixelBudget(if left_ms > 0.0 { capacity / 64 } else { 0 });
        }
        PixelBudget((left_ms / self.ms_per_pixel).min(f64::from(capacity)) as u32)
    }

    /// Learns from a finished frame.
    pub fn observe(&mut self, report: &FrameReport) {
        let variable_ms = report.stages.get(Stage::Refine) + report.stages.get(Stage::Fuse);
        let fixed_ms = report.stages.total_ms() - variable_ms;
        self.fixed_ms = blend(self.fixed_ms, fixed_ms, self.frames == 0);
        if report.pixels_refined > 0 {
            let measured = variable_ms / f64::from(report.pixels_refined);
            self.ms_per_pixel = blend(self.ms_per_pixel, measured, self.ms_per_pixel <= 0.0);
        }
        self.frames = self.frames.saturating_add(1);
    }
}

fn blend(old: f64, new: f64, first: bool) -> f64 {
    if first { new } else { old + GAIN * (new - old) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fixed_ms: f64, refine_ms: f64, pixels: u32) -> FrameReport {
        let mut report = FrameReport { pixels_refined: pixels, ..FrameReport::default() };
        report.stages.add(Stage::Segment, fixed_ms);
        report.stages.add(Stage::Refine, refine_ms);
        report
    }

    #[test]
    fn without_a_budget_the_capacity_is_the_limit() {
        let mut budget = DeadlineBudget::new(None);
        budget.observe(&report(1000.0, 1000.0, 10));
        assert_eq!(budget.pixels(500), PixelBudget(500));
    }

    #[test]
    fn a_steady_cost_fills_the_budget() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        assert_eq!(budget.pixels(1_000_000), PixelBudget(1_000_000));
        for _ in 0..50 {
            budget.observe(&report(40.0, 100.0, 100_000));
        }
        // 0.9 * 100 - 40 = 50 ms at 0.001 ms a pixel.
        let PixelBudget(pixels) = budget.pixels(1_000_000);
        assert!((49_900..=50_100).contains(&pixels), "{pixels}");
    }

    #[test]
    fn a_new_budget_holds_at_once() {
        let mut budget = DeadlineBudget::new(None);
        budget.observe(&report(40.0, 100.0, 100_000));
        budget.set(Some(100.0));
        let PixelBudget(pixels) = budget.pixels(1_000_000);
        assert!((49_900..=50_100).contains(&pixels), "{pixels}");
    }

    #[test]
    fn nothing_is_refined_when_nothing_fits_and_it_recovers() {
        let mut budget = DeadlineBudget::new(Some(50.0));
        budget.observe(&report(80.0, 10.0, 1000));
        assert_eq!(budget.pixels(1000), PixelBudget(0));
        for _ in 0..50 {
            budget.observe(&report(20.0, 0.0, 0));
        }
        assert!(budget.pixels(1000).0 > 0);
    }
}
