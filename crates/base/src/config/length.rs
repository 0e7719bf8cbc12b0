//! How long a run is, in steps or in passes over its dataset.

use crate::config::{LARGEST_COUNT, TrainConfig};
use crate::error::{Error, Result};

/// Most passes over a dataset: a run of more of them never ends either.
const MOST_EPOCHS: f64 = LARGEST_COUNT as f64;

/// By how much of itself a product of decimal fractions is off: 0.7 passes over 10 sequences are 7, not a little more.
const ROUNDING: f64 = 1e-9;

/// Steps that so many passes over a dataset take, of which the last may go beyond them.
///
/// `sequences` are those of a pass, `step` those of a step; at least 1 step.
pub fn steps_of(epochs: f64, sequences: u64, step: u64) -> u64 {
    let exact = epochs * sequences as f64 / step.max(1) as f64;
    let whole = exact.round();
    let steps = match (exact - whole).abs() <= ROUNDING * whole {
        true => whole,
        false => exact.ceil(),
    };
    (steps as u64).max(1)
}

impl TrainConfig {
    /// Puts the steps that `epochs` take in its place, now that the dataset is known to have so many sequences, and
    /// checks what depends on them. Returns what was asked for.
    ///
    /// # Errors
    /// More warm-up than steps, or more steps than can be counted.
    pub fn resolve_epochs(&mut self, sequences: u64) -> Result<Option<f64>> {
        let Some(epochs) = self.epochs.take() else {
            return Ok(None);
        };
        self.steps = steps_of(epochs, sequences, self.effective_batch() as u64);
        if self.warmup() > self.steps {
            return Err(Error::invalid(format!(
                "--warmup-steps {} is more than the {} steps of --epochs {epochs}, so that the full rate is never \
                 reached: lower the one or raise the other",
                self.warmup(),
                self.steps
            )));
        }
        self.validate_range()?;
        Ok(Some(epochs))
    }

    pub(super) fn validate_epochs(&self) -> Result<()> {
        match self.epochs {
            Some(epochs) if !(epochs > 0.0 && epochs <= MOST_EPOCHS) => {
                Err(Error::invalid(format!(
                    "--epochs is {epochs}: it must be above 0 and at most {MOST_EPOCHS}, such as 3 or 0.5"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(epochs: f64) -> TrainConfig {
        TrainConfig {
            epochs: Some(epochs),
            batch_size: 4,
            gradient_accumulation_steps: 2,
            dataset_file: Some("text.txt".into()),
            ..TrainConfig::default()
        }
    }

    #[test]
    fn steps_cover_the_passes() {
        // 100 sequences, 8 a step: 12.5 steps a pass.
        for (epochs, steps) in [(1.0, 13), (2.0, 25), (3.0, 38), (0.5, 7), (1e-6, 1)] {
            assert_eq!(steps_of(epochs, 100, 8), steps, "{epochs}");
        }
    }

    #[test]
    fn decimal_fractions_add_no_step() {
        for tenths in 1..=100_u64 {
            let epochs = tenths as f64 * 0.1;
            assert_eq!(steps_of(epochs, 1_000_000, 10), tenths * 10_000);
        }
    }

    #[test]
    fn epochs_become_steps_and_the_warm_up_follows() {
        let mut config = config(16.0);
        config.validate().unwrap();
        assert_eq!(config.resolve_epochs(100).unwrap(), Some(16.0));
        assert_eq!((config.steps, config.warmup()), (200, 20));
        assert_eq!(config.epochs, None);
        assert_eq!(config.resolve_epochs(7).unwrap(), None);
        assert_eq!(config.steps, 200);
    }

    #[test]
    fn a_warm_up_is_measured_by_the_steps_of_the_epochs() {
        let mut config = config(1.0);
        // More than the steps that there are by default, which play no part.
        config.warmup_steps = Some(201);
        config.validate().unwrap();
        let error = config.resolve_epochs(100).unwrap_err().to_string();
        assert!(error.contains("13 steps of --epochs 1"), "{error}");
        let mut config = TrainConfig {
            epochs: Some(1000.0),
            ..config
        };
        config.warmup_steps = Some(201);
        assert!(config.resolve_epochs(100).is_ok());
    }

    #[test]
    fn impossible_numbers_of_epochs_are_refused() {
        for epochs in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let error = config(epochs).validate().unwrap_err().to_string();
            assert!(error.contains("--epochs is"), "{error}");
        }
    }
}
