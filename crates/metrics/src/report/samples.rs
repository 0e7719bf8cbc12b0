//! Generated texts of a run: enough of them to see how they change, however long the run is.

use serde::Serialize;

/// Most texts that are kept.
const MOST: usize = 64;

/// A generated text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub step: u64,
    pub text: String,
}

/// Every n-th text, of which there are more than half and at most as many as can be kept, and the last one.
///
/// Runs that sample at the same steps keep those of the same steps, for as long as they are.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// With their numbers, from 0.
    kept: Vec<(u64, Sample)>,
    /// The logarithm to base 2 of n.
    apart: u32,
    /// Texts so far.
    count: u64,
}

impl Samples {
    /// The next one.
    pub fn push(&mut self, sample: Sample) {
        let apart = self.apart;
        self.kept
            .pop_if(|(number, _)| !number.is_multiple_of(1 << apart));
        self.kept.push((self.count, sample));
        self.count += 1;
        if self.kept.len() > MOST {
            self.apart += 1;
            let (every, last) = (1 << self.apart, self.count - 1);
            self.kept
                .retain(|(number, _)| number.is_multiple_of(every) || *number == last);
        }
    }

    /// Those after this step were not saved, and come again.
    pub fn go_on_from(&mut self, step: u64) {
        self.kept.retain(|(_, sample)| sample.step <= step);
        self.count = self.kept.last().map_or(0, |(number, _)| number + 1);
    }

    /// Those that are kept, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.kept.iter().map(|(_, sample)| sample)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: impl Iterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        for step in steps {
            let text = step.to_string();
            samples.push(Sample { step, text });
        }
        samples
    }

    fn steps(samples: &Samples) -> Vec<u64> {
        samples.iter().map(|sample| sample.step).collect()
    }

    #[test]
    fn few_are_all_kept() {
        let most = MOST as u64;
        assert_eq!(steps(&of(1..=most)), (1..=most).collect::<Vec<_>>());
    }

    #[test]
    fn of_many_there_are_the_first_the_last_and_some_evenly_between() {
        for last in [65, 66, 1000, 12_345] {
            let samples = of(0..=last);
            let steps = steps(&samples);
            assert!(steps.len() <= MOST + 1 && steps.len() > MOST / 2, "{last}");
            assert_eq!((steps[0], steps[steps.len() - 1]), (0, last));
            let apart = steps[1] - steps[0];
            let even = |pair: &[u64]| pair[1] - pair[0] == apart || pair[1] == last;
            assert!(steps.windows(2).all(even), "{steps:?}");
            assert_eq!(samples.count(), last + 1);
        }
    }

    #[test]
    fn runs_of_other_lengths_keep_the_same_steps() {
        let (short, long) = (steps(&of(0..100)), steps(&of(0..100_000)));
        let before = |step: &&u64| **step < 99;
        assert!(long.iter().filter(before).all(|step| short.contains(step)));
    }

    #[test]
    fn what_was_not_saved_comes_again() {
        let mut samples = of((1..=9).map(|n| 10 * n));
        samples.go_on_from(45);
        assert_eq!(steps(&samples), [10, 20, 30, 40]);
        assert_eq!(samples.count(), 4);
    }
}
