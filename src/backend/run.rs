//! From the device chosen at run time to code that is generic over its backend.

use super::fault::one_line;
use super::{Selected, guarded};
use crate::error::{Error, Result};
use crate::ops::Ops;

/// The CPU: Burn's Flex tensors.
pub type CpuBackend = burn_flex::Flex;
/// Any GPU through Vulkan, Metal or Direct3D 12.
pub type WgpuBackend = burn::backend::Wgpu<f32, i32, u32>;
/// NVIDIA GPUs.
pub type CudaBackend = burn::backend::Cuda<f32, i32>;

/// Work that runs on whichever backend the device needs.
pub trait DeviceJob {
    /// What the work gives.
    type Output;

    /// Do it.
    fn run<B: Ops>(self, device: B::Device) -> Self::Output;
}

impl Selected {
    /// Run a job on this device.
    pub fn run<J: DeviceJob>(&self, job: J) -> J::Output {
        match self {
            Self::Cpu => job.run::<CpuBackend>(burn_flex::FlexDevice),
            Self::Cuda(device) => job.run::<CudaBackend>(device.clone()),
            Self::Wgpu { device, .. } => job.run::<WgpuBackend>(device.clone()),
        }
    }
}

/// Do device work and wait for it. Its result is believed only if the device reports no failure:
/// without the wait, a failed allocation would pass for a result.
///
/// # Errors
/// [`Error::OutOfMemory`] if a buffer was refused, which leaves everything as it was before the
/// work; [`Error::Device`] with what the device reports, or a panic in the work.
pub fn confirmed<B: burn::tensor::backend::Backend, T>(
    device: &B::Device,
    work: impl FnOnce() -> T,
) -> Result<T> {
    let outcome = guarded(|| {
        let value = work();
        B::sync(device).map(|()| value)
    })?;
    outcome.map_err(|error| Error::Device(one_line(&error.to_string())))
}
