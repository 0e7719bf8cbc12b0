//! The Burn backends that there are, and how their work is believed.

use aios_base::error::{Error, Result};
use aios_base::fault::{guarded, one_line};
use burn::tensor::backend::Backend;

/// The CPU: Burn's Flex tensors.
pub type CpuBackend = burn_flex::Flex;
/// The same by plain tensor operations alone: the reference of all others.
#[cfg(feature = "ndarray")]
pub type NdarrayBackend = burn_ndarray::NdArray<f32, i32>;

/// Do device work and wait for it. Its result is believed only if the device reports no failure:
/// without the wait, a failed allocation would pass for a result.
///
/// # Errors
/// [`Error::OutOfMemory`] if a buffer was refused, which leaves everything as it was before the
/// work; [`Error::Device`] with what the device reports, or a panic in the work.
pub fn confirmed<B: Backend, T>(device: &B::Device, work: impl FnOnce() -> T) -> Result<T> {
    let outcome = guarded(|| {
        let value = work();
        B::sync(device).map(|()| value)
    })?;
    outcome.map_err(|error| Error::Device(one_line(&error.to_string())))
}

/// Ask for device work without waiting for it: whether it was done is known when [`confirmed`] has waited for some later
/// work on the same thread.
///
/// # Errors
/// As [`confirmed`], as far as a failure is known already.
pub fn asked<T>(work: impl FnOnce() -> T) -> Result<T> {
    guarded(work)
}
