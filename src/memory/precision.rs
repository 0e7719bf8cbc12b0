//! The loss scale of mixed precision, as PyTorch's `GradScaler` keeps it (Micikevicius et al., "Mixed
//! Precision Training", 2018).
//!
//! Gradients of f16 activations are often below 6e-8, the least that f16 holds. So the loss is
//! multiplied by a large factor before its backward pass and the f32 weight gradients are divided
//! by it after; the factor follows what the gradients' range allows.

use crate::ops::Precision;

/// 2^16: PyTorch's choice. Too large a start costs a few skipped steps, too small a one precision.
const INITIAL: f64 = 65_536.0;
/// Good steps in a row after which twice the scale is tried.
const GROWTH_INTERVAL: u32 = 2000;

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

    /// Steps since the scale last changed.
    pub fn good_steps(&self) -> u32 {
        self.good_steps
    }

    /// Learn from a step: half the scale if its gradients overflowed, so that it was skipped;
    /// twice the scale after 2000 good ones.
    pub fn update(&mut self, skipped: bool) {
        if !self.adapts {
            return;
        }
        if skipped {
            self.scale *= 0.5;
            self.good_steps = 0;
            return;
        }
        self.good_steps += 1;
        if self.good_steps == GROWTH_INTERVAL {
            self.scale *= 2.0;
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
