//! A smaller micro-batch for the same step, after memory ran out.

use aios_base::config::TrainConfig;

/// How a step's sequences are divided into micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Sequences in a micro-batch; at least 1.
    pub batch_size: usize,
    /// Micro-batches in a step; at least 1.
    pub accumulation: usize,
}

impl Split {
    /// As the configuration has it.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            batch_size: config.batch_size,
            accumulation: config.gradient_accumulation_steps,
        }
    }

    /// The configuration divided like this.
    pub fn apply(self, config: &mut TrainConfig) {
        config.batch_size = self.batch_size;
        config.gradient_accumulation_steps = self.accumulation;
    }

    /// Sequences in a step.
    pub fn effective(self) -> usize {
        self.batch_size * self.accumulation
    }

    /// The same step in micro-batches of this size, which divides it.
    pub fn in_batches_of(self, batch_size: usize) -> Self {
        Self {
            batch_size,
            accumulation: self.effective() / batch_size,
        }
    }

    /// A rank's part where this was that of each of `before` ranks and there are `now`, in micro-batches of at most `most`
    /// sequences. `None` if these cannot share the step evenly.
    pub fn among(self, before: usize, now: usize, most: usize) -> Option<Self> {
        let sequences = self.effective() * before;
        let whole = Self {
            batch_size: sequences / now,
            accumulation: 1,
        };
        let all = std::iter::once(whole).chain(whole.smaller());
        let mut fitting = all.filter(|split| split.batch_size <= most);
        let even = sequences > 0 && sequences.is_multiple_of(now);
        even.then(|| fitting.next())?
    }

    /// The same step in smaller micro-batches, of every size that divides it, the largest first.
    pub fn smaller(self) -> Vec<Self> {
        let effective = self.effective();
        let root = effective.isqrt();
        let pairs = (1..=root).filter(|size| effective.is_multiple_of(*size));
        let mut sizes: Vec<usize> = pairs.flat_map(|size| [size, effective / size]).collect();
        sizes.retain(|&size| size < self.batch_size);
        sizes.sort_unstable();
        sizes.dedup();
        let split = |batch_size| self.in_batches_of(batch_size);
        sizes.into_iter().rev().map(split).collect()
    }

    /// The flags that ask for it.
    pub fn flags(self) -> String {
        format!(
            "--batch-size {} --gradient-accumulation-steps {}",
            self.batch_size, self.accumulation
        )
    }

    /// The largest micro-batch of at most half this size that divides the step without a remainder, so that the same
    /// sequences make up each step and the result stays; `None` for a micro-batch of one sequence.
    pub fn halved(self) -> Option<Self> {
        let half = self.batch_size / 2;
        let mut smaller = self.smaller().into_iter();
        smaller.find(|split| split.batch_size <= half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(batch_size: usize, accumulation: usize) -> Split {
        Split {
            batch_size,
            accumulation,
        }
    }

    #[test]
    fn the_same_step_is_divided_among_other_ranks() {
        assert_eq!(split(8, 1).among(1, 4, 8), Some(split(2, 1)));
        assert_eq!(split(2, 1).among(4, 1, 2), Some(split(2, 4)));
        assert_eq!(split(2, 1).among(4, 1, 8), Some(split(8, 1)));
        assert_eq!(split(4, 3).among(2, 3, 4), Some(split(4, 2)));
        assert_eq!(split(2, 1).among(4, 3, 2), None);
    }

    #[test]
    fn even_batches_are_halved() {
        assert_eq!(split(8, 1).halved(), Some(split(4, 2)));
        assert_eq!(split(4, 2).halved(), Some(split(2, 4)));
        assert_eq!(split(2, 4).halved(), Some(split(1, 8)));
    }

    #[test]
    fn others_become_the_nearest_divisor_below_the_half() {
        assert_eq!(split(3, 1).halved(), Some(split(1, 3)));
        assert_eq!(split(7, 1).halved(), Some(split(1, 7)));
        assert_eq!(split(9, 1).halved(), Some(split(3, 3)));
        // The divisors of the step count, not those of the batch.
        assert_eq!(split(5, 2).halved(), Some(split(2, 5)));
        assert_eq!(split(9, 4).halved(), Some(split(4, 9)));
    }

    #[test]
    fn smaller_ones_are_all_divisors_of_the_step() {
        let sizes = |split: Split| -> Vec<usize> {
            let smaller = split.smaller().into_iter();
            smaller
                .map(|s| {
                    assert_eq!(s.effective(), split.effective());
                    s.batch_size
                })
                .collect()
        };
        assert_eq!(sizes(split(12, 1)), [6, 4, 3, 2, 1]);
        assert_eq!(sizes(split(9, 4)), [6, 4, 3, 2, 1]);
        assert_eq!(sizes(split(7, 1)), [1]);
        assert!(sizes(split(1, 30)).is_empty());
    }

    #[test]
    fn one_sequence_cannot_be_halved() {
        assert_eq!(split(1, 1).halved(), None);
        assert_eq!(split(1, 8).halved(), None);
    }

    #[test]
    fn the_step_stays_whole_and_it_ends_at_one() {
        for batch_size in 1..=40 {
            for accumulation in 1..=6 {
                let mut now = split(batch_size, accumulation);
                while let Some(next) = now.halved() {
                    assert_eq!(next.effective(), batch_size * accumulation);
                    assert!(next.batch_size <= now.batch_size / 2, "{now:?} {next:?}");
                    now = next;
                }
                assert_eq!(now.batch_size, 1);
            }
        }
    }
}
