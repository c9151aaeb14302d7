//! The regularity of a camera's stamps: frames that never came, and time that jumped.

use crate::types::Stamp;

/// Finds missing frames by the stamps of those that came: the middleware tells neither sequence numbers nor losses.
#[derive(Default)]
pub struct StampGaps {
    previous: Option<Stamp>,
    /// The newest distances in ns, oldest first.
    distances: Vec<i64>,
}

/// What one stamp says about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// As many frames are missing before this one.
    Forward(u64),
    /// The recording began again, or the clock was set.
    Backward,
}

impl StampGaps {
    /// Distances the period is the median of.
    const WINDOW: usize = 15;

    /// Notes the stamp of the next frame.
    pub fn step(&mut self, stamp: Stamp) -> Step {
        let Some(previous) = self.previous.replace(stamp) else { return Step::Forward(0) };
        let distance = stamp.as_nanos() - previous.as_nanos();
        if distance < 0 {
            self.distances.clear();
            return Step::Backward;
        }
        let missing = match self.period() {
            Some(period) if period > 0 => {
                ((distance as f64 / period as f64).round() as u64).saturating_sub(1)
            }
            _ => 0,
        };
        if self.distances.len() == Self::WINDOW {
            self.distances.remove(0);
        }
        self.distances.push(distance);
        Step::Forward(missing)
    }

    /// Median distance, once there are enough to tell a gap from the rule.
    fn period(&self) -> Option<i64> {
        if self.distances.len() < 3 {
            return None;
        }
        let mut sorted = self.distances.clone();
        sorted.sort_unstable();
        Some(sorted[sorted.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(ms: &[i64]) -> Vec<Step> {
        let mut gaps = StampGaps::default();
        ms.iter().map(|&ms| gaps.step(Stamp::from_nanos(ms * 1_000_000))).collect()
    }

    #[test]
    fn missing_frames_are_found_despite_jitter() {
        let found = steps(&[0, 101, 199, 302, 400, 700, 805, 900, 1400]);
        let missing: Vec<Step> = found.into_iter().filter(|step| *step != Step::Forward(0)).collect();
        assert_eq!(missing, [Step::Forward(2), Step::Forward(4)]);
    }

    #[test]
    fn a_loop_is_a_jump_and_not_a_gap() {
        let found = steps(&[0, 100, 200, 300, 400, 0, 100, 200]);
        assert_eq!(found[5], Step::Backward);
        assert!(found.iter().enumerate().all(|(i, step)| i == 5 || *step == Step::Forward(0)), "{found:?}");
    }
}
