//! The engine on each Burn backend that was built in, each in a crate of its own, so that they build side by side.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_base::error::Result;
use aios_device::Selected;
use aios_engine::OpenDevice;

/// Start a device.
///
/// # Errors
/// Its driver refuses.
pub fn open(selected: &Selected) -> Result<Box<dyn OpenDevice>> {
    selected.open()?;
    Ok(match selected {
        Selected::Cpu => aios_backend_cpu::open(),
        #[cfg(feature = "ndarray")]
        Selected::Ndarray => aios_backend_ndarray::open(),
        // No such device is offered then.
        #[cfg(not(feature = "ndarray"))]
        Selected::Ndarray => aios_backend_cpu::open(),
        #[cfg(feature = "cuda")]
        Selected::Cuda(device) => aios_backend_cuda::open(device.clone()),
        #[cfg(feature = "wgpu")]
        Selected::Wgpu { device, .. } => aios_backend_wgpu::open(device.clone()),
    })
}
