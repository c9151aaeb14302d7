//! How many pixels a frame may refine so that it is done in time.
//!
//! Asked when the coarse labels are there: what the frame has already taken is known then, and only the rest is
//! estimated, from the frames before it. Time comes in as numbers, so tests need no clock.

use super::PixelBudget;
use crate::types::{FrameReport, Stage};

/// Share of a new measurement in the running estimates.
const GAIN: f64 = 0.2;
/// Part of the budget the plan spends; the rest absorbs what varies between frames.
const FILL: f64 = 0.9;
/// The first frame, of which no cost is known, gets one part in this many of the capacity.
const FIRST: u32 = 16;
/// Fewer pixels than one part in this many of the capacity are not worth a refinement.
const LEAST: u32 = 256;
/// Frames in a row for which too little fits, before the coarse labels are all there is.
const STRIKES: u32 = 3;
/// Frames in a row for which twice the least fits, before refinement starts again.
const CALM: u32 = 5;
/// While nothing is refined its cost is not measured either: each such frame lowers the estimate by this factor, so that
/// one slow moment does not end refinement for good.
const FORGET: f64 = 0.98;

/// Whether frames are refined at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BudgetState {
    /// As many pixels as fit.
    #[default]
    Refining,
    /// Nothing worth it fits: coarse labels only, until there has been time for several frames.
    CoarseOnly,
}

/// Learns what frames cost and bounds their refinement.
#[derive(Clone, Debug, Default)]
pub struct DeadlineBudget {
    budget_ms: Option<f64>,
    /// Stages before the selection.
    front: Running,
    /// Selection and download.
    tail: Running,
    refinement: PixelCost,
    frames: u32,
    state: BudgetState,
    /// Frames in a row that speak for the other state.
    streak: u32,
}

impl DeadlineBudget {
    /// A budget per frame in milliseconds, or none.
    pub fn new(budget_ms: Option<f64>) -> Self {
        Self { budget_ms, ..Self::default() }
    }

    /// Changes the budget; what was learnt about the cost of frames stays.
    pub fn set(&mut self, budget_ms: Option<f64>) {
        self.budget_ms = budget_ms;
    }

    /// Whether frames are refined.
    pub fn state(&self) -> BudgetState {
        self.state
    }

    /// Pixels that a frame may refine, at most `capacity`, when it has taken `elapsed_ms` up to its selection.
    ///
    /// A backend that runs ahead of the caller's clock is taken to need what its reports said of earlier frames.
    pub fn pixels(&mut self, capacity: u32, elapsed_ms: f64) -> PixelBudget {
        let Some(budget_ms) = self.budget_ms else {
            self.state = BudgetState::Refining;
            return PixelBudget(capacity);
        };
        if self.frames == 0 {
            return PixelBudget(capacity / FIRST);
        }
        let rest_ms = budget_ms * FILL - elapsed_ms.max(self.front.mean) - self.tail.mean - self.tail.spread;
        let fitting = self.refinement.pixels(rest_ms, capacity);
        let least = (capacity / LEAST).max(1);
        let enough = match self.state {
            BudgetState::Refining => fitting >= least,
            BudgetState::CoarseOnly => fitting >= least.saturating_mul(2).min(capacity),
        };
        let (other, after) = match self.state {
            BudgetState::Refining => (BudgetState::CoarseOnly, STRIKES),
            BudgetState::CoarseOnly => (BudgetState::Refining, CALM),
        };
        let speaks_for_other = enough == (other == BudgetState::Refining);
        self.streak = if speaks_for_other { self.streak + 1 } else { 0 };
        if self.streak >= after {
            (self.state, self.streak) = (other, 0);
        }
        PixelBudget(if enough && self.state == BudgetState::Refining { fitting } else { 0 })
    }

    /// Learns from a finished frame.
    pub fn observe(&mut self, report: &FrameReport) {
        let stage = |stage| report.stages.get(stage);
        let refinement_ms = stage(Stage::Refine) + stage(Stage::Fuse);
        let tail_ms = stage(Stage::Select) + stage(Stage::Download);
        self.front.observe(report.stages.total_ms() - refinement_ms - tail_ms);
        self.tail.observe(tail_ms);
        if report.pixels_refined > 0 {
            self.refinement.observe(f64::from(report.pixels_refined), refinement_ms);
        } else {
            self.refinement.forget();
        }
        self.frames = self.frames.saturating_add(1);
    }
}

/// Running mean of a quantity and of how far it strays.
#[derive(Clone, Debug, Default)]
struct Running {
    mean: f64,
    spread: f64,
    count: u32,
}

impl Running {
    fn observe(&mut self, value: f64) {
        if self.count == 0 {
            self.mean = value;
        } else {
            self.spread += GAIN * ((value - self.mean).abs() - self.spread);
            self.mean += GAIN * (value - self.mean);
        }
        self.count = self.count.saturating_add(1);
    }
}

/// Milliseconds against pixels: a line through the recent frames, weighted by age.
#[derive(Clone, Debug, Default)]
struct PixelCost {
    weight: f64,
    pixels: f64,
    ms: f64,
    pixels_squared: f64,
    product: f64,
    /// How far frames lie off the line, in milliseconds.
    residual: Running,
}

impl PixelCost {
    fn observe(&mut self, pixels: f64, ms: f64) {
        if self.weight > 0.0 {
            let (fixed, slope) = self.line();
            self.residual.observe((ms - fixed - slope * pixels).abs());
        }
        let sums =
            [&mut self.weight, &mut self.pixels, &mut self.ms, &mut self.pixels_squared, &mut self.product];
        for (sum, value) in sums.into_iter().zip([1.0, pixels, ms, pixels * pixels, pixels * ms]) {
            *sum += value - GAIN * *sum;
        }
    }

    /// Cost of no pixel and cost per pixel. Where the numbers of pixels hardly differ, or the line would fall below zero,
    /// it goes through zero.
    fn line(&self) -> (f64, f64) {
        let (pixels, ms) = (self.pixels / self.weight, self.ms / self.weight);
        let variance = self.pixels_squared / self.weight - pixels * pixels;
        let slope = (self.product / self.weight - pixels * ms) / variance;
        let fixed = ms - slope * pixels;
        if variance > 1e-3 * pixels * pixels && slope > 0.0 && fixed > 0.0 {
            (fixed, slope)
        } else {
            (0.0, ms / pixels)
        }
    }

    /// Pixels that fit into `rest_ms`, at most `capacity`.
    fn pixels(&self, rest_ms: f64, capacity: u32) -> u32 {
        if rest_ms <= 0.0 {
            return 0;
        }
        if self.weight == 0.0 {
            // Nothing was refined yet. Try a little, to learn what it costs.
            return capacity / FIRST;
        }
        let (fixed, slope) = self.line();
        let fitting = (rest_ms - self.residual.mean - fixed) / slope;
        fitting.clamp(0.0, f64::from(capacity)) as u32
    }

    fn forget(&mut self) {
        self.ms *= FORGET;
        self.product *= FORGET;
        self.residual.mean *= FORGET;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u32 = 1_000_000;

    fn report(front_ms: f64, refine_ms: f64, pixels: u32) -> FrameReport {
        let mut report = FrameReport { pixels_refined: pixels, ..FrameReport::default() };
        report.stages.add(Stage::Segment, front_ms);
        report.stages.add(Stage::Refine, refine_ms);
        report
    }

    /// A backend that costs what it is told, on a clock that only it moves.
    struct Machine {
        front_ms: f64,
        fixed_ms: f64,
        ms_per_pixel: f64,
        wanted: u32,
    }

    impl Machine {
        /// One frame: its latency and the pixels refined.
        fn frame(&self, budget: &mut DeadlineBudget) -> (f64, u32) {
            let pixels = budget.pixels(CAPACITY, self.front_ms).0.min(self.wanted);
            let refine_ms =
                if pixels > 0 { self.fixed_ms + f64::from(pixels) * self.ms_per_pixel } else { 0.0 };
            budget.observe(&report(self.front_ms, refine_ms, pixels));
            (self.front_ms + refine_ms, pixels)
        }
    }

    const MACHINE: Machine = Machine { front_ms: 40.0, fixed_ms: 5.0, ms_per_pixel: 1e-4, wanted: u32::MAX };

    #[test]
    fn without_a_budget_the_capacity_is_the_limit() {
        let mut budget = DeadlineBudget::new(None);
        budget.observe(&report(1000.0, 1000.0, 10));
        assert_eq!(budget.pixels(500, 1e9), PixelBudget(500));
    }

    #[test]
    fn the_first_frame_measures_with_few_pixels() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        assert_eq!(budget.pixels(CAPACITY, 40.0), PixelBudget(CAPACITY / FIRST));
    }

    #[test]
    fn a_steady_cost_fills_the_budget_and_no_more() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        let frames: Vec<(f64, u32)> = (0..100).map(|_| MACHINE.frame(&mut budget)).collect();
        assert!(frames.iter().all(|(ms, _)| *ms <= 110.0), "{frames:?}");
        // 0.9 * 100 - 40 - 5 = 45 ms at 0.0001 ms a pixel.
        let (ms, pixels) = frames[99];
        assert!((85.0..=91.0).contains(&ms) && (400_000..=455_000).contains(&pixels), "{ms} {pixels}");
    }

    #[test]
    fn what_a_frame_has_taken_already_is_taken_off() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        for _ in 0..50 {
            MACHINE.frame(&mut budget);
        }
        let usual = budget.pixels(CAPACITY, 40.0).0;
        let late = budget.pixels(CAPACITY, 60.0).0;
        // The number of pixels never varied, so all of the refinement counts as cost per pixel.
        assert!((175_000..=205_000).contains(&(usual - late)), "20 ms less: {usual} {late}");
        assert_eq!(budget.pixels(CAPACITY, 5.0).0, usual, "a device that runs ahead of the clock");
    }

    #[test]
    fn a_new_budget_holds_at_once() {
        let mut budget = DeadlineBudget::new(None);
        (0..20).for_each(|n| {
            budget.observe(&report(40.0, 10.0 + f64::from(n), 100_000 + 10_000 * n as u32));
        });
        budget.set(Some(60.0));
        let PixelBudget(pixels) = budget.pixels(CAPACITY, 40.0);
        assert!((130_000..=141_000).contains(&pixels), "14 ms: {pixels}");
    }

    #[test]
    fn coarse_only_needs_several_frames_to_enter_and_to_leave() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        for _ in 0..20 {
            MACHINE.frame(&mut budget);
        }
        let slow = Machine { front_ms: 95.0, ..MACHINE };
        let states: Vec<BudgetState> = (0..5)
            .map(|_| {
                let (_, pixels) = slow.frame(&mut budget);
                assert_eq!(pixels, 0, "nothing fits, whatever the state");
                budget.state()
            })
            .collect();
        use BudgetState::{CoarseOnly, Refining};
        assert_eq!(states, [Refining, Refining, CoarseOnly, CoarseOnly, CoarseOnly]);
        // One good frame among bad ones does not bring refinement back.
        assert_eq!(budget.pixels(CAPACITY, 10.0), PixelBudget(0));
        slow.frame(&mut budget);
        let mut waited = 0;
        while budget.state() == CoarseOnly {
            MACHINE.frame(&mut budget);
            waited += 1;
        }
        assert!((CALM..=40).contains(&waited), "{waited} frames");
        assert!(MACHINE.frame(&mut budget).1 > 0);
    }

    #[test]
    fn one_slow_moment_does_not_end_refinement() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        let stuck = Machine { fixed_ms: 30_000.0, ..MACHINE };
        stuck.frame(&mut budget);
        let recovered = (0..2000).position(|_| MACHINE.frame(&mut budget).1 > 100_000);
        assert!(recovered.is_some_and(|frames| frames < 1000), "{recovered:?}");
    }

    #[test]
    fn jitter_is_kept_within_a_tenth_over_the_budget() {
        let mut budget = DeadlineBudget::new(Some(100.0));
        let mut noise = 12_345_u32;
        let mut late = 0;
        for _ in 0..2000 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let jitter = 0.9 + 0.2 * f64::from(noise >> 8) / f64::from(1 << 24);
            let machine = Machine { front_ms: 40.0 * jitter, ms_per_pixel: 1e-4 * jitter, ..MACHINE };
            late += u32::from(machine.frame(&mut budget).0 > 110.0);
        }
        assert!(late <= 20, "{late} of 2000 frames beyond 1.1 of the budget");
    }
}
