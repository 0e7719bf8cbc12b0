//! Learning rate over the steps: linear warm-up, then a cosine or a constant.

use crate::config::LrSchedule;

/// The cosine ends at this share of the peak: a rate of zero would waste the last steps.
const FINAL_SHARE: f64 = 0.1;

/// A schedule over `steps` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub warmup: u64,
    pub steps: u64,
    pub shape: LrSchedule,
}

impl Schedule {
    /// Learning rate of step `step`, counted from 1.
    pub fn at(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        match self.shape {
            LrSchedule::Constant => self.peak,
            LrSchedule::Cosine => {
                let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = ((step - self.warmup) as f64 / length).min(1.0);
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.peak * (FINAL_SHARE + (1.0 - FINAL_SHARE) * wave)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_a_tenth() {
        let schedule = Schedule {
            peak: 1.0,
            warmup: 10,
            steps: 110,
            shape: LrSchedule::Cosine,
        };
        assert!((schedule.at(1) - 0.1).abs() < 1e-12);
        assert!((schedule.at(10) - 1.0).abs() < 1e-12);
        assert!((schedule.at(60) - 0.55).abs() < 1e-12);
        assert!((schedule.at(110) - 0.1).abs() < 1e-12);
        assert!((schedule.at(500) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn without_warmup_the_first_step_is_at_full_rate() {
        let schedule = Schedule {
            peak: 2.0,
            warmup: 0,
            steps: 5,
            shape: LrSchedule::Constant,
        };
        assert_eq!(schedule.at(1), 2.0);
    }
}
