//! What the runtimes say of their memory pools.

use crate::Selected;
use aios_base::error::Result;

impl Selected {
    /// Bytes in use and reserved in the runtime's pools for the calling thread; `None` on the heap.
    pub(super) fn pools(&self) -> Result<Option<(u64, u64)>> {
        match self {
            Self::Cpu | Self::Ndarray => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => of_gpu::pools::<cubecl::cuda::CudaRuntime>(device).map(Some),
            #[cfg(feature = "wgpu")]
            Self::Wgpu { device, .. } => {
                of_gpu::pools::<cubecl::wgpu::WgpuRuntime>(device).map(Some)
            }
        }
    }

    /// Bytes of the largest buffer that the runtime gives; `None` on the heap.
    pub(super) fn largest_page(&self) -> Result<Option<u64>> {
        match self {
            Self::Cpu | Self::Ndarray => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => {
                of_gpu::largest_page::<cubecl::cuda::CudaRuntime>(device).map(Some)
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu { device, .. } => {
                of_gpu::largest_page::<cubecl::wgpu::WgpuRuntime>(device).map(Some)
            }
        }
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod of_gpu {
    use aios_base::error::{Error, Result};
    use aios_base::fault::{guarded, one_line};
    use cubecl::Runtime;

    pub fn pools<R: Runtime>(device: &R::Device) -> Result<(u64, u64)> {
        let usage = guarded(|| R::client(device).memory_usage())?.map_err(|error| {
            let cause = one_line(&error.to_string());
            // It has failed in work that nobody has waited for.
            Error::Device(format!("the device reports no memory use: {cause}"))
        })?;
        Ok((usage.bytes_in_use, usage.bytes_reserved))
    }

    pub fn largest_page<R: Runtime>(device: &R::Device) -> Result<u64> {
        guarded(|| R::client(device).properties().memory.max_page_size)
    }
}
