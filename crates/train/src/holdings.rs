//! What memory is for: measured as the model is set up, and told apart in each step.

use aios_base::error::Result;
use aios_device::{MemoryMeter, MemoryUse};
use aios_engine::OpenDevice;
use aios_metrics::MemoryByPurpose;

/// What is on the device from the first step on, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holdings {
    pub weights: u64,
    pub optimizer: u64,
}

/// Measures what is made between its looks.
pub struct Look<'a> {
    meter: &'a MemoryMeter,
    device: &'a dyn OpenDevice,
    before: u64,
}

/// What a step's meter shows as its update begins, and at its end.
#[derive(Clone, Copy, Debug)]
pub struct StepUse {
    pub before_update: u64,
    pub after: MemoryUse,
    /// Most at once within the step, where somebody looked.
    pub peak: Option<u64>,
}

impl<'a> Look<'a> {
    /// # Errors
    /// The device has failed.
    pub fn first(meter: &'a MemoryMeter, device: &'a dyn OpenDevice) -> Result<Self> {
        let mut look = Self {
            meter,
            device,
            before: 0,
        };
        look.again()?;
        Ok(look)
    }

    /// Bytes in use beyond those of the look before.
    ///
    /// # Errors
    /// The device has failed.
    pub fn again(&mut self) -> Result<u64> {
        // Pools count what has been sent to the device.
        self.device.confirm()?;
        let now = self.meter.sample()?.in_use_bytes;
        let before = std::mem::replace(&mut self.before, now);
        Ok(now.saturating_sub(before))
    }
}

impl Holdings {
    /// What the memory of a step was for.
    pub fn of_step(&self, used: &StepUse) -> MemoryByPurpose {
        let after = used.after.in_use_bytes;
        MemoryByPurpose {
            weights_bytes: self.weights,
            optimizer_bytes: self.optimizer,
            gradients_bytes: used.before_update.saturating_sub(after),
            activations_bytes: (used.peak)
                .map(|peak| peak.saturating_sub(used.before_update.max(after))),
            other_bytes: after.saturating_sub(self.weights + self.optimizer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(before_update: u64, after: u64, peak: Option<u64>) -> StepUse {
        StepUse {
            before_update,
            after: MemoryUse {
                in_use_bytes: after,
                ..MemoryUse::default()
            },
            peak,
        }
    }

    const HELD: Holdings = Holdings {
        weights: 10,
        optimizer: 20,
    };

    #[test]
    fn the_parts_of_a_step_add_up_to_its_peak() {
        let parts = HELD.of_step(&used(45, 35, Some(100)));
        let expected = MemoryByPurpose {
            weights_bytes: 10,
            optimizer_bytes: 20,
            gradients_bytes: 10,
            activations_bytes: Some(55),
            other_bytes: 5,
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_nobody_looked_at_is_not_zero() {
        assert_eq!(HELD.of_step(&used(45, 35, None)).activations_bytes, None);
    }

    #[test]
    fn an_update_that_leaves_more_than_it_found_has_no_gradients() {
        let parts = HELD.of_step(&used(30, 40, Some(50)));
        assert_eq!(
            (parts.gradients_bytes, parts.activations_bytes),
            (0, Some(10))
        );
    }
}
