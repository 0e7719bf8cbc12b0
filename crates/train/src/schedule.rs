//! Learning rate over the steps: linear warm-up, then a cosine or a constant.

use aios_base::config::{LrSchedule, TrainConfig};
use serde::{Deserialize, Serialize};

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

/// A rise from the rate that a run had to the one that its schedule has, in a straight line, after a resume with another
/// schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewarm {
    /// The last step at the old rate.
    pub from_step: u64,
    pub steps: u64,
    /// The old rate.
    pub rate: f64,
}

impl Rewarm {
    /// The rate of a step for which the schedule has `planned`.
    pub fn at(&self, step: u64, planned: f64) -> f64 {
        let done = step.saturating_sub(self.from_step) as f64 / self.steps as f64;
        self.rate + (planned - self.rate) * done.min(1.0)
    }
}

impl Schedule {
    /// As the settings have it.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            peak: config.lr,
            warmup: config.warmup(),
            steps: config.steps,
            shape: config.lr_schedule,
        }
    }

    /// Learning rate of a run's step, counted from 1, of which every `steps` are a cycle.
    pub fn at_step(&self, number: u64) -> f64 {
        self.at((number - 1) % self.steps + 1)
    }

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
    fn a_rise_begins_at_the_old_rate_and_ends_at_the_schedules() {
        let rewarm = Rewarm {
            from_step: 100,
            steps: 4,
            rate: 0.2,
        };
        let rates = [100, 101, 102, 104, 105].map(|step| rewarm.at(step, 1.0));
        for (rate, want) in rates.into_iter().zip([0.2, 0.4, 0.6, 1.0, 1.0]) {
            assert!((rate - want).abs() < 1e-12, "{rate}");
        }
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
