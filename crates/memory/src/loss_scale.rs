//! The loss scale of mixed precision, as PyTorch's `GradScaler` keeps it (Micikevicius et al., "Mixed
//! Precision Training", 2018).
//!
//! Gradients of f16 activations are often below 6e-8, the least that f16 holds. So the loss is
//! multiplied by a large factor before its backward pass and the f32 weight gradients are divided
//! by it after; the factor follows what the gradients' range allows.

use aios_base::error::{Error, Result};
use aios_tensor::Precision;

/// 2^16: PyTorch's choice. Too large a start costs a few skipped steps, too small a one precision.
const INITIAL: f64 = 65_536.0;
/// Good steps in a row after which twice the scale is tried.
const GROWTH_INTERVAL: u32 = 2000;
/// The least scale, as in DeepSpeed and Megatron (PyTorch has none): at 1 gradients are what they are.
/// A smaller one could only make room for gradients above 65,504, of a loss that is a mean over
/// tokens, by losing all that are of a usual size: f16 has then failed, and halving on for ever would
/// only hide it until the scale is 0 and every gradient a NaN.
const FLOOR: f64 = 1.0;
/// The largest, as in Apex: with it a gradient of 4e-12 is still a normal number of f16. Without an end
/// a run whose gradients are all zero would double the scale until it is infinite.
const CEILING: f64 = 16_777_216.0;

/// The loss scale and how it got there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaler {
    scale: f64,
    good_steps: u32,
    adapts: bool,
}

impl LossScaler {
    /// For this format: bf16 and f32 have the range of the gradients and need no scale.
    pub fn new(precision: Precision) -> Self {
        let adapts = precision == Precision::F16;
        Self {
            scale: if adapts { INITIAL } else { 1.0 },
            good_steps: 0,
            adapts,
        }
    }

    /// Check what a run saved that had a scale.
    ///
    /// # Errors
    /// No scale, or count of good steps, that this version could have come to.
    pub fn check_saved(scale: f64, good_steps: u32) -> Result<()> {
        if !(FLOOR..=CEILING).contains(&scale) {
            return Err(Error::failed(format!(
                "loss_scale is {scale:?}, and must be from {FLOOR} to {CEILING}"
            )));
        }
        if good_steps >= GROWTH_INTERVAL {
            return Err(Error::failed(format!(
                "good_steps is {good_steps}, and the loss scale changes after {GROWTH_INTERVAL}"
            )));
        }
        Ok(())
    }

    /// With what a run saved that had a scale, if this format uses one.
    pub fn restored(precision: Precision, scale: f64, good_steps: u32) -> Self {
        let fresh = Self::new(precision);
        match fresh.adapts {
            true => Self {
                scale,
                good_steps,
                ..fresh
            },
            false => fresh,
        }
    }

    /// Factor on the loss.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether the format uses a scale.
    pub fn adapts(&self) -> bool {
        self.adapts
    }

    /// Whether the scale cannot be any smaller, so that what overflows now always will.
    pub fn at_floor(&self) -> bool {
        self.adapts && self.scale <= FLOOR
    }

    /// Steps since the scale last changed.
    pub fn good_steps(&self) -> u32 {
        self.good_steps
    }

    /// Learn from a step: half the scale, 1 at the least, if its gradients overflowed, so that it was
    /// skipped; twice the scale after 2000 good ones, 2^24 at the most.
    pub fn update(&mut self, skipped: bool) {
        if !self.adapts {
            return;
        }
        if skipped {
            self.scale = (self.scale * 0.5).max(FLOOR);
            self.good_steps = 0;
            return;
        }
        self.good_steps += 1;
        if self.good_steps >= GROWTH_INTERVAL {
            self.scale = (self.scale * 2.0).min(CEILING);
            self.good_steps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_on_overflow_and_doubles_after_many_good_steps() {
        let mut scaler = LossScaler::new(Precision::F16);
        scaler.update(true);
        assert_eq!(scaler.scale(), 32_768.0);
        for _ in 0..1999 {
            scaler.update(false);
        }
        assert_eq!((scaler.scale(), scaler.good_steps()), (32_768.0, 1999));
        scaler.update(false);
        assert_eq!((scaler.scale(), scaler.good_steps()), (65_536.0, 0));
    }

    #[test]
    fn never_falls_below_1_and_recovers_from_there() {
        let mut scaler = LossScaler::new(Precision::F16);
        for _ in 0..16 {
            assert!(!scaler.at_floor());
            scaler.update(true);
        }
        for _ in 0..2000 {
            scaler.update(true);
            assert!(scaler.at_floor() && scaler.scale() == 1.0);
        }
        (0..2000).for_each(|_| scaler.update(false));
        assert_eq!(scaler.scale(), 2.0);
    }

    #[test]
    fn never_grows_beyond_what_f32_holds_easily() {
        let mut scaler = LossScaler::new(Precision::F16);
        (0..2000 * 2000).for_each(|_| scaler.update(false));
        assert_eq!(scaler.scale(), 16_777_216.0);
        LossScaler::check_saved(scaler.scale(), scaler.good_steps()).unwrap();
    }

    #[test]
    fn what_no_run_can_have_saved_is_refused() {
        for scale in [1.0, 1.5, 65_536.0, 16_777_216.0] {
            LossScaler::check_saved(scale, 1999).unwrap();
        }
        let bad = [0.0, -1.0, 0.5, 1e-300, 1e30, f64::INFINITY, f64::NAN];
        for scale in bad {
            let error = LossScaler::check_saved(scale, 0).unwrap_err().to_string();
            assert!(error.contains("loss_scale") && error.contains(&format!("{scale:?}")));
        }
        let error = LossScaler::check_saved(1.0, 2000).unwrap_err().to_string();
        assert!(error.contains("good_steps is 2000"), "{error}");
    }

    #[test]
    fn an_overflow_starts_the_count_anew() {
        let mut scaler = LossScaler::restored(Precision::F16, 1024.0, 1999);
        scaler.update(true);
        scaler.update(false);
        assert_eq!((scaler.scale(), scaler.good_steps()), (512.0, 1));
    }

    #[test]
    fn formats_with_the_range_of_f32_are_not_scaled() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut scaler = LossScaler::restored(precision, 1024.0, 7);
            scaler.update(true);
            assert_eq!(scaler.scale(), 1.0);
        }
    }
}
