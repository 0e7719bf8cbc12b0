//! How steps are computed at the moment, which a lack of memory may change.

use aios_base::config::TrainConfig;
use aios_plan::Plan;
use aios_process::split::Split;

/// The settings of a run and how its steps are computed.
pub struct StepForm {
    pub config: TrainConfig,
    pub plan: Plan,
    /// How steps were to be divided before any back-off: what is saved, and what evaluations go by.
    pub asked: Split,
    /// Micro-batch for a process that takes up the run if this one dies; 0 if none would do.
    pub after_a_death: usize,
    /// Steps of this form so far: the first ones are where memory is watched closely.
    pub steps_alike: u64,
}

impl StepForm {
    pub fn new(config: TrainConfig, plan: Plan, asked: Split) -> Self {
        Self {
            config,
            plan,
            asked,
            after_a_death: 0,
            steps_alike: 0,
        }
    }

    /// How steps are divided now.
    pub fn split(&self) -> Split {
        Split::of(&self.config)
    }
}
