//! Where the time of the first steps goes, operation by operation, as the CPU's kernels note it.

use aios_kernels::profile::{self, Operation};
use aios_metrics::{OperationTime, Operations};
use std::time::Instant;

/// Steps that are taken apart.
const STEPS: u64 = 3;

/// Takes steps apart until there are enough of them.
#[derive(Debug, Default)]
pub struct Recorder {
    steps: u64,
    seconds: f64,
    sums: Vec<Operation>,
    warm: bool,
}

impl Recorder {
    /// Run a step. Noting costs two looks at the clock an operation: nothing beside its work.
    pub fn step<R>(&mut self, step: impl FnOnce() -> R) -> R {
        // The first one also takes pages from the system.
        if !std::mem::replace(&mut self.warm, true) || self.is_done() {
            return step();
        }
        let started = Instant::now();
        let (result, own) = profile::record(step);
        self.seconds += started.elapsed().as_secs_f64();
        self.steps += 1;
        own.into_iter()
            .for_each(|own| profile::add(&mut self.sums, own));
        result
    }

    fn is_done(&self) -> bool {
        self.steps == STEPS
    }

    /// What was found, once: after the last of the steps, of which this is the number.
    pub fn take(&mut self, step: u64) -> Option<Operations> {
        let mut sums = std::mem::take(&mut self.sums);
        if !self.is_done() || sums.is_empty() {
            self.sums = sums;
            return None;
        }
        sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let each = |n: f64| n / STEPS as f64;
        let of = |sum: &Operation| OperationTime {
            name: sum.name.to_string(),
            calls: each(sum.calls as f64),
            seconds: each(sum.seconds),
        };
        Some(Operations {
            step,
            steps: STEPS,
            seconds: each(self.seconds),
            operations: sums.iter().map(of).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_kernels::profile::note;

    fn work() {
        for name in ["a", "b", "a"] {
            drop(note(name, || (0, 0)));
        }
    }

    #[test]
    fn the_first_step_warms_up_and_the_next_ones_are_told_once() {
        let mut recorder = Recorder::default();
        for step in 1..=STEPS {
            recorder.step(work);
            assert_eq!(recorder.take(step), None, "after {step}");
        }
        recorder.step(work);
        let told = recorder.take(STEPS + 1).unwrap();
        assert_eq!((told.step, told.steps), (STEPS + 1, STEPS));
        let mut calls: Vec<_> = told
            .operations
            .iter()
            .map(|o| (&o.name[..], o.calls))
            .collect();
        calls.sort_by_key(|(name, _)| *name);
        assert_eq!(calls, [("a", 2.0), ("b", 1.0)]);
        recorder.step(work);
        assert_eq!(recorder.take(STEPS + 2), None);
    }

    #[test]
    fn a_device_that_notes_nothing_tells_nothing() {
        let mut recorder = Recorder::default();
        for step in 1..=2 * STEPS {
            recorder.step(|| ());
            assert_eq!(recorder.take(step), None);
        }
    }
}
